import { chunkBytes } from '@stor/protocol';

/** Chunks that are asked about at once, and remembered together (256 MiB). */
const windowChunks = 1_024;
export const windowBytes = windowChunks * chunkBytes;
/** Windows that are remembered, the last ones that were of use (16 GiB, in 64 KiB of memory). */
const maxWindows = 64;

const [isUnknown, isData, isHole] = [0, 1, 2];

/** What takes space and what does not, by offset; with `allocated` false it reads as zeros. */
export interface AllocatedRange {
  offset: number;
  length: number;
  allocated: boolean;
}

/**
 * Where something that never changes, a snapshot, is known to have holes. Questions about it take time
 * and may go to another node; a read must be told at once.
 */
export class KnownChunks {
  readonly #sizeBytes: number;
  /** by number; the one that was used last is the last */
  readonly #windows = new Map<number, Uint8Array>();

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** Takes an answer in; a chunk counts when the whole of it was told. */
  learn(ranges: readonly AllocatedRange[]): void {
    for (const { offset, length, allocated } of ranges) {
      const end = offset + length;
      const first = allocated ? Math.floor(offset / chunkBytes) : Math.ceil(offset / chunkBytes);
      const isLast = allocated || end === this.#sizeBytes;
      const last = isLast ? Math.ceil(end / chunkBytes) : Math.floor(end / chunkBytes);
      for (let chunk = first; chunk < last;) {
        const window = Math.floor(chunk / windowChunks);
        const base = window * windowChunks;
        const until = Math.min(last, base + windowChunks);
        this.#window(window).fill(allocated ? isData : isHole, chunk - base, until - base);
        chunk = until;
      }
    }
  }

  /** What is to be asked about before holes can be told from `offset` to `end`; null: that is known. */
  unknownIn(offset: number, end: number): { offset: number; length: number } | null {
    const last = Math.min(end, this.#sizeBytes);
    for (let chunk = Math.floor(offset / chunkBytes); chunk * chunkBytes < last; chunk++) {
      if (this.#stateAt(chunk) !== isUnknown) continue;
      const from = chunk * chunkBytes;
      return { offset: from, length: Math.min(windowBytes, this.#sizeBytes - from) };
    }
    return null;
  }

  /** How many bytes from `offset` on are known to be a hole, at most `length`. */
  holeBytes(offset: number, length: number): number {
    const end = offset + length;
    let at = offset;
    while (at < end && this.#stateAt(Math.floor(at / chunkBytes)) === isHole) {
      at = Math.min(end, (Math.floor(at / chunkBytes) + 1) * chunkBytes);
    }
    return at - offset;
  }

  #stateAt(chunk: number): number {
    const window = Math.floor(chunk / windowChunks);
    return this.#windows.get(window)?.[chunk - window * windowChunks] ?? isUnknown;
  }

  #window(window: number): Uint8Array {
    const known = this.#windows.get(window) ?? new Uint8Array(windowChunks);
    this.#windows.delete(window);
    this.#windows.set(window, known);
    if (this.#windows.size > maxWindows) {
      for (const oldest of this.#windows.keys()) {
        this.#windows.delete(oldest);
        break;
      }
    }
    return known;
  }
}
