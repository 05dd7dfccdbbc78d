import { runFio } from '../fio/fio.ts';
import { describeResult, mustRun } from '../harness/run-command.ts';
import type { BlockServer } from '../servers/block-server.ts';
import { cpuTimeOfAllUs, endedChildrenCpuUs, residentBytes } from './process-use.ts';
import { shuffled, spreadOf, type Spread } from './statistics.ts';

export interface Workload {
  name: string;
  /** fio's options */
  options: Readonly<Record<string, string>>;
}

export const randomWriteQd32: Workload = {
  name: '4 KiB random write, QD 32',
  options: { rw: 'randwrite', bs: '4k', iodepth: '32' },
};

/** What one run of fio showed. */
export interface Figures {
  iops: number;
  bytesPerSecond: number;
  p50Us: number;
  p99Us: number;
  p999Us: number;
  /** CPU time of all server processes per I/O (us) */
  cpuUsPerIo: number;
  /** CPU time of fio per I/O (us): of clients that replicate by themselves, a part of the work */
  clientCpuUsPerIo: number;
  /** resident memory of all server processes after the run */
  residentBytes: number;
}

export interface Sample extends Figures {
  workload: string;
  server: string;
  round: number;
}

export interface RoundsOptions {
  servers: readonly BlockServer[];
  workloads: readonly Workload[];
  rounds: number;
  /** number of the first round, for one that goes on where another ended; default 1 */
  firstRound?: number;
  runtimeSeconds: number;
  sizeBytes: number;
  /** scratch folder of fio */
  dir: string;
  /** pairs that are not measured; default: none */
  skips?: (server: BlockServer, workload: Workload) => boolean;
  onSample?: (sample: Sample) => void;
  /** ends the run under way and throws */
  signal?: AbortSignal;
}

/**
 * Measures every workload on every server, once per round. The workloads of a round come in random
 * order, and so do the servers of each, one right after another: a machine that gets slower or busier
 * meets all of them alike, and a ratio compares neighbours in time.
 */
export async function runRounds(options: RoundsOptions): Promise<Sample[]> {
  const samples: Sample[] = [];
  const first = options.firstRound ?? 1;
  for (let round = first; round < first + options.rounds; round += 1) {
    for (const workload of shuffled(options.workloads)) {
      for (const server of shuffled(options.servers)) {
        if (options.skips?.(server, workload) === true) continue;
        options.signal?.throwIfAborted();
        const sample = await measure(options, workload, server, round);
        samples.push(sample);
        options.onSample?.(sample);
      }
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
  const pids = server.pids();
  const clientBeforeUs = endedChildrenCpuUs();
  const cpuBeforeUs = cpuTimeOfAllUs(pids);
  const result = await runFio({
    uri: server.target,
    ...(server.env ? { env: server.env } : {}),
    dir: options.dir,
    ...(options.signal ? { signal: options.signal } : {}),
    options: {
      ...workload.options,
      size: String(options.sizeBytes),
      time_based: '1',
      runtime: String(options.runtimeSeconds),
      norandommap: '1',
      randseed: String(round),
    },
  });
  const cpuUs = cpuTimeOfAllUs(pids) - cpuBeforeUs;
  const clientUs = endedChildrenCpuUs() - clientBeforeUs;
  options.signal?.throwIfAborted();
  if (result.error !== 0) throw new Error(describeResult(result.command));
  const { ios, ...side } = result.write.ios > 0 ? result.write : result.read;
  return {
    workload: workload.name,
    server: server.name,
    round,
    ...side,
    cpuUsPerIo: cpuUs / ios,
    clientCpuUsPerIo: clientUs / ios,
    residentBytes: residentBytes(pids),
  };
}

/** The figures of one server at one workload over all rounds. */
export type Summary = { workload: string; server: string; rounds: number } & Record<
  keyof Figures,
  Spread
>;

export function summarise(samples: readonly Sample[], workload: string, server: string): Summary {
  const mine = samples.filter((s) => s.workload === workload && s.server === server);
  const spread = (figure: keyof Figures): Spread => spreadOf(mine.map((s) => s[figure]));
  return {
    ...{ workload, server, rounds: mine.length },
    iops: spread('iops'),
    bytesPerSecond: spread('bytesPerSecond'),
    p50Us: spread('p50Us'),
    p99Us: spread('p99Us'),
    p999Us: spread('p999Us'),
    cpuUsPerIo: spread('cpuUsPerIo'),
    clientCpuUsPerIo: spread('clientCpuUsPerIo'),
    residentBytes: spread('residentBytes'),
  };
}
