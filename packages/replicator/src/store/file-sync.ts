import type { OpenFile } from '@stor/runtime';
import type { IoPool } from './io-pool.ts';

/**
 * Syncs of one file, any number at a time. When pages cannot be written the kernel gives them up and
 * says so once, to one of the syncs under way; every other one succeeds, now and later (I7). So what is
 * told to a client waits until all that overlapped have ended well, and no sync counts after one that failed.
 */
export class FileSync {
  readonly #file: OpenFile;
  readonly #pool: IoPool;
  readonly #running = new Set<Promise<void>>();
  readonly #onFailed: (error: Error) => void;
  #failed: Error | null = null;

  /**
   * `onFailed` comes at once, whatever else the caller waits for: a process that is killed before it
   * has noted the failure would believe the disk next time.
   */
  constructor(file: OpenFile, pool: IoPool, onFailed: (error: Error) => void = () => {}) {
    this.#file = file;
    this.#pool = pool;
    this.#onFailed = onFailed;
  }

  /** Everything written before this call is durable when it resolves. */
  async sync(): Promise<void> {
    await this.syncOwn();
    await Promise.all(this.#running);
    if (this.#failed) throw this.#failed;
  }

  /** As `sync`, for what nobody is told of: it does not wait for others under way, whose failure comes next. */
  async syncOwn(): Promise<void> {
    const running = this.#pool.datasync(this.#file).catch((error: unknown) => {
      this.#failed ??= error instanceof Error ? error : new Error(String(error));
      this.#onFailed(this.#failed);
    });
    this.#running.add(running);
    await running;
    this.#running.delete(running);
    if (this.#failed) throw this.#failed;
  }
}
