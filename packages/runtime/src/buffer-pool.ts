import { releasePages } from './release-pages.ts';

/** Smaller buffers are cheap to allocate and are not kept (bytes). */
const minPooledBytes = 64 * 1024;

/**
 * Large buffers for reuse. Memory of a new one is mapped, cleared and unmapped by the kernel, and the
 * collector runs a full marking for every few tens of MiB of them: at 1 MiB writes that was a third
 * of a lane's CPU time.
 *
 * Whoever takes a buffer gives it back at most once, when nothing reads or writes it any more; one
 * that is never given back is only collected. Contents are left over from earlier use.
 */
export class BufferPool {
  readonly #maxSpareBytes: number;
  readonly #spare = new Map<number, Buffer[]>();
  readonly #isSpare = new Set<Buffer>();
  #spareBytes = 0;

  /** Keeps up to `maxSpareBytes` for reuse. */
  constructor(maxSpareBytes: number) {
    this.#maxSpareBytes = maxSpareBytes;
  }

  get spareBytes(): number {
    return this.#spareBytes;
  }

  /** At least `length` bytes. */
  take(length: number): Buffer {
    if (length < minPooledBytes) return Buffer.allocUnsafe(length);
    const size = classOf(length);
    const buffer = this.#spare.get(size)?.pop();
    if (!buffer) return Buffer.allocUnsafeSlow(size);
    this.#isSpare.delete(buffer);
    this.#spareBytes -= size;
    return buffer;
  }

  give(buffer: Buffer): void {
    const size = buffer.length;
    if (size < minPooledBytes || size !== classOf(size)) return;
    // two users of one buffer would write into each other's data
    if (this.#isSpare.has(buffer)) throw new Error('a buffer was given back twice');
    if (this.#spareBytes + size > this.#maxSpareBytes) {
      // the collector comes when more is allocated; a process that has gone quiet would keep the memory until then
      releasePages(buffer);
      return;
    }
    const list = this.#spare.get(size);
    if (list) list.push(buffer);
    else this.#spare.set(size, [buffer]);
    this.#isSpare.add(buffer);
    this.#spareBytes += size;
  }
}

/** The next power of two, or one and a half of one: a frame of 1 MiB and a header wastes a third. */
function classOf(length: number): number {
  const power = 2 ** Math.ceil(Math.log2(length));
  return length <= power * 0.75 ? power * 0.75 : power;
}
