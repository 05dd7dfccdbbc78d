import { invariant } from '../errors.ts';
import { campaign, suspectLeader } from './election.ts';
import { propose, readIndex, transferLeadership } from './leader.ts';
import type { MemberChange, Membership } from './membership.ts';
import { step, tick } from './raft-core.ts';
import { abandonTransfer, sendChunk, takeChunkOrder } from './replication.ts';
import { RaftLog, type LoadedLog } from './raft-log.ts';
import { RaftState, type CoreConfig } from './raft-state.ts';
import { checkChange, isCaughtUp, proposeChange } from './reconfigure.ts';
import type { SaveBatch } from './storage.ts';
import type {
  ArrivingSnapshot,
  ChunkOrder,
  Entry,
  HardState,
  LogPosition,
  PeerId,
  RaftMessage,
  ReadState,
  Role,
  Snapshot,
  SnapshotPiece,
} from './types.ts';

/**
 * One piece of work for the store, and what may be said when it is done.
 *
 * The contract: write `hardState`, `pieces`, `snapshot` and `entries` in one atomic, synced write; then call
 * `saved(ready)` and send what it returns. Nothing of it may leave before: an acknowledgement or a
 * vote that a crash could take back breaks every promise of Raft. There is one Ready at a time.
 */
export interface Ready {
  /** null: unchanged */
  hardState: HardState | null;
  /** of a leader's snapshot that is arriving */
  pieces: readonly SnapshotPiece[];
  /** a leader's snapshot that is whole with them, and replaces the whole stored log; null: none */
  snapshot: Snapshot | null;
  /** replace everything stored from the first one's index on */
  entries: Entry[];
  messagesAfterSave: RaftMessage[];
  /** see SaveBatch */
  recovered: boolean;
}

export interface RaftStatus {
  id: PeerId;
  role: Role;
  term: number;
  leaderId: PeerId | null;
  commitIndex: number;
  appliedIndex: number;
  /** of the membership in force; of a joint one its incoming half */
  voters: PeerId[];
}

export interface PeerProgress {
  id: PeerId;
  state: string;
  match: number;
  next: number;
  paused: boolean;
}

/**
 * The algorithm without any I/O: messages, ticks and proposals in; messages, writes and committed
 * entries out. After any input: send `takeMessages()`, restore `takeSnapshot()` and tell it by
 * `restored()`, apply `takeCommitted()`, and if no save is under way and `hasReady()`, save `ready()`.
 * Read each `takeChunkOrder()` from the store and send what `chunkOf()` makes of it.
 */
export class RawNode {
  readonly #state: RaftState;
  #savedHardState: HardState;
  #saving: Ready | null = null;

