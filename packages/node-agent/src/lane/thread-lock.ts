import { StorError } from '@stor/protocol';

/** What runs under the lock takes milliseconds; a thread that holds it for so long is dead (ms). */
const patienceMs = 10_000;
const free = 0;
const taken = 1;

/** Keeps the threads of a process apart for the length of a synchronous call. */
export class ThreadLock {
  readonly #cell: Int32Array;

  /** The same `memory` for all threads, from `newMemory`. */
  constructor(memory: SharedArrayBuffer) {
    this.#cell = new Int32Array(memory);
  }

  static newMemory(): SharedArrayBuffer {
    return new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  }

  /** INTERNAL when another thread does not let go of it. */
  run<T>(work: () => T): T {
    this.#take();
    try {
      return work();
    } finally {
      Atomics.store(this.#cell, 0, free);
      Atomics.notify(this.#cell, 0, 1);
    }
  }

  #take(): void {
    while (Atomics.compareExchange(this.#cell, 0, free, taken) !== free) {
      if (Atomics.wait(this.#cell, 0, taken, patienceMs) === 'timed-out') {
        throw new StorError('INTERNAL', `a lock was not let go of for ${patienceMs} ms`);
      }
    }
  }
}
