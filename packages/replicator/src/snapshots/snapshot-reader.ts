import type { ReplicaId, SnapshotId, StorError } from '@stor/protocol';

import type { Extent } from '../block-device.ts';
import type { StoreDone } from '../replica-store.ts';

/** A range that may differ from what it was, or surely does not. */
export interface DirtyExtent {
  offset: number;
  length: number;
  dirty: boolean;
}

export type ExtentsDone = (error: StorError | null, extents: Extent[]) => void;
export type DirtyDone = (error: StorError | null, extents: DirtyExtent[]) => void;

/**
 * Reads one ready snapshot. It never changes, and is equal on all replicas that have it ready: so no
 * lease and no epoch is needed, and any of them may answer. Ranges are whole blocks inside it.
 */
export interface SnapshotReader {
  /** bytes; its last block may lie partly beyond */
  readonly sizeBytes: number;
  /** Verified (I9). NOT_FOUND: the snapshot was deleted. */
  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void;
  /** What holds data, in order from `offset`; at most `limit` extents. */
  extents(offset: number, length: number, limit: number, done: ExtentsDone): void;
  /**
   * What may differ from another snapshot of the volume, in order from `offset`; at most `limit`
   * extents. NOT_FOUND when that one is not known.
   */
  changedSince(
    since: SnapshotId,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void;
  /** Reads under way are answered; none may follow. Works twice. */
  close(): void;
}

/** A snapshot on one replica. CHECKSUM_MISMATCH and DISK_FAILED: others may have the block. */
export interface ReplicaSnapshotReader extends SnapshotReader {
  readonly replicaId: ReplicaId;
  /** Writes a block anew whose content is known from another replica (I9). */
  repair(offset: number, bytes: Uint8Array, done: StoreDone): void;
}
