import type { RaftLimits } from './limits.ts';
import { isVoter } from './membership.ts';
import type { RaftLog } from './raft-log.ts';
import { ReadOnly } from './read-only.ts';
import { SnapshotAssembly } from './snapshot-transfer.ts';
import { reaches } from './storage.ts';
import { Tracker } from './tracker.ts';
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
  SnapshotPiece,
} from './types.ts';

export interface CoreConfig {
  id: PeerId;
  electionTicks: number;
  heartbeatTicks: number;
  /**
   * No vote is given for so many ticks after the start: a lease of votes that was given before a
   * restart is kept. Needed for lease reads only. @default 0
   */
  voteHoldTicks?: number;
  limits: RaftLimits;
  /** uniform in [0, 1): spreads election timeouts, so that members do not stand at once */
  random: () => number;
}

/** How many election timeouts a snapshot may take before the leader asks again where to go on. */
const snapshotPatience = 10;
/** So much later than the one before it stands the next voter, when the connection to the leader broke. */
const suspectTurnTicks = 4;

/**
 * Everything a member knows, and the changes of role. What it does with messages is in
 * `election.ts`, `follower.ts` and `leader.ts`.
 */
export class RaftState {
  readonly id: PeerId;
  readonly log: RaftLog;
  readonly tracker: Tracker;
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  readonly limits: RaftLimits;
  readonly #random: () => number;

  /** votes are held back for a leader that was heard, whatever else is known: lease reads rely on it */
  readonly holdsVotes: boolean;
  /** ticks left in which no vote is given */
  voteHoldTicks: number;
  /** acknowledged and lost up to here: see StoredState; null: nothing */
  recoverTo: LogPosition | null;
  /** the log equals a leader's so far that it is as new again as what was lost, once it is saved */
  recoveryDue = false;
  role: Role = 'follower';
  term: number;
  vote: PeerId | null;
  leaderId: PeerId | null = null;
  /** follower, candidate: ticks since a leader was heard or a vote given; leader: see checkQuorum */
  electionElapsed = 0;
  heartbeatElapsed = 0;
  /** drawn anew at each change of role, in [electionTicks, 2 * electionTicks) */
  electionTimeoutTicks = 0;
  /** the first index of the leader's own term; reads wait until it is committed */
  termStartIndex = 0;
  uncommittedBytes = 0;
  /** leader: whom it hands over to; no proposal is accepted meanwhile */
  transferee: PeerId | null = null;
  transferElapsed = 0;
  /** leader: in this term somebody may stand against the lease of votes */
  leaseBroken = false;

  /** follower: a snapshot that comes in chunks */
  readonly assembly: SnapshotAssembly;
  /** follower: what came of it and is not given to the store */
  unsavedPieces: SnapshotPiece[] = [];
  unsavedPieceBytes = 0;
  /** leader: chunks to be read from the store and sent; bounded by the windows of the followers */
  chunkOrders: ChunkOrder[] = [];
  readonly readOnly = new ReadOnly();
  /** contexts that came before the leader's first commit */
  earlyReads: number[] = [];
  readStates: ReadState[] = [];
  /** promises nothing about the store: may leave before the save, if the term is durable */
  messages: RaftMessage[] = [];
  /** promises what is being saved: leaves after the save; those to itself are its own votes */
  messagesAfterSave: RaftMessage[] = [];

  constructor(
    config: CoreConfig,
    log: RaftLog,
    hardState: HardState,
    recoverTo: LogPosition | null = null,
    arriving: ArrivingSnapshot | null = null,
  ) {
    this.id = config.id;
    this.log = log;
    this.electionTicks = config.electionTicks;
    this.heartbeatTicks = config.heartbeatTicks;
    this.limits = config.limits;
    this.recoverTo = recoverTo;
    this.assembly = new SnapshotAssembly(arriving);
    this.voteHoldTicks = config.voteHoldTicks ?? 0;
    this.holdsVotes = this.voteHoldTicks > 0;
    this.#random = config.random;
    this.term = hardState.term;
    this.vote = hardState.vote;
    this.tracker = new Tracker(log.membership, config.limits);
    this.becomeFollower(this.term, null);
  }

  get hardState(): HardState {
    return { term: this.term, vote: this.vote, commit: this.log.committed };
  }

  get promotable(): boolean {
    const { log, id } = this;
    // Who is removed by a change that may not be committed may be the only one that has it: then
    // no other can win, and it must (thesis, section 4.2.2).
    const mayStand = isVoter(log.membership, id) || isVoter(log.membershipAt(log.committed), id);
    return mayStand && log.unsavedSnapshot() === null && this.recoverTo === null;
  }

  get snapshotPatienceTicks(): number {
    return this.electionTicks * snapshotPatience;
  }

  /** Pieces of an arriving snapshot go with the next save. */
  storeLater(pieces: readonly SnapshotPiece[]): void {
    this.unsavedPieces.push(...pieces);
    for (const { data } of pieces) this.unsavedPieceBytes += data.length;
  }

  takeUnsavedPieces(): SnapshotPiece[] {
    const pieces = this.unsavedPieces;
    this.unsavedPieces = [];
    this.unsavedPieceBytes = 0;
    return pieces;
  }

