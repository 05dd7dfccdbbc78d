import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SeededRandom } from '@stor/runtime/testing';
import { parseOptions } from '../harness/parse-options.ts';
import type { NamespaceNetwork } from '../namespaces/network.ts';
import { runInNamespaces } from '../namespaces/run-in-namespaces.ts';
import { FaultPlan } from './plan-faults.ts';
import { SoakRound } from './round.ts';
import { SoakReport } from './soak-report.ts';

const usage = `usage: soak [--minutes N] [--seed N] [--nodes 3|4|5] [--replicas 2|3] [--keep]
Runs clusters of real agents in network namespaces under load and faults, and compares at the end of
each round what is on the disks. Needs root, ip and iptables. The seed decides which faults happen to
whom and for how long; when they hit, the load is where it happens to be.
Exit code 0: no problem; 1: problems, whose folders are kept; 130: stopped early.`;

/** Faults of one round; then the disks are compared and a new cluster begins (ms). */
const maxRoundMs = 240_000;
const mostNodes = 5;

const { values } = parseOptions(usage, {
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string' },
    nodes: { type: 'string' },
    replicas: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});

async function soak(network: NamespaceNetwork): Promise<number> {
  const report = new SoakReport();
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => stop.abort(new Error('stopped by a signal')));
  }
  const seed = Number(values.seed ?? Date.now() % 1_000_000);
  const faultMs = Number(values.minutes) * 60_000;
  const rounds = Math.ceil(faultMs / maxRoundMs);
  report.say(`seed ${seed}, ${rounds} round(s) of ${(faultMs / rounds / 1_000).toFixed(0)} s`);
  const plan = new FaultPlan(new SeededRandom(seed));
  const base = mkdtempSync(join(tmpdir(), 'stor-soak-'));
  for (let round = 0; round < rounds && !stop.signal.aborted; round += 1) {
    const random = new SeededRandom(seed + 7_919 * (round + 1));
    const nodes = Number(values.nodes ?? 3 + Math.floor(random.next() * (mostNodes - 2)));
    const replicas = Number(values.replicas ?? (random.next() < 0.25 ? 2 : 3));
    const dir = join(base, `round-${round + 1}`);
    mkdirSync(dir);
    report.say(`round ${round + 1}: ${nodes} nodes, ${replicas} replicas, in ${dir}`);
    const before = report.problems.length;
    await SoakRound.run({
      network,
      dir,
      seed: (seed + round) % 1_000_000,
      plan,
      nodes,
      replicas,
      faultMs: faultMs / rounds,
      report,
      signal: stop.signal,
    });
    report.rounds += 1;
    if (report.problems.length === before && !values.keep) {
      rmSync(dir, { recursive: true, force: true });
    }
  }
  process.stdout.write(`\n${report.text()}seed ${seed}\n`);
  if (report.problems.length === 0 && !values.keep) rmSync(base, { recursive: true, force: true });
  else process.stdout.write(`logs and disks are in ${base}\n`);
  if (stop.signal.aborted) return 130;
  return report.problems.length === 0 ? 0 : 1;
}

process.exitCode = await runInNamespaces(mostNodes, soak);
