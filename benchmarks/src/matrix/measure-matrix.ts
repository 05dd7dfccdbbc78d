import { join } from 'node:path';
import { prefill, runFio } from '../fio/fio.ts';
import { describeResult } from '../harness/run-command.ts';
import { TestCluster } from '../harness/test-cluster.ts';
import { residentBytes } from '../measure/process-use.ts';
import { runRounds, type Sample } from '../measure/rounds.ts';
import type { BenchWorkload } from '../measure/workloads.ts';
import type { BenchSystem, MatrixStage, StartedSystem } from './systems.ts';

export interface MatrixOptions {
  systems: readonly BenchSystem[];
  workloads: readonly BenchWorkload[];
  rounds: number;
  firstRound?: number;
  runtimeSeconds: number;
  sizeBytes: number;
  /** size of the requests that fill every system before it is measured: 4k or 1m */
  prefill: string;
  /** an empty folder; everything that is measured lies in it */
  dir: string;
  signal: AbortSignal;
  note: (text: string) => void;
}

/** What is to be known about a system beside its samples. */
export interface SystemFacts {
  name: string;
  copies: number;
  acknowledges: string;
  prefill: string;
  processes: number;
  /** resident memory of its processes before the first run (bytes) */
  idleBytes: number;
  /** why it was not measured, with the end of its log; null when it was */
  failure: string | null;
}

export interface MatrixResult {
  systems: SystemFacts[];
  samples: Sample[];
}

/**
 * Starts the systems side by side, fills each in the same way, measures them in interleaved rounds and
 * ends them all. A system of others that does not start is left out, with the reason in the result;
 * Stor itself has no such excuse.
 */
export async function measureMatrix(options: MatrixOptions): Promise<MatrixResult> {
  const facts: SystemFacts[] = [];
  const started: { system: BenchSystem; server: StartedSystem }[] = [];
  let cluster: TestCluster | null = null;
  const stage: MatrixStage = {
    dir: options.dir,
    sizeBytes: options.sizeBytes,
    fillFile: (path) => fillFile(options, path),
    cluster: async () => {
      cluster ??= await TestCluster.create({ dir: join(options.dir, 'cluster') });
      await cluster.start();
      await cluster.waitFit();
      return cluster;
    },
  };
  try {
    for (const system of options.systems) {
      options.signal.throwIfAborted();
      options.note(`starting and filling ${system.name}`);
      try {
        const server = await system.start(stage);
        started.push({ system, server });
        const size = server.prefill ?? options.prefill;
        if (server.isFilled !== true) {
          await prefill(server.target, options.sizeBytes, size, options.dir, server.env);
        }
        facts.push(factsOf(system, size, server));
      } catch (error) {
        if (system.name.startsWith('stor-')) throw error;
        const text = error instanceof Error ? error.message : String(error);
        options.note(`${system.name} cannot be measured: ${text}`);
        facts.push({ ...factsOf(system, options.prefill, null), failure: text });
      }
    }
    const fit = started.filter(({ system }) =>
      facts.some(({ name, failure }) => name === system.name && failure === null),
    );
    const samples = await runRounds({
      ...options,
      servers: fit.map(({ server }) => server),
      skips: (server, workload) =>
        fit.find((other) => other.server === server)?.system.skips?.(workload as BenchWorkload) ===
        true,
      onSample: (s) =>
        options.note(`round ${s.round} ${s.workload} ${s.server}: ${s.iops.toFixed(0)} IOPS`),
    });
    return { systems: facts, samples };
  } finally {
    for (const { server } of started) await server.close?.();
    await (cluster as TestCluster | null)?.close();
  }
}

function factsOf(
  { name, copies, acknowledges }: BenchSystem,
  prefill: string,
  server: StartedSystem | null,
): SystemFacts {
  const pids = server?.pids() ?? [];
  const processes = pids.length;
  const idleBytes = residentBytes(pids);
  return { name, copies, acknowledges, prefill, processes, idleBytes, failure: null };
}

/** A file of random data, written through the page cache with requests of the one size. */
async function fillFile(
  { prefill: bs, sizeBytes, dir }: Pick<MatrixOptions, 'prefill' | 'sizeBytes' | 'dir'>,
  path: string,
): Promise<void> {
  const result = await runFio({
    uri: { ioengine: 'psync', filename: path },
    dir,
    options: {
      ...{ rw: 'write', bs, size: String(sizeBytes) },
      // its blocks come with the writes, as behind a server
      ...{ end_fsync: '1', refill_buffers: '1', fallocate: 'none' },
    },
  });
  if (result.error !== 0) throw new Error(`prefill failed: ${describeResult(result.command)}`);
}
