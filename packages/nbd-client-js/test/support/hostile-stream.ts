import type { NbdNetwork, NbdStream } from '../../src/index.ts';

/** The same numbers for the same seed (xorshift32). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = (Math.imul(seed, 2654435761) + 0x9e3779b9) >>> 0 || 1;
    for (let round = 0; round < 8; round++) this.#next();
  }

  #next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }

  below(limit: number): number {
    return this.#next() % limit;
  }

  oneIn(count: number): boolean {
    return this.below(count) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    for (let at = 0; at < length; at++) bytes[at] = this.below(256);
    return bytes;
  }
}

/** A connection in memory whose other end is a test: what the client writes, and bytes for it. */
export class HostileStream implements NbdStream {
  onData: NbdStream['onData'] = (_bytes, start, end) => end - start;
  onClose: NbdStream['onClose'] = () => {};
  isOver = false;
  #written: Buffer[] = [];
  #writtenBytes = 0;

  /** What the client has written and nobody has taken: `length` bytes of it, or null. */
  take(length: number): Buffer | null {
    if (this.#writtenBytes < length) return null;
    const all = Buffer.concat(this.#written);
    this.#written = [all.subarray(length)];
    this.#writtenBytes -= length;
    return all.subarray(0, length);
  }

  give(bytes: Buffer): void {
    if (this.isOver) return;
    const used = this.onData(bytes, 0, bytes.length);
    if (used !== bytes.length) throw new Error(`${used} of ${bytes.length} bytes were taken`);
    // valid during the call only: whoever looks later sees this
    bytes.fill(0x5a);
  }

  write(bytes: Uint8Array): void {
    if (this.isOver) return;
    this.#written.push(Buffer.from(bytes));
    this.#writtenBytes += bytes.length;
  }

  /** The other end goes away. */
  hangUp(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.onClose(null);
  }

  end(): void {
    this.destroy();
  }
  destroy(): void {
    if (this.isOver) return;
    this.isOver = true;
    // not from within a call of the client
    queueMicrotask(() => {
      this.onClose(null);
    });
  }
  cork(): void {}
  uncork(): void {}
  pause(): void {}
  resume(): void {}
  startTls(): Promise<never> {
    return Promise.reject(new Error('there is no TLS here'));
  }
}

/** Everybody who connects gets this stream. */
export function networkOf(stream: HostileStream): NbdNetwork {
  return { connect: () => Promise.resolve(stream) };
}
