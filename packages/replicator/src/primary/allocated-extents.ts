import { chunkBytes } from '@stor/protocol';

import type { Extent } from '../block-device.ts';
import type { RangeLock } from '../core/replication/range-lock.ts';
import type { Member } from './member.ts';

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
  const extents: Extent[] = [];
  for (let at = offset; at < end && extents.length <= limit;) {
    const chunk = Math.floor(at / chunkBytes);
    const isHole = !allocated.has(chunk);
    const stop = isHole ? allocated.next(chunk) : allocated.nextMissing(chunk);
    const runEnd = stop < 0 ? end : Math.min(end, stop * chunkBytes);
    const next = isHole && !isQuiet ? Math.min(end, (chunk + 1) * chunkBytes) : runEnd;
    const isAllocated = !isHole || !(isQuiet || lock.isReadable(at, next));
    const last = extents[extents.length - 1];
    if (last && last.allocated === isAllocated) last.length += next - at;
    else extents.push({ offset: at, length: next - at, allocated: isAllocated });
    at = next;
  }
  return extents.slice(0, limit);
}
