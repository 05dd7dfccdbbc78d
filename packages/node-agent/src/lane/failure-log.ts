import { dirname } from 'node:path';
import type { DiskId, ReplicaId } from '@stor/protocol';
import type { FailureRecorder } from '@stor/replicator';
import { readTextFile, systemFiles, type Files } from '@stor/runtime';
import { ThreadLock } from './thread-lock.ts';

interface Failure {
  diskId: DiskId;
  replicaId: ReplicaId | null;
  reason: string;
}

/** Room kept for failures that are recorded when the file system is full (bytes). */
const reserveBytes = 64 * 1024;

/**
 * Failures of disks and replicas, one JSON line each, in the agent's data folder: outside the disk
 * that failed, and durable before anything else happens (I7).
 */
export class FailureLog implements FailureRecorder {
  readonly #path: string;
  readonly #files: Files;
  readonly #lock: ThreadLock;

  /** All lanes write to one file: `lock` is the same memory for all of them. */
  constructor(path: string, files: Files = systemFiles, lock = ThreadLock.newMemory()) {
    this.#path = path;
    this.#files = files;
    this.#lock = new ThreadLock(lock);
    this.#lock.run(() => {
      this.#keepReserve();
    });
  }

  /** A full file system is what makes disks fail at times, so there the reserve makes room. */
  record(failure: Failure): void {
    this.#lock.run(() => {
      this.#record(failure);
    });
  }

  #record(failure: Failure): void {
    try {
      this.#append(failure);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      this.#files.remove(this.#reservePath);
      this.#append(failure);
    }
  }

  get #reservePath(): string {
    return `${this.#path}.reserve`;
  }

  #keepReserve(): void {
    if (this.#files.exists(this.#reservePath)) return;
    try {
      // bytes that are not zero, so that no file system keeps them as a hole
      const file = this.#files.create(this.#reservePath);
      try {
        file.writeSync(Buffer.alloc(reserveBytes, '-'), 0, reserveBytes, 0);
        file.datasyncSync();
      } finally {
        file.close();
      }
    } catch (error) {
      // an agent must be able to start on a full disk: without a reserve then
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      this.#files.remove(this.#reservePath);
    }
  }

  #append(failure: Failure): void {
    const isThere = this.#files.exists(this.#path);
    const file = isThere ? this.#files.open(this.#path) : this.#files.create(this.#path);
    try {
      // The leading newline keeps this record whole when a power loss cut the one before it.
      const bytes = Buffer.from(`\n${JSON.stringify(failure)}\n`);
      file.writeSync(bytes, 0, bytes.length, file.size().sizeBytes);
      file.datasyncSync();
    } finally {
      file.close();
    }
    // always: who made the file may have been killed before its name was durable
    this.#files.syncDirectory(dirname(this.#path));
  }

  failuresOf(diskId: DiskId): { replicaId: ReplicaId | null; reason: string }[] {
    if (!this.#files.exists(this.#path)) return [];
    const failures: Failure[] = [];
    for (const line of readTextFile(this.#files, this.#path).split('\n')) {
      const failure = parseLine(line);
      if (failure?.diskId === diskId) failures.push(failure);
    }
    return failures;
  }
}

/** A line cut short belongs to a failure that nothing was done about yet. */
function parseLine(line: string): Failure | null {
  if (!line.startsWith('{')) return null;
  try {
    return JSON.parse(line) as Failure;
  } catch {
    return null;
  }
}
