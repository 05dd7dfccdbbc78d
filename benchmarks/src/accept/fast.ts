import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseOptions } from '../harness/parse-options.ts';
import { describeMachine } from '../matrix/machine.ts';
import {
  emptyResult,
  nextRound,
  readResult,
  resultsPath,
  withPiece,
  writeResult,
  type BenchResult,
} from '../matrix/results-file.ts';
import { whyNot } from '../matrix/result-table.ts';
import { estimateSeconds, runPiece, type PieceOptions } from '../matrix/run-piece.ts';
import { systemsNamed } from '../matrix/systems.ts';
import { workloadsLike } from '../measure/workloads.ts';
import { measureColdHot } from './fast/cold-hot.ts';
import { readRecordedPeers } from './fast/recorded.ts';
import { groups, systemsOf, workloadsOf, type Group } from './fast/targets.ts';
import { verdictLines, type VerdictLine } from './fast/verdict-table.ts';

const MiB = 1024 * 1024;
const parts = [...groups, 'cold-hot'] as const;

const usage = `usage: npm run accept -- fast [PART...] [--only TEXT] [--systems A,B] [--rounds N] [--seconds N]
                                [--into FILE] [--fresh] [--table] [--size BYTES] [--prefill BYTES]
                                [--cold-size BYTES] [--dir DIR]
Measures what Stor promises about its speed, beside its peers in interleaved rounds, adds the samples
to a file of results and prints the table of all that is in it. Ends with 1 when a must is missed.

  parts       ${parts.join(', ')}; default: all
  --only      workloads whose name holds the text
  --rounds    default 9, of --seconds 10 each; run pieces of fewer rounds again and again: they add up
  --into      default: benchmarks/results/DATE-HOST-fast.json; --fresh begins it anew
  --table     measures nothing
  --size      of each volume, default 1 GiB; of the one that is read cold: --cold-size, default 6 GiB
  --prefill   size of the requests that fill volumes and files before, default 1m: a figure that is recorded
              was measured beside a file filled so. 4k is the better case for a server on a plain file
`;

const { positionals, values } = parseOptions(usage, {
  allowPositionals: true,
  options: {
    only: { type: 'string', default: '' },
    systems: { type: 'string' },
    rounds: { type: 'string', default: '9' },
    seconds: { type: 'string', default: '10' },
    size: { type: 'string', default: String(1024 * MiB) },
    'cold-size': { type: 'string', default: String(6 * 1024 * MiB) },
    prefill: { type: 'string', default: '1m' },
    dir: { type: 'string', default: tmpdir() },
    into: { type: 'string' },
    fresh: { type: 'boolean', default: false },
    table: { type: 'boolean', default: false },
  },
});

const path = resolve(values.into ?? resultsPath(new Date(), 'fast'));
const wanted = parts.filter((part) => positionals.length === 0 || positionals.includes(part));

function pieceOf(group: Group): PieceOptions {
  const chosen = values.systems?.split(',');
  const systems = systemsOf[group].filter((name) => chosen?.includes(name) ?? true);
  const ids = workloadsOf(group);
  return {
    systems: systemsNamed(systems),
    workloads: workloadsLike(values.only).filter(({ id }) => ids.includes(id)),
    rounds: Number(values.rounds),
    runtimeSeconds: Number(values.seconds),
    sizeBytes: Number(values.size),
    prefill: values.prefill,
    parentDir: resolve(values.dir),
    path,
    keep: true,
  };
}

async function coldHotPiece(): Promise<void> {
  const dir = mkdtempSync(join(resolve(values.dir), 'stor-cold-hot-'));
  const stopper = new AbortController();
  const stop = (): void => stopper.abort(new Error('interrupted'));
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    const machine = describeMachine(dir);
    const date = new Date().toISOString();
    const before = readResult(path) ?? emptyResult(date, machine);
    const settings = { rounds: Number(values.rounds), runtimeSeconds: Number(values.seconds) };
    const sizeBytes = Number(values['cold-size']);
    const samples = await measureColdHot({
      ...settings,
      ...{ dir, firstRound: nextRound(before), coldBytes: sizeBytes, signal: stopper.signal },
      note: (text) => void process.stderr.write(`${text}\n`),
    });
    const what = { systems: ['stor-1'], workloads: ['cold-hot'], prefill: '1m', sizeBytes };
    const piece = { date, commit: String(machine['commit']), ...settings, ...what };
    writeResult(path, withPiece(before, piece, { systems: [], samples }));
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    rmSync(dir, { recursive: true, force: true });
  }
}

function printLine(line: VerdictLine): void {
  const verdict = line.isMet ? (line.isAimMet ? 'ok    ' : 'must  ') : 'MISSED';
  const target = line.aim === '' ? line.must : `${line.must} (${line.aim})`;
  process.stdout.write(
    `${verdict}  ${line.name.padEnd(74)} ${line.value.padStart(8)}  ${target.padEnd(18)} ${line.detail}\n`,
  );
}

function printTable(result: BenchResult): boolean {
  const lines = verdictLines(result.samples, readRecordedPeers());
  for (const line of lines) printLine(line);
  for (const { name, failure } of result.systems) {
    if (failure !== null) process.stdout.write(`${name} was ${whyNot(failure)}\n`);
  }
  const missed = lines.filter((line) => !line.isMet).length;
  const short = lines.filter((line) => line.isMet && !line.isAimMet).length;
  process.stdout.write(
    `\n${lines.length - missed - short} ok, ${short} above the must only, ${missed} missed\n`,
  );
  return missed === 0 && lines.length > 0;
}

async function main(): Promise<number> {
  const unknown = positionals.filter((name) => !parts.some((part) => part === name));
  if (unknown.length > 0) {
    process.stderr.write(`error: no part ${unknown.join(', ')}\n${usage}`);
    return 2;
  }
  if (values.fresh && !values.table) rmSync(path, { force: true });
  if (!values.table) {
    const pieces = wanted.filter((part) => part !== 'cold-hot').map(pieceOf);
    const fit = pieces.filter(({ systems, workloads }) => systems.length * workloads.length > 0);
    const withColdHot = wanted.includes('cold-hot') && values.only === '';
    const coldSeconds = withColdHot ? Number(values.rounds) * (2 * Number(values.seconds) + 5) : 0;
    const seconds = fit.reduce((sum, piece) => sum + estimateSeconds(piece), coldSeconds);
    process.stderr.write(`all parts take about ${Math.ceil(seconds / 60)} min\n`);
    for (const piece of fit) await runPiece(piece);
    if (withColdHot) await coldHotPiece();
  }
  const result = readResult(path);
  if (!result) throw new Error(`there is no file ${path}: nothing was measured`);
  return printTable(result) ? 0 : 1;
}

process.exitCode = await main();
