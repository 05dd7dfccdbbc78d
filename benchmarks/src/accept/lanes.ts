import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { AcceptReport } from '../harness/accept-report.ts';
import { parseOptions } from '../harness/parse-options.ts';
import { median, shuffled } from '../measure/statistics.ts';
import { LaneTestCluster, type LaneFigures } from './lanes/lane-cluster.ts';

const parts = ['single', 'three', 'replicas'] as const;
const usage = `usage: npm run accept -- lanes [PART...] [--rounds N] [--seconds N] [--dir DIR]
Measures how the IOPS of several volumes grow with lanes: 4 KiB at queue depth 32 on all of them at
once, in interleaved rounds. The disks are directories, and what is read and written is in the page cache.

  single    one agent, two disks, volumes of one replica: one lane beside two; a client at the wrong port
  three     the same with three disks: one lane beside three
  replicas  three agents, two disks each, volumes of three replicas: one lane beside two
`;

/** So much more do two lanes at least, unless the machine has no core left for them. */
const wantedRatio = 1.5;
/** Cores busy to this share are the limit: the clients and the kernel need them too. */
const fullMachine = 0.9;

const { positionals, values } = parseOptions(usage, {
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '4' },
    dir: { type: 'string', default: tmpdir() },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
const report = new AcceptReport();

interface Variant {
  name: string;
  cluster: LaneTestCluster;
  volumes: number;
  crossing?: boolean;
}

type Medians = Map<string, LaneFigures>;

/** The medians of each variant, which take turns in random order. */
async function compare(variants: Variant[], rw: string): Promise<Medians> {
  const samples = new Map<string, LaneFigures[]>();
  for (let round = 0; round < rounds; round += 1) {
    for (const { name, cluster, volumes, crossing = false } of shuffled(variants)) {
      const figures = await cluster.measure(rw, volumes, { seconds, crossing });
      samples.set(name, [...(samples.get(name) ?? []), figures]);
    }
  }
  return new Map([...samples].map(([name, all]) => [name, medianOf(all)]));
}

function medianOf(all: readonly LaneFigures[]): LaneFigures {
  const by = (of: (figures: LaneFigures) => number): number => median(all.map(of));
  return {
    iops: by(({ iops }) => iops),
    cpuUs: by(({ cpuUs }) => cpuUs),
    use: {
      elapsedMs: by(({ use }) => use.elapsedMs),
      cores: by(({ use }) => use.cores),
      busiest: [0, 1, 2, 3].map((at) => by(({ use }) => use.busiest[at] ?? 0)),
      machine: by(({ use }) => use.machine),
    },
  };
}

function text({ iops, cpuUs, use }: LaneFigures): string {
  const threads = use.busiest.map((share) => `${Math.round(share * 100)}`).join('/');
  const machine = `${Math.round(use.machine * 100)} % of ${cpus().length} cores`;
  return `${Math.round(iops)} IOPS, ${cpuUs.toFixed(1)} us of CPU each, threads ${threads} %, machine ${machine}`;
}

function judge(what: string, medians: Medians, one: string, several: string): void {
  const [a, b] = [medians.get(one), medians.get(several)];
  if (!a || !b) throw new Error('not measured');
  report.add(`${what}: ${one}`, text(a), 'shown', true);
  report.add(`${what}: ${several}`, text(b), 'shown', true);
  const ratio = b.iops / a.iops;
  const isFull = b.use.machine >= fullMachine;
  const why = isFull && ratio < wantedRatio ? ', the cores are full' : '';
  report.add(
    `${what}: ${several} beside ${one}`,
    `${ratio.toFixed(2)} x${why}`,
    `>= ${wantedRatio} x, or all cores busy to ${fullMachine * 100} %`,
    ratio >= wantedRatio || isFull,
  );
}

const loads = [
  ['random writes', 'randwrite'],
  ['random reads', 'randread'],
] as const;

/** Two clusters alike but for their lanes. */
async function withClusters(
  dir: string,
  options: { nodes: number; disks: number; replicas: number; lanes: number },
  run: (one: LaneTestCluster, several: LaneTestCluster) => Promise<void>,
): Promise<void> {
  const open: LaneTestCluster[] = [];
  try {
    const one = await LaneTestCluster.start({ ...options, dir, lanes: 1 });
    open.push(one);
    const several = await LaneTestCluster.start({ ...options, dir });
    open.push(several);
    await run(one, several);
  } finally {
    for (const cluster of open) await cluster.close();
  }
}

async function single(dir: string): Promise<void> {
  const options = { nodes: 1, disks: 2, replicas: 1, lanes: 2 };
  await withClusters(dir, options, async (one, two) => {
    const variants = [
      { name: '1 lane', cluster: one, volumes: 2 },
      { name: '2 lanes', cluster: two, volumes: 2 },
      { name: "2 lanes, one volume at its lane's port", cluster: two, volumes: 1 },
      { name: '2 lanes, one volume at the other port', cluster: two, volumes: 1, crossing: true },
    ];
    for (const [what, rw] of loads) {
      const medians = await compare(variants, rw);
      judge(`2 volumes of 1 replica, ${what}`, medians, '1 lane', '2 lanes');
      for (const [name, figures] of medians) {
        if (name.includes('port')) report.add(`${what}: ${name}`, text(figures), 'shown', true);
      }
    }
  });
}

async function three(dir: string): Promise<void> {
  const options = { nodes: 1, disks: 3, replicas: 1, lanes: 3 };
  await withClusters(dir, options, async (one, several) => {
    const variants = [
      { name: '1 lane', cluster: one, volumes: 3 },
      { name: '3 lanes', cluster: several, volumes: 3 },
    ];
    for (const [what, rw] of loads) {
      judge(`3 volumes of 1 replica, ${what}`, await compare(variants, rw), '1 lane', '3 lanes');
    }
  });
}

async function replicas(dir: string): Promise<void> {
  const options = { nodes: 3, disks: 2, replicas: 3, lanes: 2 };
  await withClusters(dir, options, async (one, two) => {
    const variants = [
      { name: '1 lane', cluster: one, volumes: 2 },
      { name: '2 lanes', cluster: two, volumes: 2 },
    ];
    for (const [what, rw] of loads) {
      judge(`2 volumes of 3 replicas, ${what}`, await compare(variants, rw), '1 lane', '2 lanes');
    }
  });
}

async function main(): Promise<number> {
  const unknown = positionals.filter((name) => !parts.some((part) => part === name));
  if (unknown.length > 0) {
    process.stderr.write(`error: no part ${unknown.join(', ')}\n${usage}`);
    return 2;
  }
  const dir = mkdtempSync(join(resolve(values.dir), 'stor-lanes-'));
  try {
    const runs = { single, three, replicas };
    for (const part of parts) {
      if (positionals.length > 0 && !positionals.includes(part)) continue;
      await report.part(part, () => runs[part](dir));
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  return report.finish() ? 0 : 1;
}

process.exitCode = await main();
