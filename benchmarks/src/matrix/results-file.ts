import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { checkoutRoot } from '../harness/checkout.ts';
import { summarise, type Sample, type Summary } from '../measure/rounds.ts';
import { benchWorkloads } from '../measure/workloads.ts';
import type { Machine } from './machine.ts';
import type { MatrixResult, SystemFacts } from './measure-matrix.ts';

/** One run of the programs: what it measured, and when. Its rounds have numbers of their own. */
export interface Piece {
  date: string;
  commit: string;
  rounds: number;
  runtimeSeconds: number;
  sizeBytes: number;
  prefill: string;
  systems: string[];
  workloads: string[];
}

export interface BenchResult {
  date: string;
  machine: Machine;
  pieces: Piece[];
  systems: SystemFacts[];
  summaries: Summary[];
  samples: Sample[];
}

export function resultsFolder(): string {
  return join(checkoutRoot(), 'benchmarks/results');
}

/** DATE-HOST.json, or DATE-HOST-SUFFIX.json. */
export function resultsPath(date: Date, suffix: string): string {
  const name = [date.toISOString().slice(0, 10), hostname(), ...(suffix === '' ? [] : [suffix])];
  return join(resultsFolder(), `${name.join('-')}.json`);
}

export function emptyResult(date: string, machine: Machine): BenchResult {
  return { date, machine, pieces: [], systems: [], summaries: [], samples: [] };
}

/** The number of the next round: one that is measured later is not a neighbour of any before. */
export function nextRound({ samples }: BenchResult): number {
  return samples.reduce((last, sample) => Math.max(last, sample.round), 0) + 1;
}

/** A result with one piece more. What is known of a system is what its last piece knows. */
export function withPiece(before: BenchResult, piece: Piece, added: MatrixResult): BenchResult {
  const samples = [...before.samples, ...added.samples];
  const systems = [
    ...before.systems.filter(({ name }) => !added.systems.some((other) => other.name === name)),
    ...added.systems,
  ];
  const pieces = [...before.pieces, piece];
  return { ...before, pieces, systems, samples, summaries: summariesOf(samples, systems) };
}

function summariesOf(samples: readonly Sample[], systems: readonly SystemFacts[]): Summary[] {
  const servers = systems.map(({ name }) => name);
  return benchWorkloads.flatMap(({ name }) =>
    servers
      .map((server) => summarise(samples, name, server))
      .filter((summary) => summary.rounds > 0),
  );
}

/** Null when there is no such file. Throws when it is no result of this program. */
export function readResult(path: string): BenchResult | null {
  if (!existsSync(path)) return null;
  const json = JSON.parse(readFileSync(path, 'utf8')) as Partial<BenchResult>;
  if (!Array.isArray(json.samples) || !Array.isArray(json.pieces)) {
    throw new Error(`${path} is no result of "npm run bench" or "npm run accept -- fast"`);
  }
  return json as BenchResult;
}

/** Replaces the file as a whole: pieces of hours must not be lost to one that is broken off. */
export function writeResult(path: string, result: BenchResult): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.new`, `${JSON.stringify(result, null, 1)}\n`);
  renameSync(`${path}.new`, path);
}
