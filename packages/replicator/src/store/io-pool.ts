import type { OpenFile } from '@stor/runtime';

/**
 * I/O in the thread pool, at most `maxCalls` reads and writes at a time: the pool belongs to the
 * whole process, and one disk must not starve the others.
 */
export class IoPool {
  readonly #maxCalls: number;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(maxCalls: number) {
    this.#maxCalls = maxCalls;
  }

  read(
    file: OpenFile,
    target: Uint8Array,
    start: number,
    length: number,
    position: number,
  ): Promise<void> {
    return this.#run((done) => {
      file.read(target, start, length, position, done);
    });
  }

  write(
    file: OpenFile,
    bytes: Uint8Array,
    start: number,
    length: number,
    position: number,
  ): Promise<void> {
    return this.#run((done) => {
      file.write(bytes, start, length, position, done);
    });
  }

  /** Not counted: a flush never waits behind bulk I/O for its turn. */
  datasync(file: OpenFile): Promise<void> {
    return new Promise((resolve, reject) => {
      file.datasync((error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  #run(call: (done: (error: Error | null) => void) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const start = (): void => {
        this.#running += 1;
        call((error) => {
          this.#running -= 1;
          this.#waiting.shift()?.();
          if (error) reject(error);
          else resolve();
        });
      };
      if (this.#running < this.#maxCalls) start();
      else this.#waiting.push(start);
    });
  }
}
