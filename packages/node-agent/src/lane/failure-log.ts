import { closeSync, existsSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { DiskId, ReplicaId } from '@stor/protocol';
import type { FailureRecorder } from '@stor/replicator';
import { syncDirectory } from '../data-folder.ts';

interface Failure {
  diskId: DiskId;
  replicaId: ReplicaId | null;
  reason: string;
}

/**
 * Failures of disks and replicas, one JSON line each, in the agent's data folder: outside the disk
 * that failed, and durable before anything else happens (I7).
 */
export class FailureLog implements FailureRecorder {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  record(failure: Failure): void {
    const created = !existsSync(this.#path);
    const file = openSync(this.#path, 'a', 0o600);
    try {
      // The leading newline keeps this record whole when a power loss cut the one before it.
      writeSync(file, `\n${JSON.stringify(failure)}\n`);
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
