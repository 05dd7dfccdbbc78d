import { BufferPool } from './buffer-pool.ts';
import { releasePages } from './release-pages.ts';
import { SharedBytes } from './shared-bytes.ts';
import type { DataHandler } from './sockets.ts';

export interface ReceiveOptions {
  /** first size of the receive buffer (bytes) */
  receiveBytes: number;
  /** the buffer grows up to this for one message, and shrinks again when it is not needed (bytes) */
  maxReceiveBytes: number;
  /** where memory for large messages comes from @default one for all connections of the thread */
  pool?: BufferPool;
}

/** Below this much free room a partial message is moved to the front of the buffer. */
const minReadBytes = 64 * 1024;

/** Messages above this get memory of their own, which whoever uses the payload may keep (bytes). */
export const largeMessageBytes = 64 * 1024;

/** A grown buffer shrinks after so many times that the first size would have done. */
const shrinkAfterFills = 256;

/** Memory for large messages that nobody uses, kept for reuse by one thread (bytes). */
const maxSpareBytes = 64 * 1024 * 1024;

const threadPool = new BufferPool(maxSpareBytes);

/**
 * What one connection receives into, filled by the kernel in place. When all is consumed the next
 * read starts at the front again, so in steady state nothing is allocated and nothing is moved.
 *
 * A large message whose length is known (`expect`) is read into memory that ends where it ends. Who
 * uses its payload for longer than the call keeps that memory (`keep`), and the connection goes on in
 * another piece: so the payload is never copied here.
 */
export class ReceiveBuffer {
  #memory: SharedBytes;
  #bytes: Buffer;
  #start = 0;
  #end = 0;
  #smallFills = 0;
  /** length of the message that begins at `#start`; 0: not known, or small */
  #expected = 0;
  /** of the last large message; the next one is probably as long */
  #usual = 0;
  #isKept = false;
  readonly #options: ReceiveOptions;
  readonly #pool: BufferPool;

  constructor(options: ReceiveOptions) {
    this.#options = options;
    this.#pool = options.pool ?? threadPool;
    this.#memory = this.#take(options.receiveBytes);
    this.#bytes = this.#memory.bytes;
  }

  /** received and not consumed */
  get keptBytes(): number {
    return this.#end - this.#start;
  }

  /** Where the next read goes; null when the limit is reached by one unfinished message. */
  room(): Buffer | null {
    if (this.#expected > 0) return this.#roomForExpected();
    if (this.#bytes.length - this.#end < minReadBytes) this.#makeRoom();
    if (this.#end === 0 && this.#usual === 0) return this.#bytes;
    const end = this.#end === 0 ? Math.min(this.#usual, this.#bytes.length) : this.#bytes.length;
    return this.#end < end ? this.#bytes.subarray(this.#end, end) : null;
  }

  /** `length` more bytes are at `room()`: offers all to the handler. */
  filled(length: number, handler: DataHandler): void {
    this.#end += length;
    const largeBytes = this.#expected;
    this.#offer(handler);
    if (this.#start === this.#end) this.#reset(largeBytes);
  }

  /**
   * Offers again what the handler left. Only consumes: the next read may already have been promised
   * the room behind what is here, so nothing is moved before it has happened.
   */
  offerKept(handler: DataHandler): void {
    if (this.#start !== this.#end) this.#offer(handler);
  }

  /** From within the handler: the message that it leaves unfinished has so many bytes in all. */
  expect(bytes: number): void {
    if (bytes > largeMessageBytes) this.#expected = bytes;
  }

  /**
   * From within the handler: what it was given stays as it is until it is released. Null when a copy of
   * the `bytes` that matter is cheaper than to give up the memory.
   */
  keep(bytes: number): SharedBytes | null {
    if (bytes <= largeMessageBytes || bytes * 2 < this.#bytes.length) return null;
    this.#isKept = true;
    return this.#memory.hold();
  }

  /**
   * Nothing has come for a while: what the buffer takes goes back to the kernel until something comes. Not from
   * within the handler. False while something is kept, or there is nothing to give back.
   */
  rest(): boolean {
    return this.#start === this.#end && !this.#isKept && releasePages(this.#bytes);
  }

  #offer(handler: DataHandler): void {
    this.#expected = 0;
    this.#start += handler(this.#bytes, this.#start, this.#end);
  }

  #roomForExpected(): Buffer | null {
    const end = this.#start + this.#expected;
    if (end > this.#bytes.length) {
      if (this.#expected > this.#options.maxReceiveBytes) return null;
      this.#moveTo(this.#expected);
    }
    return this.#bytes.subarray(this.#end, this.#start + this.#expected);
  }

  /** Everything is consumed. `largeBytes`: the last message was large, and so long. */
  #reset(largeBytes: number): void {
    const { receiveBytes } = this.#options;
    if (largeBytes > 0) {
      this.#usual = largeBytes;
      this.#smallFills = 0;
    } else if (this.#usual > 0 || this.#bytes.length > receiveBytes) {
      // a stream of large messages keeps its large buffer; one large message does not keep it for long
      this.#smallFills = this.#end > receiveBytes ? 0 : this.#smallFills + 1;
    }
    const isOver = this.#smallFills >= shrinkAfterFills;
    if (isOver) {
      this.#usual = 0;
      this.#smallFills = 0;
    }
    this.#start = 0;
    this.#end = 0;
    const size = this.#usual > 0 ? this.#usual : receiveBytes;
    if (isOver || this.#isKept || this.#bytes.length < size) this.#replace(this.#take(size));
  }

  #makeRoom(): void {
    const kept = this.#end - this.#start;
    if (!this.#isKept && this.#start > 0 && kept + minReadBytes <= this.#bytes.length) {
      this.#bytes.copyWithin(0, this.#start, this.#end);
      this.#start = 0;
      this.#end = kept;
    } else if (this.#isKept && kept + minReadBytes <= this.#bytes.length) {
      this.#moveTo(this.#bytes.length);
    } else if (this.#bytes.length < this.#options.maxReceiveBytes) {
      this.#moveTo(Math.min(this.#bytes.length * 2, this.#options.maxReceiveBytes));
    }
  }

  #moveTo(size: number): void {
    const memory = this.#take(size);
    this.#bytes.copy(memory.bytes, 0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    this.#replace(memory);
  }

  #replace(memory: SharedBytes): void {
    this.#memory.release();
    this.#memory = memory;
    this.#bytes = memory.bytes;
    this.#isKept = false;
  }

  #take(size: number): SharedBytes {
    return new SharedBytes(this.#pool.take(size), (bytes) => {
      this.#pool.give(bytes);
    });
  }
}
