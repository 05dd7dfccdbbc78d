const smallestBytes = 4096;

/**
 * Buffers for reads that cannot be answered at once, by powers of two, shared by all connections of a
 * server. A buffer that was given back comes out again with its old bytes, so whoever takes one must
 * send only what he has filled.
 */
export class ReadBufferPool {
  readonly #maxFreeBytes: number;
  readonly #free = new Map<number, Buffer[]>();
  #freeBytes = 0;

  /** @param maxFreeBytes bytes kept for reuse; what is above is left to the garbage collector */
  constructor(maxFreeBytes: number) {
    this.#maxFreeBytes = maxFreeBytes;
  }

  /** A buffer of at least `length` bytes. */
  take(length: number): Buffer {
    let size = smallestBytes;
    while (size < length) size *= 2;
    const buffer = this.#free.get(size)?.pop();
    if (!buffer) return Buffer.allocUnsafeSlow(size);
    this.#freeBytes -= size;
    return buffer;
  }

  /** Only once, and only when neither device nor socket will touch it any more. */
  give(buffer: Buffer): void {
    const size = buffer.length;
    if (this.#freeBytes + size > this.#maxFreeBytes) return;
    const list = this.#free.get(size);
    if (list) list.push(buffer);
    else this.#free.set(size, [buffer]);
    this.#freeBytes += size;
  }
}
