import type { Clock, Logger } from '@stor/runtime';
import {
  RaftError,
  type KeyValueLog,
  type KeyValueOperation,
  type KeyValueRange,
  type OpenKeyValueLog,
} from 'raft-ts';
import type { Ballast } from './ballast.ts';

/** While the file system is full the log is tried again so often (ms). */
const retryMs = 1_000;
/** Between two looks whether the ballast can be laid by again (ms). */
const layByMs = 60_000;

export interface RoomyLogOptions {
  open: OpenKeyValueLog;
  ballast: Ballast;
  clock: Clock;
  logger: Logger;
}

/**
 * A Raft log that outlives a full file system. A batch that found no room may be in the log or not,
 * and what LevelDB appends behind half a record would be lost: so the log is opened anew, which
 * writes what it holds to new files and syncs them, and the same batch is given again. Until that
 * succeeds this member answers for nothing that is new, like one with a slow disk.
 */
export class RoomyLog implements KeyValueLog {
  readonly #path: string;
  readonly #options: RoomyLogOptions;
  #log: KeyValueLog;
  #closing = false;
  /** over when there is room, or never will be; null: it is not under way */
  #reopening: Promise<void> | null = null;
  #wake: () => void = () => {};
  #working: Promise<void> = Promise.resolve();
  #layByAtMs: number;

  private constructor(path: string, options: RoomyLogOptions, log: KeyValueLog) {
    this.#path = path;
    this.#options = options;
    this.#log = log;
    this.#layByAtMs = options.clock.monotonicMs() + layByMs;
  }

  /** A file system that is full already is helped by the ballast, once. Errors: as `options.open`. */
  static async open(path: string, options: RoomyLogOptions): Promise<RoomyLog> {
    let log: KeyValueLog;
    try {
      log = await options.open(path);
    } catch (error) {
      if (!isFull(error) || !options.ballast.release()) throw error;
      log = await options.open(path);
    }
    const roomy = new RoomyLog(path, options, log);
    options.ballast.layBy();
    return roomy;
  }

  /** A log snapshot is read beside what is written: while the log is opened anew, that waits too. */
  async getMany(keys: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    for (;;) {
      await this.#reopening;
      const log = this.#log;
      try {
        return await log.getMany(keys);
      } catch (error) {
        if (log === this.#log && this.#reopening === null) throw error;
      }
    }
  }

  range(range: KeyValueRange): AsyncIterable<readonly [Uint8Array, Uint8Array]> {
    return this.#log.range(range);
  }

  /** One after the other: one that is tried again must not come behind a later one. */
  batch(operations: readonly KeyValueOperation[], options: { sync: boolean }): Promise<void> {
    return this.#inTurn(() => this.#log.batch(operations, options));
  }

  readMarks(): Promise<(Uint8Array | null)[]> {
    return this.#log.readMarks();
  }

  writeMark(slot: 0 | 1, bytes: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#log.writeMark(slot, bytes));
  }

  #inTurn(write: () => Promise<void>): Promise<void> {
    const done = this.#working.then(() => this.#untilThereIsRoom(write));
    this.#working = done.catch(() => {});
    return done;
  }

  async #untilThereIsRoom(write: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await write();
        break;
      } catch (error) {
        if (!isFull(error)) throw error;
        const reopening = this.#reopen(error);
        this.#reopening = reopening.catch(() => {});
        try {
          await reopening;
        } finally {
          this.#reopening = null;
        }
      }
    }
    if (this.#options.clock.monotonicMs() < this.#layByAtMs) return;
    this.#layByAtMs = this.#options.clock.monotonicMs() + layByMs;
    this.#options.ballast.layBy();
  }

  async #reopen(cause: unknown): Promise<void> {
    const { open, ballast, logger, clock } = this.#options;
    const error = cause instanceof Error ? cause.message : String(cause);
    logger.error({ path: this.#path, error }, 'no space for the cluster store: it waits for room');
    await this.#log.close().catch(() => {});
    for (;;) {
      if (this.#closing) throw new RaftError('CLOSED', 'the Raft log is closed');
      ballast.release();
      try {
        this.#log = await open(this.#path);
        logger.info({ path: this.#path }, 'the cluster store goes on');
        this.#layByAtMs = clock.monotonicMs() + layByMs;
        return;
      } catch (again) {
        if (!isFull(again)) throw again;
      }
      await this.#pause();
    }
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#options.clock.after(retryMs, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#wake();
    await this.#working;
    await this.#log.close();
  }
}

/** LevelDB tells the system's reason only in words. */
function isFull(error: unknown): boolean {
  for (let each = error, depth = 0; each instanceof Error && depth < 5; depth += 1) {
    if ((each as NodeJS.ErrnoException).code === 'ENOSPC') return true;
    if (/No space left on device|ENOSPC/.test(each.message)) return true;
    each = each.cause;
  }
  return false;
}
