import { describeResult, mustRun } from '../harness/run-command.ts';
import { runFio } from '../fio/fio.ts';
import type { BlockServer } from '../servers/block-server.ts';
import { cpuTimeUs } from './cpu-time.ts';
import { shuffled, spreadOf, type Spread } from './statistics.ts';

export interface Workload {
  name: string;
  options: Record<string, string>;
}

export const randomWriteQd32: Workload = {
  name: '4 KiB random write, QD 32',
  options: { rw: 'randwrite', bs: '4k', iodepth: '32' },
};

export const workloads: readonly Workload[] = [
  { name: '4 KiB random write, QD 1', options: { rw: 'randwrite', bs: '4k', iodepth: '1' } },
  randomWriteQd32,
  { name: '4 KiB random read, QD 1', options: { rw: 'randread', bs: '4k', iodepth: '1' } },
  { name: '4 KiB random read, QD 32', options: { rw: 'randread', bs: '4k', iodepth: '32' } },
  { name: '1 MiB sequential write, QD 8', options: { rw: 'write', bs: '1m', iodepth: '8' } },
  { name: '1 MiB sequential read, QD 8', options: { rw: 'read', bs: '1m', iodepth: '8' } },
  {
    name: '4 KiB random write + FLUSH, QD 1',
    options: { rw: 'randwrite', bs: '4k', iodepth: '1', fsync: '1' },
  },
];

export interface Sample {
  workload: string;
  server: string;
  round: number;
  iops: number;
  p50Us: number;
  p99Us: number;
  /** CPU time of all server processes per I/O (us) */
  cpuUsPerIo: number;
}

export interface RoundsOptions {
  servers: readonly BlockServer[];
  workloads: readonly Workload[];
  rounds: number;
  runtimeSeconds: number;
  sizeBytes: number;
  /** scratch folder of fio */
  dir: string;
  onSample?: (sample: Sample) => void;
}

/**
 * Measures every workload on every server, once per round, in an order drawn anew for each round:
 * so a machine that gets slower or busier meets all of them alike.
 */
export async function runRounds(options: RoundsOptions): Promise<Sample[]> {
  const pairs = options.workloads.flatMap((workload) =>
    options.servers.map((server) => ({ workload, server })),
  );
  const samples: Sample[] = [];
  for (let round = 1; round <= options.rounds; round += 1) {
    for (const { workload, server } of shuffled(pairs)) {
      const sample = await measure(options, workload, server, round);
      samples.push(sample);
      options.onSample?.(sample);
    }
  }
  return samples;
}

async function measure(
  options: RoundsOptions,
  workload: Workload,
  server: BlockServer,
  round: number,
): Promise<Sample> {
  // Dirty pages of the run before would be written back during this one.
  await mustRun('sync', []);
  const cpuBeforeUs = totalCpuUs(server);
  const result = await runFio({
    uri: server.uri,
    dir: options.dir,
    options: {
      ...workload.options,
      size: String(options.sizeBytes),
      time_based: '1',
      runtime: String(options.runtimeSeconds),
      norandommap: '1',
      randseed: String(round),
    },
  });
  const cpuUs = totalCpuUs(server) - cpuBeforeUs;
  if (result.error !== 0) throw new Error(describeResult(result.command));
  const side = result.write.ios > 0 ? result.write : result.read;
  return {
    workload: workload.name,
    server: server.name,
    round,
    iops: side.iops,
    p50Us: side.p50Us,
    p99Us: side.p99Us,
    cpuUsPerIo: cpuUs / side.ios,
  };
}

function totalCpuUs(server: BlockServer): number {
  return server.pids().reduce((sum, pid) => sum + cpuTimeUs(pid), 0);
}

export interface Summary {
  workload: string;
  server: string;
  rounds: number;
  iops: Spread;
  p50Us: Spread;
  p99Us: Spread;
  cpuUsPerIo: Spread;
}

export function summarise(samples: readonly Sample[], workload: string, server: string): Summary {
  const mine = samples.filter((s) => s.workload === workload && s.server === server);
  return {
    workload,
    server,
    rounds: mine.length,
    iops: spreadOf(mine.map((s) => s.iops)),
    p50Us: spreadOf(mine.map((s) => s.p50Us)),
    p99Us: spreadOf(mine.map((s) => s.p99Us)),
    cpuUsPerIo: spreadOf(mine.map((s) => s.cpuUsPerIo)),
  };
}
