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
  const extents: Extent[] = [];
  for (let at = offset; at < end && extents.length <= limit;) {
    const next = Math.min(end, (Math.floor(at / chunkBytes) + 1) * chunkBytes);
    const isHole = allocated?.has(Math.floor(at / chunkBytes)) === false;
    const isAllocated = !isHole || !lock.isReadable(at, next);
    const last = extents[extents.length - 1];
    if (last && last.allocated === isAllocated) last.length += next - at;
    else extents.push({ offset: at, length: next - at, allocated: isAllocated });
    at = next;
  }
  return extents.slice(0, limit);
}
