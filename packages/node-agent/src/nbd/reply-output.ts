import type { StreamSocket } from '@stor/runtime';

/** Size of one output buffer: holds the largest inline read with its header, and many small ones. */
export const outputBufferBytes = 256 * 1024;
/** Free output buffers kept by a server. */
const maxFreeBuffers = 64;

/** A piece of the reply stream that is being filled, or that the socket has not taken yet. */
export class OutputBuffer {
  readonly bytes = Buffer.allocUnsafeSlow(outputBufferBytes);
  used = 0;
  owner: ReplyOutput | null = null;
  readonly #pool: OutputBufferPool;
  #filled = this.bytes;

  constructor(pool: OutputBufferPool) {
    this.#pool = pool;
  }

  /** What is in it; the same object as long as that has the same length. */
  get filled(): Buffer {
    if (this.#filled.length !== this.used) this.#filled = this.bytes.subarray(0, this.used);
    return this.#filled;
  }

  /** For the socket: made once, so that a write makes no closure. */
  readonly written = (): void => {
    const { owner } = this;
    this.owner = null;
    this.used = 0;
    this.#pool.give(this);
    owner?.onWritten();
  };
}

/** Shared by all connections of a server: an idle one holds no output buffer. */
export class OutputBufferPool {
  readonly #free: OutputBuffer[] = [];

  take(owner: ReplyOutput): OutputBuffer {
    const buffer = this.#free.pop() ?? new OutputBuffer(this);
    buffer.owner = owner;
    return buffer;
  }

  give(buffer: OutputBuffer): void {
    if (this.#free.length < maxFreeBuffers) this.#free.push(buffer);
  }
}

interface Piece {
  bytes: Uint8Array;
  written: () => void;
}

/**
 * The replies of one connection, in order, gathered until `flush` hands them to the socket in one
 * system call. A buffer is used again only after the socket has said that it is done with it.
 */
export class ReplyOutput {
  /** bytes not given to the socket yet */
  queuedBytes = 0;
  /** called when the socket is done with some of it */
  onWritten: () => void = () => {};
  readonly #socket: StreamSocket;
  readonly #pool: OutputBufferPool;
  #current: OutputBuffer | null = null;
  /** full pieces in front of the current one */
  #full: Piece[] = [];

  constructor(socket: StreamSocket, pool: OutputBufferPool) {
    this.#socket = socket;
    this.#pool = pool;
  }

  /**
   * A buffer with room for `length` contiguous bytes (at most `outputBufferBytes`) from `used` on;
   * what is written there counts once `commit` has been called.
   */
  reserve(length: number): OutputBuffer {
    let current = this.#current;
    if (current && current.used + length > outputBufferBytes) {
      this.#seal(current);
      current = null;
    }
    current ??= this.#pool.take(this);
    this.#current = current;
    return current;
  }

  commit(buffer: OutputBuffer, length: number): void {
    buffer.used += length;
    this.queuedBytes += length;
  }

  /** Appends bytes without copying; they stay unchanged until `written`. */
  append(bytes: Uint8Array, written: () => void): void {
    if (this.#current) this.#seal(this.#current);
    this.#current = null;
    this.queuedBytes += bytes.length;
    this.#full.push({ bytes, written });
  }

  flush(): void {
    if (this.queuedBytes === 0) return;
    this.queuedBytes = 0;
    const current = this.#current;
    this.#current = null;
    if (this.#full.length === 0) {
      if (current) this.#socket.write(current.filled, current.written);
      return;
    }
    this.#socket.cork();
    for (const piece of this.#full) this.#socket.write(piece.bytes, piece.written);
    this.#full = [];
    if (current && current.used > 0) {
      this.#socket.write(current.filled, current.written);
    } else if (current) {
      this.#current = current;
    }
    this.#socket.uncork();
  }

  /** The connection is over: what was not sent never will be. */
  discard(): void {
    this.queuedBytes = 0;
    this.#full = [];
    this.#current = null;
    this.onWritten = () => {};
  }

  #seal(current: OutputBuffer): void {
    if (current.used === 0) {
      current.owner = null;
      this.#pool.give(current);
      return;
    }
    this.#full.push({ bytes: current.filled, written: current.written });
  }
}
