import path from 'node:path';
import { preallocate, type Files } from '@stor/runtime';

export const startReserveName = 'start.reserve';
/** What opening a disk may ask of a file system that others have filled: a name, on XFS some blocks. */
export const startReserveBytes = 1024 * 1024;
/** It is laid by only where so much is free (bytes): a small or full file system is left in peace. */
const spareBytes = 64 * startReserveBytes;

/**
 * A file in a disk's directory that holds room for the next opening. XFS makes no name without free
 * blocks, not even that of the lock, so a disk that another program has filled to the last byte could not
 * be opened at all. It is given up when an opening finds no room, and laid by again when there is some.
 */
export class StartReserve {
  readonly #files: Files;
  readonly #directory: string;

  constructor(files: Files, directory: string) {
    this.#files = files;
    this.#directory = directory;
  }

  get #file(): string {
    return path.join(this.#directory, startReserveName);
  }

  /** False when there was none, or it cannot be removed: nothing is gained. */
  release(): boolean {
    if (!this.#files.exists(this.#file)) return false;
    this.#giveUp();
    return !this.#files.exists(this.#file);
  }

  /** Makes it whole when there is plenty of room. A failure is none of the disk's: it is tried again. */
  layBy(): void {
    const files = this.#files;
    try {
      if (files.space(this.#directory).freeBytes < spareBytes) return;
      const file = files.exists(this.#file) ? files.open(this.#file) : files.create(this.#file);
      try {
        const { sizeBytes } = file.size();
        if (sizeBytes < startReserveBytes) preallocate(file, sizeBytes, startReserveBytes);
      } finally {
        file.close();
      }
    } catch {
      this.#giveUp();
    }
  }

  /** Others took the room meanwhile; or the disk is broken, which its own calls will find. */
  #giveUp(): void {
    try {
      this.#files.remove(this.#file);
    } catch {
      // what is there of it is taken for what it is at the next opening
    }
  }
}
