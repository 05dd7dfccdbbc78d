import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AcceptReport } from '../harness/accept-report.ts';
import { parseOptions } from '../harness/parse-options.ts';
import { evacuation } from './control/evacuation.ts';
import { failover } from './control/failover.ts';
import { writeFigures } from './control/figures.ts';
import { formation } from './control/formation.ts';
import { linearizable } from './control/linearizable.ts';
import { mixedVersions } from './control/mixed-versions.ts';
import { nodeOrders } from './control/node-orders.ts';
import { scale } from './control/scale.ts';
import type { ControlStage } from './control/stage.ts';
import { suites } from './control/suites.ts';

const parts: Record<string, (stage: ControlStage) => Promise<void>> = {
  failover,
  formation,
  evacuation,
  ...suites,
  scale,
  linearizable,
  'mixed-versions': mixedVersions,
  'node-orders': nodeOrders,
};

const usage = `usage: npm run accept -- control [PART...] [--tries N] [--figures FILE] [--keep]
Shows what is promised of the control plane, part by part.

  parts      ${Object.keys(parts).join(', ')}; default: all
  --tries    of everything that is measured several times; default 20
  --figures  a file that the figures go to, with what machine it was
  --keep     leaves the folders with logs and disks`;

const { positionals, values } = parseOptions(usage, {
  allowPositionals: true,
  options: {
    tries: { type: 'string', default: '20' },
    // a file that the figures go to, with what machine it was
    figures: { type: 'string' },
    // leaves the folders with logs and disks
    keep: { type: 'boolean', default: false },
  },
});

async function run(): Promise<number> {
  const report = new AcceptReport();
  const figures: Record<string, Record<string, number>> = {};
  for (const [name, part] of Object.entries(parts)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue;
    const dir = mkdtempSync(join(tmpdir(), `stor-accept-${name}-`));
    const stage = { dir, report, tries: Number(values.tries), figures: {} };
    figures[name] = stage.figures;
    await report.part(name, () => part(stage));
    if (!values.keep) rmSync(dir, { recursive: true, force: true });
    else process.stderr.write(`logs and disks are in ${dir}\n`);
  }
  if (values.figures !== undefined) writeFigures(values.figures, figures);
  return report.finish() ? 0 : 1;
}

const unknown = positionals.filter((name) => !(name in parts));
if (unknown.length > 0) {
  process.stderr.write(
    `error: no part ${unknown.join(', ')}; there are: ${Object.keys(parts).join(', ')}\n`,
  );
  process.exitCode = 2;
} else process.exitCode = await run();
