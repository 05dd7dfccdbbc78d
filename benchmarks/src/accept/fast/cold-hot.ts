import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { prefill, runFio, type FioResult } from '../../fio/fio.ts';
import { describeResult, mustRun } from '../../harness/run-command.ts';
import { TestCluster } from '../../harness/test-cluster.ts';
import { cpuTimeOfAllUs, residentBytes } from '../../measure/process-use.ts';
import type { Sample } from '../../measure/rounds.ts';
import { shuffled } from '../../measure/statistics.ts';
import { createStorVolume } from '../../servers/stor-volume.ts';
import type { NbdServer } from '../../servers/block-server.ts';

const MiB = 1024 * 1024;
const hotBytes = 128 * MiB;
/** how long the cold reader runs before the hot one starts, and goes on after it ends (s) */
const marginSeconds = 1;

/** What its samples are called; `server` is stor-1. */
export const coldHotWorkloads = {
  alone: '4 KiB random read of a hot volume, QD 1, alone',
  beside: '4 KiB random read of a hot volume, QD 1, beside a cold one at QD 32',
  cold: '4 KiB random read of a cold volume, QD 32, beside a hot one',
} as const;

export interface ColdHotOptions {
  dir: string;
  rounds: number;
  firstRound: number;
  runtimeSeconds: number;
  coldBytes: number;
  signal: AbortSignal;
  note: (text: string) => void;
}

/**
 * Two volumes of one agent on one lane: one in the page cache, read one request at a time, and one
 * that has to come from the disk. Each round measures the hot one alone and beside the cold one, in
 * random order. Needs root, to drop the page cache.
 */
export async function measureColdHot(options: ColdHotOptions): Promise<Sample[]> {
  const { dir, coldBytes, note } = options;
  const cluster = await TestCluster.create({ dir: join(dir, 'cluster'), nodes: 1 });
  try {
    await cluster.start();
    const hot = await createStorVolume(cluster, 'hot', hotBytes, 1);
    const cold = await createStorVolume(cluster, 'cold', coldBytes, 1);
    note('filling a hot and a cold volume');
    await prefill(hot.uri, hotBytes, '4k', dir);
    await prefill(cold.uri, coldBytes, '1m', dir);
    const samples: Sample[] = [];
    const { firstRound, rounds } = options;
    for (let round = firstRound; round < firstRound + rounds; round += 1) {
      for (const run of shuffled([alone, beside])) {
        options.signal.throwIfAborted();
        await dropPageCache();
        await readOnce(options, hot);
        for (const sample of await run(options, { hot, cold }, round)) {
          note(`round ${round} ${sample.workload}: ${sample.iops.toFixed(0)} IOPS`);
          samples.push(sample);
        }
      }
    }
    return samples;
  } finally {
    await cluster.close();
  }
}

interface Volumes {
  hot: NbdServer;
  cold: NbdServer;
}

async function dropPageCache(): Promise<void> {
  await mustRun('sync', []);
  writeFileSync('/proc/sys/vm/drop_caches', '1\n');
}

async function readOnce({ dir }: ColdHotOptions, { uri }: NbdServer): Promise<void> {
  const options = { rw: 'read', bs: '1m', iodepth: '4', size: String(hotBytes) };
  const result = await runFio({ uri, dir, options });
  if (result.error !== 0) throw new Error(describeResult(result.command));
}

function readHot({ dir, runtimeSeconds, signal }: ColdHotOptions, hot: NbdServer, round: number) {
  return runFio({
    ...{ uri: hot.uri, dir, signal },
    options: {
      ...{ rw: 'randread', bs: '4k', iodepth: '1', size: String(hotBytes), norandommap: '1' },
      ...{ time_based: '1', runtime: String(runtimeSeconds), randseed: String(round) },
    },
  });
}

async function alone(options: ColdHotOptions, { hot }: Volumes, round: number): Promise<Sample[]> {
  const cpuBeforeUs = cpuTimeOfAllUs(hot.pids());
  const result = await readHot(options, hot, round);
  const cpuUs = cpuTimeOfAllUs(hot.pids()) - cpuBeforeUs;
  return [sampleOf(coldHotWorkloads.alone, hot, round, result, cpuUs)];
}

async function beside(
  options: ColdHotOptions,
  { hot, cold }: Volumes,
  round: number,
): Promise<Sample[]> {
  const { dir, coldBytes, runtimeSeconds, signal } = options;
  const state = { coldEnded: false };
  const cpuBeforeUs = cpuTimeOfAllUs(hot.pids());
  const coldRun = runFio({
    ...{ uri: cold.uri, dir, signal },
    options: {
      ...{ rw: 'randread', bs: '4k', iodepth: '32', size: String(coldBytes) },
      // no block twice: what was read once is in the page cache, and the job ends when all were
      ...{ runtime: String(runtimeSeconds + 2 * marginSeconds), randseed: String(round) },
    },
  }).finally(() => (state.coldEnded = true));
  const hotRun = new Promise((resolve) => setTimeout(resolve, marginSeconds * 1_000)).then(
    async () => {
      const result = await readHot(options, hot, round);
      return { result, wasCold: !state.coldEnded };
    },
  );
  const [coldResult, { result, wasCold }] = await Promise.all([coldRun, hotRun]);
  if (!wasCold) {
    throw new Error('every block of the cold volume was read too soon: give a larger --cold-size');
  }
  const cpuUs = cpuTimeOfAllUs(hot.pids()) - cpuBeforeUs;
  return [
    sampleOf(coldHotWorkloads.beside, hot, round, result, 0),
    sampleOf(coldHotWorkloads.cold, hot, round, coldResult, cpuUs),
  ];
}

function sampleOf(
  workload: string,
  server: NbdServer,
  round: number,
  { error, read, command }: FioResult,
  cpuUs: number,
): Sample {
  if (error !== 0) throw new Error(describeResult(command));
  const { ios, ...figures } = read;
  return {
    ...{ workload, server: server.name, round, ...figures },
    ...{ cpuUsPerIo: cpuUs / ios, clientCpuUsPerIo: 0 },
    residentBytes: residentBytes(server.pids()),
  };
}
