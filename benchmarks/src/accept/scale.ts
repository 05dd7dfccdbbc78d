import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AcceptReport } from '../harness/accept-report.ts';
import { parseOptions } from '../harness/parse-options.ts';
import { writeFigures } from './control/figures.ts';
import { growth, volumeOf4TiB, volumeOf64TiB } from './scale/large-volumes.ts';
import { manyConnections } from './scale/many-connections.ts';
import { manyVolumes } from './scale/many-volumes.ts';
import type { ScaleStage } from './scale/stage.ts';

const parts: Record<string, (stage: ScaleStage) => Promise<void>> = {
  volumes: manyVolumes,
  '4TiB': volumeOf4TiB,
  '64TiB': volumeOf64TiB,
  grow: growth,
  connections: manyConnections,
};

const usage = `usage: npm run accept -- scale [PART...] [--only PART] [--quick] [--dir DIR] [--figures FILE] [--keep]
Shows what many and what large volumes cost.

  parts      ${Object.keys(parts).join(', ')}; default: all
  --only     the same as naming the part
  --dir      where the disks lie: a file system of this machine, not one in memory
  --figures  a file that the figures go to, with what machine it was
  --keep     leaves the folders with logs and disks`;

const { positionals, values } = parseOptions(usage, {
  allowPositionals: true,
  options: {
    // the same as naming parts: `--only 64TiB`
    only: { type: 'string', multiple: true, default: [] },
    quick: { type: 'boolean', default: false },
    // where the disks lie; a file system of this machine, not one in memory
    dir: { type: 'string', default: tmpdir() },
    // a file that the figures go to, with what machine it was
    figures: { type: 'string' },
    // leaves the folders with logs and disks
    keep: { type: 'boolean', default: false },
  },
});

const chosen = [...positionals, ...values.only];

async function run(): Promise<number> {
  const report = new AcceptReport();
  const figures: Record<string, Record<string, number>> = {};
  for (const [name, part] of Object.entries(parts)) {
    if (chosen.length > 0 && !chosen.includes(name)) continue;
    const dir = mkdtempSync(join(values.dir, `stor-accept-${name}-`));
    const stage = { dir, report, quick: values.quick, figures: {} };
    figures[name] = stage.figures;
    await report.part(name, () => part(stage));
    if (!values.keep) rmSync(dir, { recursive: true, force: true });
    else process.stderr.write(`logs and disks are in ${dir}\n`);
  }
  if (values.figures !== undefined) writeFigures(values.figures, figures);
  return report.finish() ? 0 : 1;
}

const unknown = chosen.filter((name) => !(name in parts));
if (unknown.length > 0) {
  process.stderr.write(
    `error: no part ${unknown.join(', ')}; there are: ${Object.keys(parts).join(', ')}\n`,
  );
  process.exitCode = 2;
} else process.exitCode = await run();
