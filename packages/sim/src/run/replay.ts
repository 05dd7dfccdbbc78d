import { SeedRun } from './run-seed.ts';

/** node replay.js SEED MINUTES [--verbose]: one seed, told in full. */
const [seed = '1', minutes = '10', verbose] = process.argv.slice(2);
const report = await new SeedRun({
  seed: Number(seed),
  minutes: Number(minutes),
  ...(verbose ? { log: (line: string) => process.stdout.write(`${line}\n`) } : {}),
}).run();
process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
process.exitCode = report.violations.length > 0 ? 1 : 0;
