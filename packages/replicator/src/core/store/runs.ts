import { blockBytes, blocksPerChunk, chunkBytes } from '@stor/protocol';

import type { PagedNumbers } from './paged-numbers.ts';

/** A piece of a request that is contiguous in the data file, or a hole. */
export interface Run {
  /** linear block of its first block; -1: not allocated, reads as zeros */
  linear: number;
  /** blocks */
  count: number;
  /** blocks from the start of the request */
  at: number;
}

/** Cuts `[offset, offset + length)` where the data file is not contiguous, in order. */
export function runsOf(slotOf: PagedNumbers, offset: number, length: number): Run[] {
  const runs: Run[] = [];
  let last: Run | null = null;
  for (let done = 0; done < length;) {
    const position = offset + done;
    const chunk = Math.floor(position / chunkBytes);
    const within = (position - chunk * chunkBytes) / blockBytes;
    const count = Math.min((length - done) / blockBytes, blocksPerChunk - within);
    const slotPlusOne = slotOf.get(chunk);
    const linear = slotPlusOne <= 0 ? -1 : (slotPlusOne - 1) * blocksPerChunk + within;
    const joins: boolean =
      last !== null && (linear === -1 ? last.linear === -1 : last.linear + last.count === linear);
    if (last && joins && (linear === -1) === (last.linear === -1)) last.count += count;
    else runs.push((last = { linear, count, at: done / blockBytes }));
    done += count * blockBytes;
  }
  return runs;
}
