import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AcceptReport } from '../harness/accept-report.ts';
import { parseOptions } from '../harness/parse-options.ts';
import { bitFlips } from './store/bit-flips.ts';
import { brim } from './store/brim.ts';
import { checksums } from './store/checksums.ts';
import { segments } from './store/segments.ts';
import { dyingDisk } from './store/dying-disk.ts';
import { snapshots } from './store/snapshots.ts';
import { startUp } from './store/start-up.ts';
import { wideVolumes } from './store/wide-volumes.ts';
import type { StoreStage } from './store/stage.ts';

/** One line each; a part that needs what the machine has not throws with what is missing. */
const parts: Record<string, (stage: StoreStage) => Promise<void>> = {
  'start-up': startUp,
  'bit-flips': bitFlips,
  brim,
  segments,
  'dying-disk': dyingDisk,
  snapshots,
  checksums,
  wide: wideVolumes,
};

const usage = `usage: npm run accept -- store [PART...] [--rounds N] [--quick] [--dir DIR] [--keep]
Shows what is promised of the store, part by part.

  parts      ${Object.keys(parts).join(', ')}; default: all
  --rounds   default 9; --quick: the short form
  --dir      where the disks lie: a file system of this machine, not one in memory
  --keep     leaves the folders with logs and disks`;

const { positionals, values } = parseOptions(usage, {
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '9' },
    quick: { type: 'boolean', default: false },
    // where the disks lie; a file system of this machine, not one in memory
    dir: { type: 'string', default: tmpdir() },
    // leaves the folders with logs and disks
    keep: { type: 'boolean', default: false },
  },
});

async function run(): Promise<number> {
  const report = new AcceptReport();
  for (const [name, part] of Object.entries(parts)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue;
    const dir = mkdtempSync(join(values.dir, `stor-accept-${name}-`));
    const stage = { dir, report, rounds: Number(values.rounds), quick: values.quick };
    await report.part(name, () => part(stage));
    if (!values.keep) rmSync(dir, { recursive: true, force: true });
    else process.stderr.write(`logs and disks are in ${dir}\n`);
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
