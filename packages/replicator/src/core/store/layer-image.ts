import { chunkBytes } from '@stor/protocol';
import type { Extent } from '../../block-device.ts';
import { PagedNumbers } from './paged-numbers.ts';

/**
 * One view of a lineage, flat: where each chunk lies as seen from the layer `top`. Reading costs the
 * same however many layers there are. `LineageTables` keeps it true.
 */
export class LayerImage {
  top: number;
  sizeBytes: number;
  /** slot + 1 of each chunk that has data; 0: none has it; -(slot + 1): a hole hides what is below */
  readonly slotOf: PagedNumbers;
  allocatedChunks = 0;
  /** places from `top` down to the root */
  path = new Set<number>();
  /** hidden layers below `top` that nobody else sees: their slots may be taken over, not copied */
  exclusive = new Set<number>();

  constructor(top: number, sizeBytes: number) {
    this.top = top;
    this.sizeBytes = sizeBytes;
    this.slotOf = new PagedNumbers(Math.ceil(sizeBytes / chunkBytes));
  }

  get chunkCount(): number {
    return this.slotOf.length;
  }

  put(chunk: number, value: number): void {
    const before = this.slotOf.get(chunk);
    if (before > 0) this.allocatedChunks -= 1;
    if (value > 0) this.allocatedChunks += 1;
    this.slotOf.put(chunk, value);
  }

  grow(sizeBytes: number): void {
    this.sizeBytes = sizeBytes;
    this.slotOf.grow(Math.ceil(sizeBytes / chunkBytes));
  }

  /** The first chunk at or after `from` that reads as data, or -1. */
  nextAllocated(from: number): number {
    let chunk = this.slotOf.next(from);
    while (chunk >= 0 && this.slotOf.get(chunk) < 0) chunk = this.slotOf.next(chunk + 1);
    return chunk;
  }

  clear(): void {
    this.slotOf.clear();
    this.allocatedChunks = 0;
  }
}

/** Extents that cover the range in order; at most `limit` of them, the first ones. */
export function extentsOf(
  image: LayerImage,
  offset: number,
  length: number,
  limit: number,
): Extent[] {
  const extents: Extent[] = [];
  const end = offset + length;
  for (let position = offset; position < end;) {
    const chunk = Math.floor(position / chunkBytes);
    const next = Math.min(end, (chunk + 1) * chunkBytes);
    const allocated = image.slotOf.get(chunk) > 0;
    const last = extents.at(-1);
    if (last?.allocated === allocated) last.length += next - position;
    else if (extents.length === limit) break;
    else extents.push({ offset: position, length: next - position, allocated });
    position = next;
  }
  return extents;
}
