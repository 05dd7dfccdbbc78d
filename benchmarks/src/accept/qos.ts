import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AcceptReport } from '../harness/accept-report.ts';
import { parseOptions } from '../harness/parse-options.ts';
import { cost } from './qos/cost.ts';
import { limits } from './qos/limits.ts';
import { neighbour } from './qos/neighbour.ts';
import type { QosStage } from './qos/stage.ts';
import { together } from './qos/together.ts';

/** Each adds its lines; one that needs what the machine has not throws with what is missing. */
const parts: Record<string, (stage: QosStage) => Promise<void>> = {
  limits,
  neighbour,
  cost,
  together,
};

const usage = `usage: npm run accept -- qos [PART...] [--rounds N] [--quick] [--dir DIR]
Shows what is promised of limits, guarantees and neighbours.

  parts      ${Object.keys(parts).join(', ')}; default: all
  --rounds   default 9; --quick: the short form
  --dir      where the disks lie: a file system of this machine, not one in memory`;

const { positionals, values } = parseOptions(usage, {
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '9' },
    quick: { type: 'boolean', default: false },
    // where the disks lie; a file system of this machine, not one in memory
    dir: { type: 'string', default: tmpdir() },
  },
});

async function run(): Promise<number> {
  const report = new AcceptReport();
  for (const [name, part] of Object.entries(parts)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue;
    const dir = mkdtempSync(join(values.dir, `stor-accept-qos-${name}-`));
    const stage = { dir, report, rounds: Number(values.rounds), quick: values.quick };
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
