// Runs whole clusters from seeds, and says which seed broke which promise.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildTree, checkoutRoot } from './build-tree.mjs';
import { parseOptions } from './parse-options.mjs';
import { Totals, runPool } from './pool.mjs';

const usage = `usage: npm run sim -- [--seeds N] [--first-seed N] [--minutes N] [--jobs N] [--world agents|lanes]
                      [--dense] [--scrub] [--snapshots] [--node-orders] [--alone] [--lanes 1|2]
                      [--mutation NAME] [--replay SEED] [--verbose]
Runs whole clusters on virtual time, one from each seed, under load and faults, and says which seed broke
which promise. packages/sim/README.md says what is looked at.

  --seeds        how many, from --first-seed on; default 20 from 1
  --minutes      of virtual time for each; default 10
  --jobs         processes; default: one for each processor
  --dense        small clusters, faults one after another
  --scrub        beside scrubs; --snapshots, --node-orders: beside snapshots, orders on nodes
  --alone        primaries lose all others, then their disk or host
  --lanes        data-path threads of each agent
  --mutation     with this rule broken: a name in packages/sim/mutations
  --replay       one seed again, with --verbose all that happens`;

const values = parseOptions(usage, {
  seeds: { type: 'string', default: '20' },
  'first-seed': { type: 'string', default: '1' },
  minutes: { type: 'string', default: '10' },
  jobs: { type: 'string', default: String(availableParallelism()) },
  world: { type: 'string' },
  mutation: { type: 'string' },
  replay: { type: 'string' },
  dense: { type: 'boolean', default: false },
  scrub: { type: 'boolean', default: false },
  snapshots: { type: 'boolean', default: false },
  'node-orders': { type: 'boolean', default: false },
  alone: { type: 'boolean', default: false },
  lanes: { type: 'string' },
  verbose: { type: 'boolean', default: false },
});

const tree = mkdtempSync(join(tmpdir(), 'stor-sim-'));
process.on('SIGINT', () => {
  rmSync(tree, { recursive: true, force: true });
  process.exit(130);
});
try {
  const patches = values.mutation ? [mutationFile(values.mutation)] : [];
  buildTree(tree, patches);
  process.exitCode = values.replay ? replay() : await batch();
} finally {
  rmSync(tree, { recursive: true, force: true });
}

function mutationFile(name) {
  const file = join(checkoutRoot, 'packages/sim/mutations', `${name}.patch`);
  if (!existsSync(file)) throw new Error(`there is no mutation ${name}: ${file}`);
  return file;
}

function runOptions(seed) {
  return {
    seed,
    minutes: Number(values.minutes),
    ...(values.dense ? { dense: true } : {}),
    ...(values.scrub ? { scrub: true } : {}),
    ...(values.snapshots ? { snapshots: true } : {}),
    ...(values['node-orders'] ? { nodeOrders: true } : {}),
    ...(values.alone ? { alone: true } : {}),
    ...(values.lanes ? { lanes: Number(values.lanes) } : {}),
    ...(values.world ? { world: values.world } : {}),
  };
}

function replay() {
  const options = JSON.stringify(runOptions(Number(values.replay)));
  const more = values.verbose ? ['--verbose'] : [];
  const file = join(tree, 'packages/sim/dist/src/run/replay.js');
  const { status } = spawnSync(process.execPath, ['--enable-source-maps', file, options, ...more], {
    stdio: 'inherit',
  });
  return status ?? 1;
}

async function batch() {
  const first = Number(values['first-seed']);
  const last = first + Number(values.seeds) - 1;
  let seed = first;
  const totals = new Totals();
  await runPool({
    tree,
    jobs: Number(values.jobs),
    next: () => (seed <= last ? runOptions(seed++) : null),
    onReport: (report) => {
      totals.add(report);
      if (report.violations.length > 0) tell(report);
      else if (values.verbose) process.stdout.write(`seed ${report.seed} ${report.hash}\n`);
    },
  });
  process.stdout.write(`${totals.table()}\n`);
  return totals.failed > 0 ? 1 : 0;
}

function tell({ seed, violations }) {
  process.stdout.write(`seed ${seed}: ${violations[0].checker}\n`);
  for (const { checker, detail } of violations.slice(0, 5)) {
    process.stdout.write(`  ${checker}: ${detail}\n`);
  }
  const world = values.world ? ` --world ${values.world}` : '';
  const lanes = values.lanes ? ` --lanes ${values.lanes}` : '';
  const mutation = values.mutation ? ` --mutation ${values.mutation}` : '';
  const flags = ['dense', 'scrub', 'snapshots', 'node-orders', 'alone'].filter(
    (flag) => values[flag],
  );
  const more = flags.map((flag) => ` --${flag}`).join('');
  process.stdout.write(
    `  again: pnpm sim --replay ${seed} --minutes ${values.minutes}${world}${lanes}${mutation}${more} --verbose\n`,
  );
}
