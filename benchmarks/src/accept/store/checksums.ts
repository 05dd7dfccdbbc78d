import { mkdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { prefill } from '../../fio/fio.ts';
import { checkoutRoot, compiledProgram } from '../../harness/checkout.ts';
import { TestCluster } from '../../harness/test-cluster.ts';
import { runRounds, summarise, type Workload } from '../../measure/rounds.ts';
import type { BlockServer } from '../../servers/block-server.ts';
import { createStorVolume } from '../../servers/stor-volume.ts';
import type { StoreStage } from './stage.ts';

const MiB = 1024 * 1024;
const secondsPerSample = 3;

const workloads: readonly Workload[] = [
  { name: '4 KiB random write, QD 1', options: { rw: 'randwrite', bs: '4k', iodepth: '1' } },
  { name: '4 KiB random write, QD 32', options: { rw: 'randwrite', bs: '4k', iodepth: '32' } },
  { name: '4 KiB random read, QD 1', options: { rw: 'randread', bs: '4k', iodepth: '1' } },
  { name: '4 KiB random read, QD 32', options: { rw: 'randread', bs: '4k', iodepth: '32' } },
  { name: '1 MiB sequential write, QD 8', options: { rw: 'write', bs: '1m', iodepth: '8' } },
  { name: '1 MiB sequential read, QD 8', options: { rw: 'read', bs: '1m', iodepth: '8' } },
];

const meaning =
  'One replica on one agent, over a UNIX socket, from the page cache. "without": the same agent with a CRC-32 that is a constant and with no checksum file written, read or synced (benchmarks/src/measure/without-checksums.ts). CPU is that of the agent (all its threads) per I/O. A positive cost is what computing, writing and verifying checksums takes.';

/** What checksums cost: two agents side by side, one of which computes and keeps none. */
export async function checksums(stage: StoreStage): Promise<void> {
  const { dir, rounds, quick } = stage;
  const sizeBytes = (quick ? 128 : 512) * MiB;
  const preload = pathToFileURL(compiledProgram('measure/without-checksums.js')).href;
  const clusters: TestCluster[] = [];
  try {
    const servers: BlockServer[] = [];
    for (const [name, agentEnv] of [
      ['with', {}],
      ['without', { NODE_OPTIONS: `--import ${preload}` }],
    ] as const) {
      const own = join(dir, name);
      mkdirSync(own);
      const cluster = await TestCluster.create({ dir: own, nodes: 1, agentEnv });
      clusters.push(cluster);
      await cluster.start();
      servers.push({ ...(await createStorVolume(cluster, 'volume', sizeBytes, 1)), name });
    }
    for (const { target } of servers) await prefill(target, sizeBytes, '4k', dir);
    const samples = await runRounds({
      ...{ servers, workloads, rounds, sizeBytes, dir },
      runtimeSeconds: quick ? 1 : secondsPerSample,
    });
    const summaries = workloads.map(({ name }) => ({
      workload: name,
      with: summarise(samples, name, 'with'),
      without: summarise(samples, name, 'without'),
    }));
    for (const { workload, with: on, without: off } of summaries) {
      const slower = 1 - on.iops.median / off.iops.median;
      const cpuUs = on.cpuUsPerIo.median - off.cpuUsPerIo.median;
      stage.report.add(
        `cost of checksums: ${workload}`,
        `${percent(slower)} IOPS, ${cpuUs.toFixed(1)} us CPU per I/O`,
        'measured; < 50 % of the IOPS',
        slower < 0.5,
      );
    }
    if (!quick) writeResult({ meaning, rounds, secondsPerSample, sizeBytes, summaries, samples });
  } finally {
    for (const cluster of clusters) await cluster.close();
  }
}

function percent(share: number): string {
  return `${share >= 0 ? '-' : '+'}${(Math.abs(share) * 100).toFixed(1)} %`;
}

function writeResult(result: object): void {
  const folder = join(checkoutRoot(), 'benchmarks/results');
  mkdirSync(folder, { recursive: true });
  const date = new Date().toISOString();
  const path = join(folder, `${date.slice(0, 10)}-${hostname()}-checksums.json`);
  writeFileSync(path, `${JSON.stringify({ date, host: hostname(), ...result }, null, 2)}\n`);
  process.stderr.write(`written: ${path}\n`);
}
