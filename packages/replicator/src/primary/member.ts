import type { BackgroundClass, SnapshotId, StorError } from '@stor/protocol';
import type { SharedBytes } from '@stor/runtime';

import type { Bitmap } from '../core/replication/bitmap.ts';
import type { MemberSpace } from '../core/replication/member-space.ts';
import type { ChunkSums } from '../core/replication/settle-choice.ts';
import type { SpaceCredits } from '../core/replication/space-credits.ts';
import type { ReplicaSnapshot } from '../replica-snapshots.ts';
import type { Generation, GenerationHistory, SetView, StoreDone } from '../replica-store.ts';

/** What a replica said of itself when it was fenced. */
export interface OpenAnswer {
  keptMemory: boolean;
  failure: StorError | null;
  highestEpoch: number;
  setView: SetView | null;
  generation: Generation;
  /** marked regions */
  marks: Bitmap;
  /** from then on, by the own monotonic clock, no older primary has a lease of this replica (I6) */
  leasesOverMs: number;
  /** the primary before ended in order at this epoch: all its members were equal; else null */
  drainedEpoch: number | null;
}

/** What the segment hears from its members. */
export interface MemberEvents {
  opened(member: Member, answer: OpenAnswer): void;
  /** It has applied more; or its lease was renewed. */
  progressed(member: Member): void;
  /** It cannot be reached, failed, or refuses; it tries to come back by itself. */
  lost(member: Member, error: StorError): void;
  /** It has owed an answer for that long: whether it is to be given up. */
  isTooSlow(member: Member, oldestMs: number): boolean;
  /** A newer primary exists (I2). */
  superseded(reason: StorError): void;
}

/** Takes what was read where it lies, in place of a copy; see `BlockRequest`. */
export type Adopt = (memory: SharedBytes, start: number) => void;

/** What one image of a replica holds: its live one, or a snapshot. */
export interface MemberImage {
  /** To `target`, or to `adopt` where the image has the data in memory that it can give away. */
  read(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    done: StoreDone,
    adopt?: Adopt | null,
  ): void;
  readUnverified(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    done: StoreDone,
  ): void;
  sums(
    offset: number,
    length: number,
    done: (error: StorError | null, sums: ChunkSums | null) => void,
  ): void;
  /** A write for this member alone (resync); `done` when it is applied. */
  copy(
    sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array,
    sums: Uint32Array,
    done: StoreDone,
  ): void;
  copyZero(sequence: number, offset: number, length: number, done: StoreDone): void;
}

/** One replica of the segment as its primary uses it: on this node's disk, or over a link. */
export interface Member extends MemberImage {
  readonly replicaId: string;
  readonly nodeId: string;
  readonly diskId: string;
  readonly isLocal: boolean;
  /** the fence was answered and the connection lives */
  readonly isOpen: boolean;
  /** the process that it was opened in last */
  readonly instance: string;
  /** null until first opened */
  readonly answer: OpenAnswer | null;
  /** Everything up to this sequence that was sent to it is applied; not used for the local one. */
  ackedSequence: number;
  /** Its word that it knows no newer epoch holds until then, by the monotonic clock (I6). */
  readonly leaseUntilMs: number;
  /** null until opened */
  readonly space: MemberSpace | null;
  /** chunks known to take space there; null until opened */
  readonly allocated: Bitmap | null;
  /** of the replica as it is; 0 until opened */
  readonly sizeBytes: number;
  /** in the order in which they were taken there */
  readonly snapshots: readonly ReplicaSnapshot[];
  /** the snapshot that its live image grew from */
  readonly headParent: SnapshotId | null;
  readonly credits: SpaceCredits;
  /** new chunks that it may be given now, without asking */
  readonly availableChunks: number;
  /** its disk has no room for another chunk, as far as is known */
  readonly isFull: boolean;
  generation: Generation;
  readonly markedCount: number;
  /** bytes given to it that it has not acknowledged */
  readonly unackedBytes: number;

  start(): void;
  /** Ends the channel and all tries to open it. `drained`: the members are equal. */
  stop(drained: boolean): void;
  tick(nowMs: number): void;
  /** Gives it up for now: as if the connection had broken. */
  drop(error: StorError): void;

  flush(done: StoreDone): void;
  recordSetView(view: SetView, done: StoreDone): void;
  checkpoint(done: StoreDone): void;
  retire(generation: Generation, done: StoreDone): void;
  adopt(generation: Generation, history: GenerationHistory | null, done: StoreDone): void;
  history(done: (error: StorError | null, history: GenerationHistory | null) => void): void;
  changedSince(
    generation: Generation,
    done: (error: StorError | null, regions: number[] | null) => void,
  ): void;

  /** An image of a snapshot. What is written to one that is not there is done, without effect. */
  view(snapshotId: SnapshotId): MemberImage;
  /** Takes effect after what was sent before and ahead of what is sent later; durable when done. */
  takeSnapshot(snapshotId: SnapshotId, kind: 'prepared' | 'incomplete', done: StoreDone): void;
  confirmSnapshot(snapshotId: SnapshotId, done: StoreDone, sizeBytes?: number): void;
  dropSnapshot(snapshotId: SnapshotId, done: StoreDone): void;
  /** Nothing may be sent to it before this is done. */
  rollback(snapshotId: SnapshotId, done: StoreDone): void;
  resize(sizeBytes: number, done: StoreDone): void;
  /** Null when it does not know one of the ids. */
  changedChunks(
    from: SnapshotId | null,
    to: SnapshotId | null,
    done: (error: StorError | null, chunks: Bitmap | null) => void,
  ): void;
  /** Asks anew what `snapshots`, `headParent` and `sizeBytes` say: its node may have dropped some. */
  listSnapshots(done: StoreDone): void;
  /**
   * Asks for room for so many new chunks, when there is too little that may be used without asking.
   * Whether there is, once everything is applied that was sent before.
   */
  requestRoom(chunks: number, done: (granted: boolean) => void): void;
  /** Asks anew which chunks are its own: snapshots that were dropped give some back. */
  refreshSpace(): void;
  /**
   * Its node is asked for the turn of a piece of background work; one that shares the own lane has it, and
   * so has one that is lost or knows of no turns.
   */
  askTurn(ofClass: BackgroundClass, bytes: number, done: () => void): void;
}

/** It serves, and its disk has no room for a new chunk. */
export function hasNoSpace(member: Member): boolean {
  return member.isOpen && !member.answer?.failure && member.isFull;
}
