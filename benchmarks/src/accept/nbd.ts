import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { AcceptReport } from '../harness/accept-report.ts';
import { authorization } from './nbd/authorization.ts';
import { clients } from './nbd/clients.ts';
import type { NbdStage } from './nbd/stage.ts';
import { fuzz, tests } from './nbd/tests.ts';

/** Each adds its lines; one that needs what the machine has not throws with what is missing. */
const parts: Record<string, (stage: NbdStage) => Promise<void>> = {
  clients,
  authorization,
  ...tests,
  fuzz,
};

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    // of both fuzzers together
    'fuzz-minutes': { type: 'string', default: '20' },
    dir: { type: 'string', default: tmpdir() },
  },
});

async function run(): Promise<number> {
  const report = new AcceptReport();
  for (const [name, part] of Object.entries(parts)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue;
    const dir = mkdtempSync(join(values.dir, `stor-accept-nbd-${name}-`));
    const stage = { dir, report, fuzzMinutes: Number(values['fuzz-minutes']) };
    await report.part(name, () => part(stage));
    rmSync(dir, { recursive: true, force: true });
  }
  return report.finish() ? 0 : 1;
}

const unknown = positionals.filter((name) => !(name in parts));
if (unknown.length > 0) {
  process.stderr.write(
    `error: no part ${unknown.join(', ')}; there are: ${Object.keys(parts).join(', ')}\n`,
  );
  process.exitCode = 2;
} else process.exitCode = await run();
