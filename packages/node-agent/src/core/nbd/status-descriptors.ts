import type { Extent } from '@stor/replicator';
import { allocationState, type StatusDescriptor } from 'nbd-client-js';

/** A range and the flags of one metadata context there. */
export interface FlaggedExtent {
  offset: number;
  length: number;
  flags: number;
}

/** In `base:allocation`. */
export function allocationExtent({ offset, length, allocated }: Extent): FlaggedExtent {
  return { offset, length, flags: allocated ? 0 : allocationState.hole | allocationState.zero };
}

/**
 * Turns extents into the descriptors of one BLOCK_STATUS answer: clipped to the request,
 * neighbours of one kind joined, at most `limit`. Extents that do not follow each other end the list,
 * for a server may say less than was asked. With nothing to say the range gets `unknownFlags`, which
 * must be right for any block.
 */
export function statusDescriptors(
  extents: readonly FlaggedExtent[],
  offset: number,
  length: number,
  limit: number,
  unknownFlags: number,
): StatusDescriptor[] {
  const end = offset + length;
  const descriptors: StatusDescriptor[] = [];
  let at = offset;
  for (const extent of extents) {
    const extentEnd = Math.min(extent.offset + extent.length, end);
    if (extentEnd <= at) continue;
    if (extent.offset > at) break;
    const { flags } = extent;
    const last = descriptors.at(-1);
    if (last && last.flags === flags) last.length += extentEnd - at;
    else if (descriptors.length === limit) break;
    else descriptors.push({ length: extentEnd - at, flags });
    at = extentEnd;
    if (at === end) break;
  }
  return descriptors.length > 0 ? descriptors : [{ length, flags: unknownFlags }];
}
