import { StorError } from '@stor/protocol';
import type { NbdOpener, NbdSession } from '../../src/nbd-session.ts';

const grainBytes = 4096;

/** One export in memory that counts what is asked of it. */
export class MemoryExport {
  readonly bytes: Buffer;
  /** which 4 KiB grains were written and not zeroed since */
  readonly allocated: Set<number> = new Set();
  readonly counts = { read: 0, write: 0, writeZeroes: 0, flush: 0, blockStatus: 0, closed: 0 };
  /** writes not flushed yet */
  dirty = 0;
  inFlight = 0;
  maxInFlight = 0;
  /** holds the answers until so many requests are in flight */
  gate = { requests: 0, open: () => {}, opened: Promise.resolve() };
  maxExtents = Infinity;
  failWriteAt: number | null = null;
  readBytes = 0;

  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
  }

  holdUntilInFlight(requests: number): void {
    let open = () => {};
    const opened = new Promise<void>((resolve) => (open = resolve));
    this.gate = { requests, open, opened };
  }

  session(): NbdSession {
    const after = async <T>(work: () => T): Promise<T> => {
      this.inFlight += 1;
      this.maxInFlight = Math.max(this.maxInFlight, this.inFlight);
      if (this.inFlight >= this.gate.requests) this.gate.open();
      await this.gate.opened;
      await new Promise((resolve) => setImmediate(resolve));
      this.inFlight -= 1;
      return work();
    };
    return {
      sizeBytes: this.bytes.length,
      read: (offset, length) =>
        after(() => {
          this.counts.read += 1;
          this.readBytes += length;
          return Buffer.from(this.bytes.subarray(offset, offset + length));
        }),
      write: (offset, bytes) =>
        after(() => {
          this.counts.write += 1;
          if (this.failWriteAt !== null && offset >= this.failWriteAt) {
            throw new StorError('NO_SPACE', 'no space left in the pool');
          }
          this.bytes.set(bytes, offset);
          this.dirty += 1;
          this.#mark(offset, bytes.length, true);
        }),
      writeZeroes: (offset, length) =>
        after(() => {
          this.counts.writeZeroes += 1;
          this.bytes.fill(0, offset, offset + length);
          this.dirty += 1;
          this.#mark(offset, length, false);
        }),
      flush: () =>
        after(() => {
          this.counts.flush += 1;
          this.dirty = 0;
        }),
      blockStatus: (offset, length) =>
        after(() => {
          this.counts.blockStatus += 1;
          return this.#extents(offset, length);
        }),
      close: async () => void (this.counts.closed += 1),
    };
  }

  #mark(offset: number, length: number, allocated: boolean): void {
    const first = allocated ? Math.floor(offset / grainBytes) : Math.ceil(offset / grainBytes);
    const last = allocated
      ? Math.ceil((offset + length) / grainBytes)
      : Math.floor((offset + length) / grainBytes);
    for (let grain = first; grain < last; grain++) {
      if (allocated) this.allocated.add(grain);
      else this.allocated.delete(grain);
    }
  }

  #extents(offset: number, length: number): { length: number; zero: boolean }[] {
    const extents: { length: number; zero: boolean }[] = [];
    for (let at = offset; at < offset + length;) {
      const end = Math.min((Math.floor(at / grainBytes) + 1) * grainBytes, offset + length);
      const zero = !this.allocated.has(Math.floor(at / grainBytes));
      const last = extents.at(-1);
      if (last && last.zero === zero) last.length += end - at;
      else if (extents.length === this.maxExtents) break;
      else extents.push({ length: end - at, zero });
      at = end;
    }
    return extents;
  }
}

/** Opens the first export that is there, by URI; an address that is not there refuses. */
export function memoryNbd(exports: Map<string, MemoryExport>): NbdOpener {
  return async (uri, { otherUris = [] }) => {
    const uris = [uri, ...otherUris];
    const found = uris.map((one) => exports.get(one)).find((one) => one !== undefined);
    if (found) return found.session();
    throw new StorError('UNAVAILABLE', uris.map((one) => `${one}: connection refused`).join('; '));
  };
}
