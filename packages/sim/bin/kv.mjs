// node packages/sim/bin/kv.mjs [--seeds N] [--first-seed N] [--jobs N] [--mutation NAME] [--no-changes]
// Runs the embedded cluster store from seeds, with clients, watchers and leases, while its members are
// cut off, stopped, killed and changed, and checks that it is linearizable. STOR_SEEDS is the default
// of --seeds. A seed is some 20 s of virtual time and about half a second of a processor.

import { fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { buildTree, checkoutRoot } from './build-tree.mjs';

const self = fileURLToPath(import.meta.url);

/** A run that takes longer than this is a failure (ms of real time). */
const seedTimeoutMs = 120_000;

/**
 * @param {{ seeds: number, firstSeed?: number, jobs?: number, mutation?: string, changes?: boolean,
 *   onReport?: (report: { seed: number, violations: string[] }) => void }} options
 * @returns {Promise<{ seeds: number, counts: Record<string, number>,
 *   failed: { seed: number, violations: string[] }[] }>}
 */
export async function runKvSeeds({
  seeds,
  firstSeed = 1,
  jobs = availableParallelism(),
  mutation,
  changes = true,
  onReport = () => {},
}) {
  const tree = mkdtempSync(join(tmpdir(), 'stor-kv-'));
  const total = { seeds: 0, counts: {}, failed: [] };
  let next = firstSeed;
  const take = () => (next < firstSeed + seeds ? { seed: next++, changes } : null);
  const add = (report) => {
    total.seeds++;
    for (const [name, count] of Object.entries(report.counts)) {
      total.counts[name] = (total.counts[name] ?? 0) + count;
    }
    if (report.violations.length > 0) {
      const { seed, violations } = report;
      total.failed.push({ seed, violations });
    }
    onReport(report);
  };
  try {
    const patch = join(checkoutRoot, 'packages/sim/mutations', `${mutation}.patch`);
    buildTree(tree, mutation ? [patch] : []);
    await Promise.all(Array.from({ length: jobs }, () => runJob(tree, take, add)));
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
  return total;
}

/** Seed after seed in one process; in a new one after a crash. */
async function runJob(tree, take, add) {
  for (let options = take(); options;) options = await runProcess(tree, options, take, add);
}

/** Resolves with what is still to be run. */
function runProcess(tree, first, take, add) {
  return new Promise((resolve) => {
    const child = fork(self, ['--worker', tree], { execArgv: ['--enable-source-maps'] });
    let current = first;
    let timer;
    let why = 'the process ended';
    const give = () => {
      clearTimeout(timer);
      if (!current) return child.disconnect();
      timer = setTimeout(() => {
        why = `no end within ${seedTimeoutMs} ms`;
        child.kill('SIGKILL');
      }, seedTimeoutMs);
      child.send(current);
    };
    child.on('message', (report) => {
      add(report);
      current = take();
      give();
    });
    child.on('exit', () => {
      clearTimeout(timer);
      if (current) add({ seed: current.seed, violations: [why], counts: {} });
      resolve(current && take());
    });
    give();
  });
}

async function work(tree) {
  const module = join(tree, 'packages/sim/dist/src/kv/kv-world.js');
  const { KvWorld } = await import(pathToFileURL(module).href);
  process.on('message', (options) => {
    void KvWorld.run(options).then((report) => process.send(report));
  });
}

async function main() {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: process.env['STOR_SEEDS'] ?? '100' },
      'first-seed': { type: 'string', default: '1' },
      jobs: { type: 'string', default: String(availableParallelism()) },
      mutation: { type: 'string' },
      'no-changes': { type: 'boolean', default: false },
      worker: { type: 'string' },
    },
  });
  if (values.worker !== undefined) return work(values.worker);
  const { seeds, counts, failed } = await runKvSeeds({
    seeds: Number(values.seeds),
    firstSeed: Number(values['first-seed']),
    jobs: Number(values.jobs),
    changes: !values['no-changes'],
    ...(values.mutation ? { mutation: values.mutation } : {}),
  });
  const say = (text) => process.stdout.write(`${text}\n`);
  say(`${seeds} seeds, ${failed.length} failed`);
  for (const [name, count] of Object.entries(counts)) say(`  ${name}: ${count}`);
  for (const { seed, violations } of failed) {
    say(`seed ${seed} (--first-seed ${seed} --seeds 1):`);
    for (const violation of violations) say(`  ${violation.slice(0, 4_000)}`);
  }
  process.exitCode = failed.length > 0 ? 1 : 0;
}

if (process.argv[1] === self) await main();
