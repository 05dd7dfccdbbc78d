import type { DiskId, ReplicaId, SnapshotId, StorError, VolumeId } from '@stor/protocol';
import type { Extent } from './block-device.ts';
import type { RoomPromise } from './core/store/space-ledger.ts';
import type { SnapshotStore } from './replica-snapshots.ts';

/** Number of a checkpoint after which marks could be cleared; ordered by epoch, then n. */
export interface Generation {
  epoch: number;
  n: number;
}

export const noGeneration: Generation = { epoch: 0, n: 0 };

export function compareGenerations(a: Generation, b: Generation): number {
  return a.epoch - b.epoch || a.n - b.n;
}

/** When each region last changed, as one replica knows it. */
export interface GenerationHistory {
  /** changes up to this generation are not known region by region */
  after: Generation;
  /** ascending; at most 254 */
  generations: Generation[];
  /**
   * For each region: 0, it did not change after `after`; 255, it is marked; else the number, from 1,
   * of the generation since which it surely has not changed.
   */
  regions: Uint8Array;
}

/** The membership a replica last served under; kept durably because the control plane may go back. */
export interface SetView {
  epoch: number;
  setRevision: number;
  members: ReplicaId[];
}

export interface ReplicaIdentity {
  replicaId: ReplicaId;
  volumeId: VolumeId;
  segment: number;
  sizeBytes: number;
}

/** What is said of a block that is read without judging. */
export const blockMismatches = 0;
export const blockVerifies = 1;
export const blockUnreadable = 2;

export type StoreDone = (error: StorError | null) => void;

/**
 * One full copy of one segment on one disk. Offsets and lengths are multiples of `blockBytes`.
 *
 * Calls are applied in the order in which they are made wherever they overlap, inline and pooled
 * ones alike (I10). The caller keeps overlapping *requests* apart; this keeps the *disk* right.
 * A failed write or sync fails the replica for good (I7): every later call reports DISK_FAILED.
 */
export interface ReplicaStore extends ReplicaIdentity, SnapshotStore {
  /** grows with `resize` */
  readonly sizeBytes: number;
  readonly diskId: DiskId;
  /** highest epoch ever seen, durable (I2) */
  readonly highestEpoch: number;
  /**
   * false: suspect, it may have lost writes that were not flushed (the host was rebooted or the
   * disk was mounted anew since an unclean stop, or its metadata had to be repaired).
   */
  readonly keptMemory: boolean;
  readonly setView: SetView | null;
  /** generation of the last checkpoint that this replica recorded */
  readonly generation: Generation;
  /** set once; see I7 */
  readonly failure: StorError | null;
  readonly allocatedBytes: number;

  /**
   * Writes at once if nothing must be made durable first (region marked, chunks allocated, no
   * overlapping slow call under way) and the length suits an inline write; says whether it did.
   * `sums` holds the CRC-32 of each block. Throws DISK_FAILED when the write fails.
   */
  writeInline(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
  ): boolean;
  /** As writeInline, however long it takes. `bytes` must stay unchanged until done; sums are copied. */
  write(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
    done: StoreDone,
  ): void;
  /** Makes the range read as zeros; whole chunks give their space back unless `keepAllocated`. */
  zero(offset: number, length: number, keepAllocated: boolean, done: StoreDone): void;

  /**
   * Reads and verifies at once when the blocks are known to be in the page cache or unallocated.
   * False: call `read` (also on any error).
   */
  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean;
  /** Reads and verifies; CHECKSUM_MISMATCH has details {offset} of the first bad block (I9). */
  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void;
  /**
   * Reads without judging: `valid[i]` is 1 where block i matches its checksum, 2 where the disk cannot
   * read it (the target has zeros there, which mean nothing), else 0. For settle and
   * resync of marked regions, where after an unclean stop a mismatch is no verdict.
   */
  readUnverified(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    done: StoreDone,
  ): void;

