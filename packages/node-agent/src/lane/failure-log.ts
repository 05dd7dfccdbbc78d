import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { DiskId, ReplicaId } from '@stor/protocol';
import type { FailureRecorder } from '@stor/replicator';
import { syncDirectory } from '../data-folder.ts';

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

  constructor(path: string) {
    this.#path = path;
    this.#keepReserve();
  }

  /** A full file system is what makes disks fail at times, so there the reserve makes room. */
  record(failure: Failure): void {
    try {
      this.#append(failure);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      rmSync(this.#reservePath, { force: true });
      this.#append(failure);
    }
  }

  get #reservePath(): string {
    return `${this.#path}.reserve`;
  }

  #keepReserve(): void {
    if (existsSync(this.#reservePath)) return;
    try {
      // bytes that are not zero, so that no file system keeps them as a hole
      writeFileSync(this.#reservePath, Buffer.alloc(reserveBytes, '-'), { flush: true });
    } catch (error) {
      // an agent must be able to start on a full disk: without a reserve then
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      rmSync(this.#reservePath, { force: true });
    }
  }

  #append(failure: Failure): void {
    const created = !existsSync(this.#path);
    const file = openSync(this.#path, 'a', 0o600);
    try {
      // The leading newline keeps this record whole when a power loss cut the one before it.
      const bytes = Buffer.from(`\n${JSON.stringify(failure)}\n`);
      // a write that runs out of space may write a part and say nothing
      for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    if (created) syncDirectory(dirname(this.#path));
  }

  failuresOf(diskId: DiskId): { replicaId: ReplicaId | null; reason: string }[] {
    if (!existsSync(this.#path)) return [];
    const failures: Failure[] = [];
    for (const line of readFileSync(this.#path, 'utf8').split('\n')) {
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
