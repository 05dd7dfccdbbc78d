import { blockBytes, blocksPerChunk, chunkBytes } from '@stor/protocol';

import { Bitmap } from './bitmap.ts';

/** Chunks of a segment that are trimmed in part and remembered; the oldest are forgotten (some 150 bytes each). */
export const maxTrimmedChunks = 4_096;

/**
 * Which blocks of partly trimmed chunks read as zeros because clients trimmed or zeroed them, and
 * did not write them since. When that is all of them the chunk can be freed as a whole: file systems trim in
 * pieces smaller than a chunk. It is known in memory only: after a restart it begins anew.
 */
export class TrimmedChunks {
  /** in the order in which they were first trimmed */
  readonly #blocks = new Map<number, Bitmap>();

  get size(): number {
    return this.#blocks.size;
  }

  /**
   * The range is zeroed, and what it covers of chunks may be freed. Chunks that have become zeros by
   * it, those that it covers as a whole not counted.
   */
  zeroed(offset: number, length: number, sizeBytes: number): number[] {
    const complete: number[] = [];
    const end = offset + length;
    for (let chunk = Math.floor(offset / chunkBytes); chunk * chunkBytes < end; chunk++) {
      const start = chunk * chunkBytes;
      if (offset <= start && end >= start + chunkBytes) {
        this.#blocks.delete(chunk);
        continue;
      }
      const blocks = this.#blocksOf(chunk);
      const last = Math.min(end, start + chunkBytes);
      for (let at = Math.max(offset, start); at < last; at += blockBytes) {
        blocks.add((at - start) / blockBytes);
      }
      if (this.isComplete(chunk, sizeBytes)) complete.push(chunk);
    }
    return complete;
  }

  #blocksOf(chunk: number): Bitmap {
    let blocks = this.#blocks.get(chunk);
    if (blocks) return blocks;
    blocks = new Bitmap(blocksPerChunk);
    this.#blocks.set(chunk, blocks);
    if (this.#blocks.size > maxTrimmedChunks) {
      const [oldest] = this.#blocks.keys();
      if (oldest !== undefined) this.#blocks.delete(oldest);
    }
    return blocks;
  }

  /** The range holds data now, or is to keep its space. */
  written(offset: number, length: number): void {
    if (this.#blocks.size === 0) return;
    const end = offset + length;
    for (let chunk = Math.floor(offset / chunkBytes); chunk * chunkBytes < end; chunk++) {
      const blocks = this.#blocks.get(chunk);
      if (!blocks) continue;
      const start = chunk * chunkBytes;
      const last = Math.min(end, start + chunkBytes);
      for (let at = Math.max(offset, start); at < last; at += blockBytes) {
        blocks.delete((at - start) / blockBytes);
      }
      if (blocks.count === 0) this.#blocks.delete(chunk);
    }
  }

  /** All its blocks inside the segment are trimmed. */
  isComplete(chunk: number, sizeBytes: number): boolean {
    const bytes = Math.min(chunkBytes, sizeBytes - chunk * chunkBytes);
    const count = this.#blocks.get(chunk)?.count ?? 0;
    return count > 0 && count >= Math.ceil(bytes / blockBytes);
  }

  /** It is being freed. */
  freed(chunk: number): void {
    this.#blocks.delete(chunk);
  }

  /** The image is another one. */
  clear(): void {
    this.#blocks.clear();
  }
}
