import { chunkBytes } from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import type { DirtyExtent } from './snapshot-reader.ts';

/** Chunks that changed, as extents that cover the range in order; at most `limit`, the first ones. */
export function dirtyExtents(
  changed: { has(chunk: number): boolean },
  offset: number,
  length: number,
  limit: number,
): DirtyExtent[] {
  const end = offset + length;
  const extents: DirtyExtent[] = [];
  for (let at = offset; at < end;) {
    const chunk = Math.floor(at / chunkBytes);
    const next = Math.min(end, (chunk + 1) * chunkBytes);
    const isDirty = changed.has(chunk);
    const last = extents.at(-1);
    if (last?.dirty === isDirty) last.length += next - at;
    else if (extents.length === limit) break;
    else extents.push({ offset: at, length: next - at, dirty: isDirty });
    at = next;
  }
  return extents;
}

/** The same from ranges that changed, which are ascending and apart. */
export function dirtyWithin(
  changed: readonly { offset: number; length: number }[],
  offset: number,
  length: number,
  limit: number,
): DirtyExtent[] {
  const end = offset + length;
  const extents: DirtyExtent[] = [];
  let at = offset;
  const add = (to: number, dirty: boolean): void => {
    if (to > at) extents.push({ offset: at, length: to - at, dirty });
    at = Math.max(at, to);
  };
  for (const range of changed) {
    const rangeEnd = range.offset + range.length;
    if (rangeEnd <= offset) continue;
    if (range.offset >= end || extents.length > limit) break;
    add(Math.min(range.offset, end), false);
    add(Math.min(rangeEnd, end), true);
  }
  add(end, false);
  return extents.slice(0, limit);
}

/** The chunks of an image of `sizeBytes` that any of the extents calls dirty. */
export function dirtyBitmap(extents: readonly DirtyExtent[], sizeBytes: number): Bitmap {
  const map = new Bitmap(Math.ceil(sizeBytes / chunkBytes));
  for (const { offset, length, dirty } of extents) {
    if (!dirty) continue;
    const last = Math.ceil((offset + length) / chunkBytes);
    for (let chunk = Math.floor(offset / chunkBytes); chunk < last; chunk++) map.add(chunk);
  }
  return map;
}
