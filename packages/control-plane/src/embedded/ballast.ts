import { preallocate, type Files } from '@stor/runtime';

/** Enough for a log file of LevelDB and the table that it becomes when it is opened anew (bytes). */
export const ballastBytes = 16 * 1024 * 1024;
/** It is laid by again only when so much more is free: a full file system is left in peace (bytes). */
const spareBytes = 4 * ballastBytes;

/**
 * A file that holds room for the Raft log on a file system which disks, or other programs, may fill
 * to the last byte. It is given up when the log finds no room, and laid by again later.
 */
export class Ballast {
  readonly #files: Files;
  readonly #directory: string;
  readonly #file: string;

  constructor(files: Files, directory: string, file: string) {
    this.#files = files;
    this.#directory = directory;
    this.#file = file;
  }

  /** False when there was none: nothing is gained. */
  release(): boolean {
    if (!this.#files.exists(this.#file)) return false;
    this.#files.remove(this.#file);
    return true;
  }

  /** When there is plenty of room, and it is not there or not whole. */
  layBy(): void {
    const { files, file } = { files: this.#files, file: this.#file };
    if (files.space(this.#directory).freeBytes < spareBytes) return;
    const exists = files.exists(file);
    const open = exists ? files.open(file) : files.create(file);
    try {
      const { sizeBytes } = open.size();
      preallocate(open, Math.min(sizeBytes, ballastBytes), ballastBytes);
    } catch {
      // what others took meanwhile is theirs: it is tried again
      files.remove(file);
    } finally {
      open.close();
    }
  }
}
