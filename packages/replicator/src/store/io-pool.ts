import type { FileDone, OpenFile } from '@stor/runtime';
import type { AnswerPace } from './answer-pace.ts';

/**
 * The kernel makes page-cache folios as large as the write that brings them in, and on ext4 a later
 * 4 KiB overwrite walks all blocks of its folio: 26 us in folios of 1 MiB, 4 us in those of 64 KiB, 2 us
 * in those of 32 KiB and below (Linux 6.18). So large writes go in pieces of this size (bytes); smaller ones
 * cost the first write more than they bring. Pages that are in the cache already keep their folios: those are
 * written in one call, for a call in the pool costs two thread switches.
 */
export const writePieceBytes = 32 * 1024;

/**
 * I/O in the thread pool, at most `maxCalls` reads and writes at a time: the pool belongs to the
 * whole process, and one disk must not starve the others.
 */
export class IoPool {
  readonly #maxCalls: number;
  readonly #pace: AnswerPace | null;
  #running = 0;
  /** files that were made durable since the start */
  syncs = 0;
  readonly #waiting: (() => void)[] = [];

  /** `pace`: of the answers of small reads; null: they are handled as they come */
  constructor(maxCalls: number, pace: AnswerPace | null = null) {
    this.#maxCalls = maxCalls;
    this.#pace = pace;
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

  /**
   * As `read`, without a promise. The answer keeps its place among the calls until it is handled: of a
   * disk that is faster than the event loop no more is asked than can be answered.
   */
  readSmall(
    file: OpenFile,
    target: Uint8Array,
    start: number,
    length: number,
    position: number,
    done: FileDone,
  ): void {
    const begin = (): void => {
      this.#running += 1;
      file.read(target, start, length, position, (error) => {
        const pace = this.#pace;
        if (pace?.isNeeded !== true) this.#answer(done, error);
        else
          pace.later(() => {
            this.#answer(done, error);
          });
      });
    };
    if (this.#running < this.#maxCalls) begin();
    else this.#waiting.push(begin);
  }

  /** A request was served without the pool. */
  servedInline(): void {
    this.#pace?.served();
  }

  #answer(done: FileDone, error: Error | null): void {
    this.#running -= 1;
    this.#waiting.shift()?.();
    done(error);
  }

  /** In pieces of `writePieceBytes`, one after another, unless the pages are in the cache already. */
  write(
    file: OpenFile,
    bytes: Uint8Array,
    start: number,
    length: number,
    position: number,
    isCached = false,
  ): Promise<void> {
    const pieceBytes = isCached ? length : writePieceBytes;
    return this.#run((done) => {
      const piece = (at: number): void => {
        const count = Math.min(pieceBytes, length - at);
        file.write(bytes, start + at, count, position + at, (error) => {
          if (error || at + count === length) done(error);
          else piece(at + count);
        });
      };
      piece(0);
    });
  }

  /** Not counted: a flush never waits behind bulk I/O for its turn. */
  datasync(file: OpenFile): Promise<void> {
    return new Promise((resolve, reject) => {
      file.datasync((error) => {
        if (error) reject(error);
        else {
          this.syncs += 1;
          resolve();
        }
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
