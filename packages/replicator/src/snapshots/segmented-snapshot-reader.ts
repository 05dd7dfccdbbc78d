import type { SnapshotId, StorError } from '@stor/protocol';

import type { StoreDone } from '../replica-store.ts';
import type { DirtyDone, ExtentsDone, SnapshotReader } from './snapshot-reader.ts';

interface Part {
  reader: SnapshotReader;
  /** where its segment begins in the volume */
  base: number;
  /** within the segment */
  offset: number;
  length: number;
}

/** A snapshot of a volume of several segments: one reader for each, one after the other. */
export class SegmentedSnapshotReader implements SnapshotReader {
  readonly sizeBytes: number;
  readonly #readers: readonly SnapshotReader[];
  readonly #segmentBytes: number;

  constructor(readers: readonly SnapshotReader[], segmentBytes: number, sizeBytes: number) {
    this.#readers = readers;
    this.#segmentBytes = segmentBytes;
    this.sizeBytes = sizeBytes;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    const parts = this.#parts(offset, length);
    let open = parts.length;
    let failed: StorError | null = null;
    for (const part of parts) {
      const at = start + part.base + part.offset - offset;
      part.reader.read(part.offset, part.length, target, at, (error) => {
        failed ??= error;
        open -= 1;
        // the target is the caller's again only when nobody writes to it any more
        if (open === 0) done(failed);
      });
    }
  }

  extents(offset: number, length: number, limit: number, done: ExtentsDone): void {
    const [first] = this.#parts(offset, length);
    if (!first) return;
    const { reader, base } = first;
    // what lies in the segments behind is asked for next: a shorter answer is allowed
    reader.extents(first.offset, first.length, limit, (error, extents) => {
      done(
        error,
        extents.map((extent) => ({ ...extent, offset: extent.offset + base })),
      );
    });
  }

  changedSince(
    since: SnapshotId,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void {
    const [first] = this.#parts(offset, length);
    if (!first) return;
    const { reader, base } = first;
    reader.changedSince(since, first.offset, first.length, limit, (error, extents) => {
      done(
        error,
        extents.map((extent) => ({ ...extent, offset: extent.offset + base })),
      );
    });
  }

  close(): void {
    for (const reader of this.#readers) reader.close();
  }

  #parts(offset: number, length: number): Part[] {
    const parts: Part[] = [];
    const end = offset + length;
    for (let at = offset; at < end;) {
      const index = Math.floor(at / this.#segmentBytes);
      const base = index * this.#segmentBytes;
      const reader = this.#readers[index];
      if (!reader) throw new Error(`a range beyond the end of the snapshot: ${offset}+${length}`);
      const next = Math.min(end, base + this.#segmentBytes);
      parts.push({ reader, base, offset: at - base, length: next - at });
      at = next;
    }
    return parts;
  }
}
