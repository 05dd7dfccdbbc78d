import path from 'node:path';
import { unitBytes } from '../core/store/format.ts';
import type { Files, OpenFile } from '@stor/runtime';
import type { IoPool } from './io-pool.ts';

export const probeName = 'probe';

/**
 * Asks an idle disk whether it still takes and keeps a write: without that its death is found by the next
 * client. One unit of a file of its own is written, made durable and read again, all in the thread pool.
 */
export class DiskProbe {
  readonly #files: Files;
  readonly #directory: string;
  readonly #pool: IoPool;
  #file: OpenFile | null = null;
  #running: Promise<void> | null = null;
  #syncs = -1;
  #round = 0;

  constructor(files: Files, directory: string, pool: IoPool) {
    this.#files = files;
    this.#directory = directory;
    this.#pool = pool;
  }

  /**
   * Resolves when the disk has answered, now or since the last call, or has no room for the file. Rejects
   * with the error of the write, the sync or the read. One that hangs is not asked a second time.
   */
  run(): Promise<void> {
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  async #run(): Promise<void> {
    const isBusy = this.#pool.syncs !== this.#syncs;
    this.#syncs = this.#pool.syncs;
    if (isBusy) return;
    try {
      await this.#ask();
      this.#syncs = this.#pool.syncs;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    }
  }

  async #ask(): Promise<void> {
    const file = (this.#file ??= this.#open());
    this.#round += 1;
    const bytes = Buffer.alloc(unitBytes, this.#round & 0xff);
    bytes.writeUInt32LE(this.#round, 0);
    await this.#pool.write(file, bytes, 0, unitBytes, 0);
    await this.#pool.datasync(file);
    const found = Buffer.alloc(unitBytes);
    await this.#pool.read(file, found, 0, unitBytes, 0);
    if (!found.equals(bytes)) throw new Error('it gives back other bytes than it was given');
  }

  #open(): OpenFile {
    const file = path.join(this.#directory, probeName);
    return this.#files.exists(file) ? this.#files.open(file) : this.#files.create(file);
  }

  /** Waits for what is under way. */
  async over(): Promise<void> {
    await this.#running?.catch(() => {});
  }

  close(): void {
    this.#file?.close();
    this.#file = null;
  }
}
