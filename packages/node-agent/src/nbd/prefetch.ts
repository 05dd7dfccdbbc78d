import type { StorError } from '@stor/protocol';
import type { BlockDevice, BlockRequest } from '@stor/replicator';
import type { ReadBufferPool } from './read-buffer-pool.ts';

/** Read at a time (bytes): enough for the disk, little beside what clients have in flight. */
export const prefetchBytes = 1024 * 1024;

/**
 * CACHE: reads a range and throws it away, so that its next reader finds it in memory. One piece at a
 * time, through the same device as every other read, so it pays as they do.
 */
export class Prefetch implements BlockRequest {
  offset: number;
  length = 0;
  readonly bytes: Buffer;
  readonly start = 0;
  readonly retained = true;
  readonly fua = false;
  readonly noHole = false;
  readonly #of: BlockRequest;
  readonly #device: BlockDevice;
  readonly #buffers: ReadBufferPool;
  readonly #end: number;
  readonly #isOver: () => boolean;
  #running = false;
  #answered = false;

  /** Of the request at most `maxBytes` are read. `isOver`: nobody waits any more. */
  constructor(
    of: BlockRequest,
    device: BlockDevice,
    options: { buffers: ReadBufferPool; maxBytes: number; isOver: () => boolean },
  ) {
    this.#of = of;
    this.#device = device;
    this.#buffers = options.buffers;
    this.#isOver = options.isOver;
    this.offset = of.offset;
    this.#end = of.offset + Math.min(of.length, options.maxBytes);
    this.bytes = options.buffers.take(prefetchBytes);
  }

  /** Call it once; the request is done when the range was read. */
  run(): void {
    this.#running = true;
    do {
      this.#answered = false;
      const left = this.#end - this.offset;
      const holeBytes = this.#device.holeBytes?.(this.offset, left) ?? 0;
      this.offset += holeBytes;
      this.length = Math.min(prefetchBytes, left - holeBytes);
      if (this.length === 0) {
        this.#finish(null);
        return;
      }
      this.#device.read(this);
    } while (this.#answered && this.#running);
    this.#running = false;
  }

  done(error: StorError | null): void {
    this.#answered = true;
    this.offset += this.length;
    if (error || this.offset === this.#end || this.#isOver()) this.#finish(error);
    else if (!this.#running) this.run();
  }

  #finish(error: StorError | null): void {
    this.#running = false;
    this.#buffers.give(this.bytes);
    this.#of.done(error);
  }
}
