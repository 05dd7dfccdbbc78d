import { chunkBytes } from '@stor/protocol';

import type { Extent } from '../block-device.ts';
import type { Member } from './member.ts';

/** What takes space at a member, clipped to the range; at most `limit` extents. */
export function extentsOf(source: Member, offset: number, length: number, limit: number): Extent[] {
  const end = offset + length;
  const { allocated } = source;
  const extents: Extent[] = [];
  for (let at = offset; at < end && extents.length <= limit;) {
    const next = Math.min(end, (Math.floor(at / chunkBytes) + 1) * chunkBytes);
    const isAllocated = allocated?.has(Math.floor(at / chunkBytes)) ?? true;
    const last = extents[extents.length - 1];
    if (last && last.allocated === isAllocated) last.length += next - at;
    else extents.push({ offset: at, length: next - at, allocated: isAllocated });
    at = next;
  }
  return extents.slice(0, limit);
}
