import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchWorkload } from '../measure/workloads.ts';
import { describeMachine } from './machine.ts';
import { measureMatrix } from './measure-matrix.ts';
import {
  emptyResult,
  nextRound,
  readResult,
  withPiece,
  writeResult,
  type BenchResult,
} from './results-file.ts';
import type { BenchSystem } from './systems.ts';

export interface PieceOptions {
  systems: readonly BenchSystem[];
  workloads: readonly BenchWorkload[];
  rounds: number;
  runtimeSeconds: number;
  sizeBytes: number;
  prefill: string;
  /** the folder in which a folder of its own is made and removed */
  parentDir: string;
  /** the file of results */
  path: string;
  /** keep what the file holds already, or begin anew */
  keep: boolean;
}

/** What a run of fio takes beside its seconds: its start, and the sync before (s). */
const overheadSeconds = 1.2;
/** start and fill of one system (s per GiB), about */
const fillSecondsPerGib = 6;
const GiB = 1024 ** 3;

export function estimateSeconds(options: PieceOptions): number {
  const { systems, workloads, rounds, runtimeSeconds, sizeBytes } = options;
  const pairs = workloads.reduce(
    (sum, workload) => sum + systems.filter((system) => system.skips?.(workload) !== true).length,
    0,
  );
  const fillSeconds = systems.reduce(
    (sum, { copies }) => sum + 1 + copies * fillSecondsPerGib * (sizeBytes / GiB),
    0,
  );
  return pairs * rounds * (runtimeSeconds + overheadSeconds) + fillSeconds;
}

/** Measures and adds it to the file of results. Ctrl-C ends it in order: nothing is left running. */
export async function runPiece(options: PieceOptions): Promise<BenchResult> {
  const dir = mkdtempSync(join(options.parentDir, 'stor-bench-'));
  const stopper = new AbortController();
  const stop = (): void => stopper.abort(new Error('interrupted'));
  process.once('SIGINT', stop).once('SIGTERM', stop);
  const note = (text: string): void => void process.stderr.write(`${text}\n`);
  const seconds = estimateSeconds(options);
  note(`this takes about ${Math.ceil(seconds / 60)} min (${seconds.toFixed(0)} s)`);
  try {
    const machine = describeMachine(dir);
    const date = new Date().toISOString();
    const kept = options.keep ? readResult(options.path) : null;
    const before = kept ?? emptyResult(date, machine);
    const measured = await measureMatrix({
      ...options,
      ...{ dir, firstRound: nextRound(before), signal: stopper.signal, note },
    });
    const { rounds, runtimeSeconds, sizeBytes, prefill } = options;
    const piece = {
      ...{ date, commit: String(machine['commit']), rounds, runtimeSeconds, sizeBytes, prefill },
      systems: options.systems.map(({ name }) => name),
      workloads: options.workloads.map(({ id }) => id),
    };
    const result = withPiece(before, piece, measured);
    writeResult(options.path, result);
    note(`written: ${options.path}`);
    return result;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    rmSync(dir, { recursive: true, force: true });
  }
}
