import { chunkBytes } from '@stor/protocol';

import type { Extent } from '../block-device.ts';
import type { RangeLock } from '../core/replication/range-lock.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';

/**
 * What takes space at a member, clipped to the range; at most `limit` extents. To call something a
 * hole is to read zeros there, so what is being trimmed is data until every member has done it (I5).
 */
export function extentsOf(
  source: Member,
  lock: RangeLock,
  offset: number,
  length: number,
  limit: number,
): Extent[] {
  const end = offset + length;
  const { allocated } = source;
  if (!allocated) return [{ offset, length, allocated: true }];
  // one look for all of it, which is nearly always enough: a terabyte has four million chunks
  const isQuiet = lock.isReadable(offset, end);
  const endChunk = Math.ceil(end / chunkBytes);
  const extents: Extent[] = [];
  for (let at = offset; at < end && extents.length <= limit;) {
    const chunk = Math.floor(at / chunkBytes);
    const isHole = !allocated.has(chunk);
    const stop = isHole && !isQuiet ? chunk + 1 : allocated.runEnd(chunk, endChunk);
    const next = Math.min(end, stop * chunkBytes);
    const isAllocated = !isHole || !(isQuiet || lock.isReadable(at, next));
    const last = extents[extents.length - 1];
    if (last && last.allocated === isAllocated) last.length += next - at;
    else extents.push({ offset: at, length: next - at, allocated: isAllocated });
    at = next;
  }
  return extents.slice(0, limit);
}

/** How much of the range is a hole, in the same sense, from its beginning; 0 when none of it is (bytes). */
export function holeBytesOf(segment: Segment, offset: number, length: number): number {
  const source = segment.localIsInSync ? segment.local : firstSource(segment);
  const allocated = source?.allocated;
  // most reads are of data: they end here
  if (!allocated || allocated.has(Math.floor(offset / chunkBytes)) || !segment.leased) return 0;
  const end = offset + length;
  let at = offset;
  while (at < end && !allocated.has(Math.floor(at / chunkBytes))) {
    at = Math.min(end, (Math.floor(at / chunkBytes) + 1) * chunkBytes);
  }
  return segment.lock.isReadable(offset, at) ? at - offset : 0;
}

/** As the first of `sources`, without a list. */
function firstSource(segment: Segment): Member | null {
  for (const member of segment.members) {
    if (member.isOpen && segment.isInSync(member)) return member;
  }
  return null;
}
