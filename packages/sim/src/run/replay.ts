import { SeedRun, type SeedOptions } from './run-seed.ts';

/** node replay.js OPTIONS-AS-JSON [--verbose]: one run, told in full. */
const [given = '{}', verbose] = process.argv.slice(2);
const options: SeedOptions = {
  seed: 1,
  minutes: 10,
  ...(JSON.parse(given) as Partial<SeedOptions>),
};
const report = await new SeedRun({
  ...options,
  ...(verbose ? { log: (line: string) => process.stdout.write(`${line}\n`) } : {}),
}).run();
process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
process.exitCode = report.violations.length > 0 ? 1 : 0;
