import { blocksEqual, type ChunkSums } from './settle-choice.ts';

/** Blocks of a chunk, `end` not included. */
export interface BlockRun {
  first: number;
  end: number;
}

/**
 * Equal blocks between two that differ are copied with them up to this many: a frame more costs each
 * side a call, a reply and a write of its own, which is more than 12 KiB do.
 */
export const maxGapBlocks = 3;
/** More runs than this of one chunk are joined: then they cost more than the blocks between them. */
export const maxRunsPerChunk = 8;

/** What of a chunk must be copied so that the member equals the source; ascending, apart. */
export function runsToCopy(source: ChunkSums, member: ChunkSums): BlockRun[] {
  const runs: BlockRun[] = [];
  for (let block = 0; block < source.valid.length; block++) {
    if (blocksEqual(source, member, block)) continue;
    const last = runs[runs.length - 1];
    if (last && block - last.end <= maxGapBlocks) last.end = block + 1;
    else runs.push({ first: block, end: block + 1 });
  }
  while (runs.length > maxRunsPerChunk) joinNearest(runs);
  return runs;
}

/** Joins the two neighbours with the fewest blocks between them. */
function joinNearest(runs: BlockRun[]): void {
  let best = 1;
  const gap = (at: number): number => (runs[at]?.first ?? 0) - (runs[at - 1]?.end ?? 0);
  for (let at = 2; at < runs.length; at++) if (gap(at) < gap(best)) best = at;
  const [joined] = runs.splice(best, 1);
  const before = runs[best - 1];
  if (joined && before) before.end = joined.end;
}