  /** Every call made before is durable when done: data, checksums, metadata. Coalesced. */
  flush(done: StoreDone): void;
  extents(offset: number, length: number, limit: number): Extent[];
  /** It reads as data; what does not reads as zeros. */
  isAllocated(chunk: number): boolean;
  /** The first chunk at or after `from` that reads as data, or -1; work in proportion to those there are. */
  nextAllocated(from: number): number;
  /**
   * How many slots (`ownsChunk`) this replica may take now without touching the reserve: those that
   * are kept for it and those that nobody was promised.
   */
  freeChunks(): number;
  /**
   * Room on the disk to be kept for the replica's writer, as long as `isOpen`. There is one writer at a
   * time: nothing is kept for the one before any more.
   */
  promiseRoom(isOpen: () => boolean): RoomPromise;

  /** Remembers the epoch durably. STALE_EPOCH when a higher one is known. */
  fence(epoch: number, done: StoreDone): void;
  recordSetView(view: SetView, done: StoreDone): void;

  /** Regions (of regionBytes) marked now, ascending. */
  marks(): number[];
  readonly markedCount: number;
  /**
   * Regions that may have changed after the checkpoint `since`: marked now or stamped later.
   * Null when `since` is unknown here, so that everything must be compared.
   */
  regionsChangedSince(since: Generation): number[] | null;
  /** A checkpoint's cut: regions not written after it may lose their mark in `retireMarks`. */
  cutMarks(): void;
  /** Records the generation and clears marks not used since the last cut, durably. */
  retireMarks(generation: Generation, done: StoreDone): void;
  /**
   * Takes over the generation of a resync source, and what it knows of when regions changed, once
   * this replica is equal to it; durable. What is marked there is marked here: a later checkpoint
   * must stamp it here too, or a third replica would be told that it did not change. Without a
   * history nothing is known of changes up to the generation.
   */
  adoptGeneration(generation: Generation, history: GenerationHistory | null, done: StoreDone): void;
  /** When regions changed, for a replica that was made equal to this one. */
  history(): GenerationHistory;
}

/** What a new replica grows from. */
export interface CreateReplica {
  cloneOf?: { replicaId: ReplicaId; snapshotId: SnapshotId };
}

export interface DiskUsage {
  capacityBytes: number;
  usedBytes: number;
  /** without the reserve */
  freeBytes: number;
  /** kept free for metadata and for others */
  reservedBytes: number;
}

/** One disk: a directory with an identity, a lock, a journal and its replicas. */
export interface DiskStore {
  readonly diskId: DiskId;
  readonly path: string;
  readonly failure: StorError | null;
  replicas(): ReplicaStore[];
  replica(id: ReplicaId): ReplicaStore | null;
  /**
   * Creates a thin replica, durable when resolved: an empty one, or a clone of a ready snapshot of a
   * replica on this disk, at least as large as it. NO_SPACE leaves nothing behind.
   */
  createReplica(identity: ReplicaIdentity, options?: CreateReplica): Promise<ReplicaStore>;
  /** Deletes a replica and gives its space back; an unknown id is done already. */
  deleteReplica(id: ReplicaId): Promise<void>;
  usage(): Promise<DiskUsage>;
  /**
   * Asks a disk on which nothing was made durable since the last call whether it still works. Rejects with
   * DISK_FAILED when an error of this ended it, as one of its journal does (I7).
   */
  probe(): Promise<void>;
  /** Makes everything durable, notes a clean stop, releases the lock. Works twice. */
  close(): Promise<void>;
}

/**
 * Where a failure of a replica is recorded before anything else happens (I7): outside the disk
 * that failed, synchronously.
 */
export interface FailureRecorder {
  record(failure: { diskId: DiskId; replicaId: ReplicaId | null; reason: string }): void;
  /** failures recorded earlier for this disk */
  failuresOf(diskId: DiskId): { replicaId: ReplicaId | null; reason: string }[];
}
