import { RaftError } from '../errors.ts';
import type {
  ArrivingSnapshot,
  Entry,
  HardState,
  LogPosition,
  Snapshot,
  SnapshotPiece,
} from './types.ts';

/** What a member remembers. */
export interface StoredState {
  hardState: HardState;
  /** the newest; at index 0 it only names the first voters */
  snapshot: Snapshot;
  /** the log begins after this position, which is not after the snapshot's */
  start: LogPosition;
  entries: Entry[];
  /**
   * The store has lost what this member had acknowledged, up to here. Until a leader has brought
   * the log so far again the member must give no vote and not stand: with its help somebody could
   * be elected who lacks what was committed (Alagappan et al., FAST '18).
   */
  recoverTo?: LogPosition;
  /** A log snapshot that was arriving when the member stopped: it goes on from there. */
  arriving?: ArrivingSnapshot;
}

/** One atomic, synced write. */
export interface SaveBatch {
  /** null: unchanged */
  hardState: HardState | null;
  /** Of log snapshots that are not whole yet, in order; none of it counts until one is. @default none */
  pieces?: readonly SnapshotPiece[];
  /**
   * Null: unchanged. Else one whose pieces, of this batch and earlier ones, are all there and have its
   * checksum; it replaces the one before it, and the pieces of older ones.
   */
  snapshot: Snapshot | null;
  /** Snapshots that are being read: they outlive a newer one, until the next save with a snapshot. */
  keep?: readonly LogPosition[];
  /**
   * `compact` removes entries through the position, which the snapshot of this batch covers;
   * `reset` removes all entries, and the log goes on after the position.
   */
  log: { type: 'keep' } | { type: 'compact' | 'reset'; position: LogPosition };
  /** contiguous; they replace everything from the first one's index on */
  entries: Entry[];
  /** with this batch the log is as far again as `recoverTo` */
  recovered?: boolean;
}

/** Is the log up to `a` as new as the one up to `b` was? As in elections: by term, then index. */
export function reaches(a: LogPosition, b: LogPosition): boolean {
  return a.term > b.term || (a.term === b.term && a.index >= b.index);
}

/** Where a member remembers. All implementations pass `storageSuite` of `raft-ts/testing`. */
export interface RaftStorage {
  /**
   * All there is; null when nothing was ever saved. What was never acknowledged may be missing.
   * When acknowledged entries are, the rest comes with `recoverTo`, or, when too much is missing
   * even for that, it throws CORRUPT, naming what is damaged.
   */
  load(): Promise<StoredState | null>;
  /**
   * Resolves when the batch is durable as a whole. After a crash before that, either all or nothing
   * of it is there. The caller waits for one save before it begins the next. After a rejection
   * nothing is known, and no further save may be made.
   */
  save(batch: SaveBatch): Promise<void>;
  /**
   * Bytes `offset` to `offset + length` of the content of the newest snapshot, or one that was kept, and
   * the CRC-32 of all up to their end. Also while a save is under way. Null when it is not there any
   * more; CORRUPT when it is damaged.
   */
  readSnapshot(
    position: LogPosition,
    offset: number,
    length: number,
  ): Promise<{ data: Uint8Array; checksum: number } | null>;
}

/** What every store checks after reading: that the parts fit each other. Throws CORRUPT. */
export function verifyStoredState(state: StoredState): void {
  const { hardState, snapshot, start, entries } = state;
  const fail = (reason: string): never => {
    throw new RaftError('CORRUPT', `the stored Raft log is damaged: ${reason}`);
  };
  if (start.index > snapshot.index) {
    fail(`it begins after entry ${start.index}, its snapshot is of entry ${snapshot.index}`);
  }
  let previous: LogPosition = start;
  for (const entry of entries) {
    if (entry.index !== previous.index + 1) {
      fail(`entry ${previous.index + 1} is missing, entry ${entry.index} follows`);
    }
    if (entry.term < previous.term) {
      fail(`the term of entry ${entry.index} is lower than that of the entry before`);
    }
    if (entry.index === snapshot.index && entry.term !== snapshot.term) {
      fail(`entry ${entry.index} is of term ${entry.term}, the snapshot of term ${snapshot.term}`);
    }
    previous = entry;
  }
  if (previous.index < snapshot.index) {
    fail(`it ends at entry ${previous.index}, its snapshot is of entry ${snapshot.index}`);
  }
  if (hardState.commit > previous.index) {
    fail(`it ends at entry ${previous.index}, but entry ${hardState.commit} was committed`);
  }
  if (hardState.term < previous.term) {
    fail(`its last entry is of term ${previous.term}, but the member's term is ${hardState.term}`);
  }
}
