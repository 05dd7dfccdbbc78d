import type { SnapshotId } from '@stor/protocol';
import type { Extent } from './block-device.ts';
import type { Bitmap } from './core/replication/bitmap.ts';
import type { StoreDone } from './replica-store.ts';

/**
 * prepared: taken, and not known to be durable on every replica; ready: it is, and equal on all;
 * incomplete: taken by a resync, and its content is not equal to the source's yet.
 */
export type SnapshotState = 'prepared' | 'ready' | 'incomplete';

export interface ReplicaSnapshot {
  snapshotId: SnapshotId;
  state: SnapshotState;
  /** epoch under which it was taken */
  epoch: number;
  /** of the replica when it was taken */
  sizeBytes: number;
  /** the nearest snapshot that it grew from; null: none, or none that still exists */
  parent: SnapshotId | null;
  /** bytes that changed between its parent and it, and are kept since: in whole chunks */
  ownBytes: number;
}

/** A snapshot's content. Ranges and errors are those of the methods of ReplicaStore. */
export interface ReplicaView {
  readonly snapshotId: SnapshotId;
  readonly sizeBytes: number;
  /** Reads and verifies; CHECKSUM_MISMATCH has details {offset} of the first bad block (I9). */
  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void;
  /** As `readUnverified` of ReplicaStore. */
  readUnverified(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    done: StoreDone,
  ): void;
  extents(offset: number, length: number, limit: number): Extent[];
  isAllocated(chunk: number): boolean;
  /**
   * Of a snapshot that is not ready: fills it. Of a ready one: repairs blocks whose content is known (I9) in
   * the place where they are; FAILED_PRECONDITION where the snapshot holds no data.
   * Durable after the replica's next flush.
   */
  write(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
    done: StoreDone,
  ): void;
  /** Not of a ready snapshot: FAILED_PRECONDITION. */
  zero(offset: number, length: number, done: StoreDone): void;
}

/**
 * Bytes of disk space that count with one replica. What a clone shares with its source on a disk counts
 * once, so over the replicas of a disk they add up to what is there.
 */
export interface ReplicaSpace {
  /** what its live image reads as data, and that of no older replica that it shares with */
  allocatedBytes: number;
  /** held by its snapshots, and in no live image; what a deleted source left counts with the oldest */
  snapshotBytes: number;
  /** freed, and not yet given back to the file system; of those that share chunks, with the oldest */
  reclaimableBytes: number;
}

/** The snapshots of one replica. */
export interface SnapshotStore {
  /** In the order in which they were taken. */
  snapshots(): ReplicaSnapshot[];
  /** the snapshot that the live image grew from: the last one taken or rolled back to */
  readonly headParent: SnapshotId | null;
  /**
   * Freezes the live image: every write made before this call is in it, none made after. Durable when
   * done (what of the data was not flushed is not: see `confirmSnapshot`). Repeating an id of this
   * kind is done already. ALREADY_EXISTS: in another state. STALE_EPOCH: a higher epoch is known.
   */
  takeSnapshot(
    id: SnapshotId,
    epoch: number,
    kind: 'prepared' | 'incomplete',
    done: StoreDone,
  ): void;
  /**
   * Its bytes are durable and equal on all replicas: it is ready from now on, and no longer than
   * `sizeBytes`. One that was taken from a replica that has grown since is longer until then; what it
   * has beyond reads as zeros already. NOT_FOUND.
   */
  confirmSnapshot(id: SnapshotId, done: StoreDone, sizeBytes?: number): void;
  /**
   * Gone from `snapshots()`, durably, when done; its space is freed in the background. An unknown
   * id is done already.
   */
  dropSnapshot(id: SnapshotId, done: StoreDone): void;
  /**
   * The live image becomes the snapshot's; newer snapshots stay. Marks first what differs (I8).
   * NOT_FOUND; FAILED_PRECONDITION for an incomplete one.
   */
  rollback(id: SnapshotId, done: StoreDone): void;
  /**
   * Chunks that may differ between two images, and surely all that do. `from` null: an empty image;
   * `to` null: the live image. Null when one of the ids is not known.
   */
  changedChunks(from: SnapshotId | null, to: SnapshotId | null): Bitmap | null;
  /** Null when the id is not known. It stays usable until the snapshot is dropped: then NOT_FOUND. */
  view(id: SnapshotId): ReplicaView | null;
  /** Grows the replica, durably; the same size is done already, a smaller one INVALID_ARGUMENT. */
  resize(sizeBytes: number, done: StoreDone): void;
  space(): ReplicaSpace;
  /** A write to the chunk needs no new slot; else it spends a credit (`freeChunks`). */
  ownsChunk(chunk: number): boolean;
}