  send(message: RaftMessage): void {
    switch (message.type) {
      case 'append':
      case 'heartbeat':
      case 'snapshot':
      case 'timeoutNow':
      case 'snapshotChunk':
        // bounded by the windows of the followers
        this.messages.push(message);
        return;
      case 'heartbeatResponse':
        keep(this.messages, message, this.limits.waitingMessages);
        return;
      case 'vote':
      case 'preVote':
      case 'voteResponse':
      case 'preVoteResponse':
      case 'appendResponse':
      case 'snapshotChunkResponse':
        // its own votes and acknowledgements are never lost
        if (message.to === this.id) {
          this.messagesAfterSave.push(message);
          return;
        }
        if (supersedes(message, this.messagesAfterSave.at(-1))) this.messagesAfterSave.pop();
        keep(this.messagesAfterSave, message, this.limits.waitingMessages, this.id);
    }
  }

  becomeFollower(term: number, leaderId: PeerId | null): void {
    this.#reset(term);
    this.role = 'follower';
    this.leaderId = leaderId;
  }

  /** Changes nothing durable: a pre-candidate only asks whether it could win. */
  becomePreCandidate(): void {
    this.role = 'preCandidate';
    this.leaderId = null;
    this.tracker.resetProgress(this.log.lastIndex);
    this.#drawElectionTimeout();
  }

  becomeCandidate(): void {
    this.#reset(this.term + 1);
    this.role = 'candidate';
    this.vote = this.id;
  }

  becomeLeader(): void {
    this.#reset(this.term);
    this.role = 'leader';
    this.leaderId = this.id;
    this.tracker.progress(this.id)?.becomeReplicate();
    this.termStartIndex = this.log.lastIndex + 1;
    this.appendOwn([{ type: 'empty', data: new Uint8Array() }]);
  }

  /** The leader's own acknowledgement counts like any other: when it is durable. */
  appendOwn(contents: Pick<Entry, 'type' | 'data'>[]): void {
    const first = this.log.lastIndex + 1;
    this.log.append(
      contents.map(({ type, data }, i) => ({ index: first + i, term: this.term, type, data })),
    );
    this.uncommittedBytes += this.log.bytesBetween(first - 1, this.log.lastIndex);
    this.followMembership();
    this.send({
      type: 'appendResponse',
      from: this.id,
      to: this.id,
      term: this.term,
      rejected: false,
      index: this.log.lastIndex,
      hintIndex: 0,
      hintTerm: 0,
      isRecovering: false,
    });
  }

  /** The log was changed: the newest membership in it is in force from now on. */
  followMembership(): void {
    if (this.tracker.membership === this.log.membership) return;
    this.tracker.setMembership(this.log.membership, this.log.lastIndex);
  }

  /** The log up to `index` equals that of the present leader. */
  matchedLeader(index: number): void {
    const term = this.log.termAt(index);
    if (this.recoverTo === null || term === undefined) return;
    if (reaches({ index, term }, this.recoverTo)) this.recoveryDue = true;
  }

  #reset(term: number): void {
    if (this.term !== term) {
      this.term = term;
      this.vote = null;
    }
    this.leaderId = null;
    this.electionElapsed = 0;
    this.heartbeatElapsed = 0;
    this.#drawElectionTimeout();
    this.tracker.resetProgress(this.log.lastIndex);
    this.readOnly.clear();
    this.earlyReads = [];
    this.chunkOrders = [];
    this.readStates = [];
    this.uncommittedBytes = 0;
    this.termStartIndex = 0;
    this.transferee = null;
    this.leaseBroken = false;
  }

  /**
   * `lost` leads and its connection broke, for the others as well if it is dead: then one voter after the
   * other stands, by the order of their names. At the same moment they would take the votes from each
   * other, and wait a whole election timeout for the next try.
   */
  shortenElectionTimeout(lost: PeerId): void {
    const others = [...this.tracker.voters].filter((id) => id !== lost).sort();
    const turn = Math.max(0, others.indexOf(this.id));
    const ticks = this.electionTicks + 1 + turn * suspectTurnTicks + Math.floor(this.#random() * 2);
    this.electionTimeoutTicks = Math.min(this.electionTimeoutTicks, ticks);
  }

  #drawElectionTimeout(): void {
    this.electionTimeoutTicks =
      this.electionTicks + Math.floor(this.#random() * this.electionTicks);
  }
}

/**
 * Adds a message to those that wait for the disk. A disk may hang for hours while a leader goes on to
 * ask: the oldest of too many messages to others are lost then, as they may be on the way.
 */
function keep(list: RaftMessage[], message: RaftMessage, limit: number, self?: PeerId): void {
  list.push(message);
  if (list.length <= limit) return;
  const oldest = list.findIndex(({ to }) => to !== self);
  if (oldest >= 0) list.splice(oldest, 1);
}

/** An acknowledgement says all that the one before it said. */
function supersedes(message: RaftMessage, before: RaftMessage | undefined): boolean {
  return (
    message.type === 'appendResponse' &&
    before?.type === 'appendResponse' &&
    message.to === before.to &&
    message.term === before.term &&
    !message.rejected &&
    !before.rejected &&
    message.index >= before.index
  );
}