  constructor(
    config: CoreConfig,
    loaded: LoadedLog & { hardState: HardState; arriving?: ArrivingSnapshot },
  ) {
    this.#savedHardState = loaded.hardState;
    this.#state = new RaftState(
      config,
      new RaftLog({ ...loaded, commit: loaded.hardState.commit }),
      loaded.hardState,
      loaded.recoverTo ?? null,
      loaded.arriving ?? null,
    );
  }

  /** Call once per tick interval. */
  tick(): void {
    tick(this.#state);
  }

  /** Stand for election now. */
  campaign(): void {
    campaign(this.#state);
  }

  /** The connection to a peer has broken: if it leads, it may be dead. */
  suspectLeader(peer: PeerId): void {
    suspectLeader(this.#state, peer);
  }

  /** A message from a peer. */
  step(message: RaftMessage): void {
    if (message.from === this.#state.id) return;
    step(this.#state, message);
  }

  /**
   * Appends a group of proposals; returns the index of the first. Leader only. Throws NOT_LEADER,
   * TOO_BUSY or INVALID_ARGUMENT, and then nothing happened.
   */
  propose(proposals: Uint8Array[]): number {
    propose(this.#state, proposals);
    return this.#state.log.lastIndex - proposals.length + 1;
  }

  /**
   * Appends a change of members; returns its index. It is in force at once, and lasts when it is
   * committed; when it was joint, a second entry that leaves it follows by itself. Leader only. Throws NOT_LEADER,
   * CHANGE_PENDING or INVALID_ARGUMENT, and then nothing happened. With `joint` also a change that
   * one step could make goes through a joint membership.
   */
  proposeChange(changes: MemberChange[], joint = false): number {
    proposeChange(this.#state, changes, joint);
    return this.#state.log.membershipIndex;
  }

  /**
   * Hands leadership to another voter, which stands for election once it has all of the log. Given
   * up after an election timeout; until then no proposal is accepted. Leader only. Throws
   * NOT_LEADER, CHANGE_PENDING (to somebody else already) or INVALID_ARGUMENT.
   */
  transferLeadership(to: PeerId): void {
    transferLeadership(this.#state, to);
  }

  /** Whom leadership is being handed to. */
  get transferee(): PeerId | null {
    return this.#state.transferee;
  }

  /** Leader: nobody can have been asked in this term to stand against the lease of votes. */
  get leaseHolds(): boolean {
    return this.#state.role === 'leader' && !this.#state.leaseBroken;
  }

  /** What this member acknowledged and has lost; it gives no vote before its log is so far again. */
  get recoverTo(): LogPosition | null {
    return this.#state.recoverTo;
  }

  /** Throws what `proposeChange` would throw, but for what new voters lack; changes nothing. */
  checkChange(changes: MemberChange[]): void {
    checkChange(this.#state, changes);
  }

  /** The newest in the log: the one in force, committed or not. */
  get membership(): Membership {
    return this.#state.log.membership;
  }

  /** It is known to be committed: no change is under way. */
  get membershipCommitted(): boolean {
    return this.#state.log.membershipIndex <= this.#state.log.committed;
  }

  /** Leader: this member has so much of the log that it may become a voter. */
  isCaughtUp(id: PeerId): boolean {
    return isCaughtUp(this.#state, id);
  }

  /** Begins a round of heartbeats; the answer comes in `takeReads()`. `context` must rise. */
  readIndex(context: number): void {
    invariant(context > this.#state.readOnly.newestContext, 'read contexts must rise');
    readIndex(this.#state, context);
  }

  get status(): RaftStatus {
    const state = this.#state;
    return {
      id: state.id,
      role: state.role,
      term: state.term,
      leaderId: state.leaderId,
      commitIndex: state.log.committed,
      appliedIndex: state.log.applied,
      voters: [...state.tracker.membership.voters],
    };
  }

  get uncommittedBytes(): number {
    return this.#state.uncommittedBytes;
  }

  get savedHardState(): HardState {
    return this.#savedHardState;
  }

  get log(): RaftLog {
    return this.#state.log;
  }

  peers(): PeerProgress[] {
    return [...this.#state.tracker.entries()].map(([id, { state, match, next, isPaused }]) => ({
      id,
      state,
      match,
      next,
      paused: isPaused,
    }));
  }

  /**
   * Messages that may leave now, even while a save is under way: they promise nothing about the
   * store. Empty as long as the term they carry is not durable.
   */
  takeMessages(): RaftMessage[] {
    if (this.#state.messages.length === 0 || this.#termUnsaved()) return [];
    const messages = this.#state.messages;
    this.#state.messages = [];
    return messages;
  }

  /**
   * A snapshot for the state machine, in the store; until `restored` says that it has it there are no
   * entries in `takeCommitted`.
   */
  takeSnapshot(): Snapshot | null {
    return this.#state.log.unappliedSnapshot();
  }

  /** The state machine is as the snapshot says; false when a newer one has come meanwhile. */
  restored(snapshot: Snapshot): boolean {
    return this.#state.log.snapshotApplied(snapshot);
  }

  /** A chunk of a log snapshot that a follower is to get; null when there is none. */
  takeChunkOrder(): ChunkOrder | null {
    return takeChunkOrder(this.#state);
  }

  /**
   * The message for an order, from what the store gave for it. With null, as the store has the snapshot
   * no more, the transfer begins anew with the newest. Null when it is not wanted any more.
   */
  chunkOf(
    order: ChunkOrder,
    read: { data: Uint8Array; checksum: number } | null,
  ): RaftMessage | null {
    if (read) return sendChunk(this.#state, order, read);
    abandonTransfer(this.#state, order);
    return null;
  }

  /** Snapshots that followers are being sent, which the store has to keep. */
  snapshotsInUse(): LogPosition[] {
    const used: LogPosition[] = [];
    for (const [, { transfer }] of this.#state.tracker.entries()) {
      if (transfer) used.push({ index: transfer.snapshot.index, term: transfer.snapshot.term });
    }
    return used;
  }

  /** The next committed entries; empty when there are none. */
  takeCommitted(): Entry[] {
    return this.#state.log.takeCommitted(this.#state.limits.applyBytes);
  }

  takeReads(): ReadState[] {
    const reads = this.#state.readStates;
    this.#state.readStates = [];
    return reads;
  }

  get saving(): boolean {
    return this.#saving !== null;
  }

  /** The commit index has moved since it was last saved: worth a write when there is time. */
  get commitUnsaved(): boolean {
    return this.#state.log.committed !== this.#savedHardState.commit;
  }

  hasReady(): boolean {
    const { log, messagesAfterSave, unsavedPieces } = this.#state;
    return (
      this.#termUnsaved() ||
      messagesAfterSave.length > 0 ||
      unsavedPieces.length > 0 ||
      log.saved < log.lastIndex ||
      log.unsavedSnapshot() !== null
    );
  }

  /**
   * Takes the next piece of work. A moved commit index alone does not make one: entries are safe
   * without it, and it is written along with the next thing, or `withCommit`.
   */
  ready(withCommit = false): Ready {
    invariant(this.#saving === null, 'one Ready at a time');
    const { log } = this.#state;
    const entries = log.unsavedEntries();
    const snapshot = log.unsavedSnapshot();
    const writes = withCommit || entries.length > 0 || snapshot !== null || this.#termUnsaved();
    const ready: Ready = {
      hardState: writes && this.#hardStateUnsaved() ? this.#state.hardState : null,
      pieces: this.#state.takeUnsavedPieces(),
      snapshot,
      entries,
      messagesAfterSave: this.#state.messagesAfterSave,
      recovered: this.#state.recoveryDue,
    };
    this.#state.recoveryDue = false;
    this.#state.messagesAfterSave = [];
    this.#saving = ready;
    return ready;
  }

  /** Nothing in it needs the store: `saved` may be called at once. */
  static needsNoWrite(ready: Ready): boolean {
    const { hardState, pieces, snapshot, entries, recovered } = ready;
    const isEmpty = pieces.length === 0 && entries.length === 0;
    return hardState === null && snapshot === null && isEmpty && !recovered;
  }

  /** The Ready is durable. Returns the messages to send now. */
  saved(ready: Ready): RaftMessage[] {
    invariant(this.#saving === ready, 'saved what was not given out');
    this.#saving = null;
    const { id, log } = this.#state;
    if (ready.recovered) this.#state.recoverTo = null;
    if (ready.hardState) this.#savedHardState = ready.hardState;
    if (ready.snapshot) log.snapshotSaved(ready.snapshot.index);
    const last = ready.entries.at(-1);
    if (last) log.entriesSaved(last);
    for (const message of ready.messagesAfterSave) {
      if (message.to === id) step(this.#state, message);
    }
    return ready.messagesAfterSave.filter((message) => message.to !== id);
  }

  /** The state machine's snapshot and the new beginning of the log are durable. */
  compacted(snapshot: Snapshot, start: LogPosition): void {
    this.#state.log.compact(snapshot, start);
  }

  /**
   * Where the log may begin after a snapshot at index `last`, keeping some for who lags: more for
   * followers that are being sent an older snapshot, as without the log behind it they would need
   * another one when they have it, again and again.
   */
  compactionPoint(keepEntries: number, last = this.#state.log.applied): LogPosition {
    const { log, limits } = this.#state;
    let index = Math.max(log.firstIndex - 1, last - keepEntries);
    while (index < last && log.bytesBetween(index, last) > limits.trailingBytes) {
      index += Math.ceil((last - index) / 2);
    }
    for (const used of this.snapshotsInUse()) {
      const isKept = used.index >= log.firstIndex - 1 && used.index < index;
      if (!isKept || log.bytesBetween(used.index, last) > limits.transferLogBytes) continue;
      index = used.index;
    }
    const term = log.termAt(index);
    invariant(term !== undefined, `no term is known at index ${index}`);
    return { index, term };
  }

  #termUnsaved(): boolean {
    const { term, vote } = this.#state;
    return term !== this.#savedHardState.term || vote !== this.#savedHardState.vote;
  }

  #hardStateUnsaved(): boolean {
    return this.#termUnsaved() || this.commitUnsaved;
  }
}

/** Of a snapshot of this member's own state machine: what is written of it now. */
export interface OwnSnapshot {
  pieces?: readonly SnapshotPiece[];
  /** it is whole now, and the log is to begin after `start`; null: there is more to come */
  compaction: { snapshot: Snapshot; start: LogPosition } | null;
}

/** The write that a Ready asks for, together with what there is of this member's own snapshot. */
export function batchOf(
  ready: Ready,
  own: OwnSnapshot | null,
  keep: readonly LogPosition[] = [],
): SaveBatch {
  const { hardState, snapshot, entries } = ready;
  const recovered = ready.recovered ? { recovered: true } : {};
  const pieces = [...ready.pieces, ...(own?.pieces ?? [])];
  const rest = {
    hardState,
    entries,
    ...(pieces.length > 0 ? { pieces } : {}),
    ...(keep.length > 0 ? { keep } : {}),
    ...recovered,
  };
  if (own?.compaction) {
    invariant(snapshot === null, 'a snapshot of our own beside a newer one of a leader');
    const log = { type: 'compact', position: own.compaction.start } as const;
    return { ...rest, snapshot: own.compaction.snapshot, log };
  }
  if (!snapshot) return { ...rest, snapshot, log: { type: 'keep' } };
  const position = { index: snapshot.index, term: snapshot.term };
  return { ...rest, snapshot, log: { type: 'reset', position } };
}
