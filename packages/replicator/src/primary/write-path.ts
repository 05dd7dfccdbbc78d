import {
  StorError,
  blockBytes,
  chunkBytes,
  peerFlagKeepAllocated,
  peerFrame,
  peerWriteBodyBytes,
} from '@stor/protocol';
import { crc32, partOf } from '@stor/runtime';

import type { SpaceOp } from '../core/replication/member-space.ts';
import { TrimmedChunks } from '../core/replication/trimmed-chunks.ts';
import { maxUnackedBytesPerMember } from '../replication/limits.ts';
import type { GateSession } from '../replication/replica-gate.ts';
import { PendingOps, type IoOp } from './io-op.ts';
import { LateLocalWrites } from './late-local-writes.ts';
import type { LocalMember } from './local-member.ts';
import type { Member } from './member.ts';
import type { Segment, SegmentPart } from './segment.ts';

export interface WriteHooks {
  /** Answers an op and releases its range; once for each. */
  answer(op: IoOp, error: StorError | null): void;
  /** Answers an op that goes on: it keeps its range until the members are equal there. */
  answerEarly(op: IoOp, error: StorError): void;
  /** Its members are equal there: others may have the range, though the op is not answered. */
  releaseRange(op: IoOp): void;
  /** Why too few members are in sync. */
  refusal(): StorError;
  /** A write was refused, because the member has no room for the chunks that it needs. */
  noSpace(member: Member): void;
  /** All of the chunk was trimmed, in parts. */
  trimmed(chunk: number): void;
  /** Nothing uses the op any more. */
  recycle(op: IoOp): void;
}

/**
 * Writes of one turn that leave together. More wait for less when they leave in parts: the secondaries
 * begin with the first while this node takes the next; each part costs each node a turn of its own.
 */
const writesSentTogether = 16;

/**
 * The way of an aligned write whose range is locked: to the members' links first, then to the local
 * store, then wait until all that must have it have it (I1), under valid leases (I6).
 */
export class WritePath implements SegmentPart {
  readonly #segment: Segment;
  readonly #hooks: WriteHooks;
  /** what clients have trimmed in parts of chunks */
  readonly trimmed = new TrimmedChunks();
  readonly #pending = new PendingOps();
  /** ops that hold their range and wait until writes may start */
  #held: IoOp[] = [];
  /** ops that every member has applied, while those are fewer than the failure mode asks for */
  #withheld: IoOp[] = [];
  readonly #late: LateLocalWrites;
  #sums = new Uint32Array(64);
  /** given to the outbox since it last sent */
  #unsent = 0;
  #pumping = false;
  /** members that were asked for room and have not answered */
  #asked = 0;
  /** the op that it is for; null when that was given up */
  #askedFor: IoOp | null = null;
  /** looked at after acknowledgements: flushes and reads that wait for a lease */
  readonly afterPump: (() => void)[] = [];

  constructor(segment: Segment, hooks: WriteHooks) {
    this.#segment = segment;
    this.#hooks = hooks;
    this.#late = new LateLocalWrites(
      segment.options.clock,
      (op, sums) => {
        this.#issueLocal(op, sums);
      },
      () => {
        this.#unsent = 0;
        if (segment.required.length === 0) this.pump();
      },
    );
  }

  get inFlight(): number {
    return this.#pending.size + this.#held.length + this.#withheld.length;
  }

  /** No write has been given to any member that is not on all of them. */
  get isQuiet(): boolean {
    return this.#pending.size === 0;
  }

  /** Ranges of writes that are sent and not answered: they may be on some members only. */
  pendingRanges(): { offset: number; length: number }[] {
    const ranges: { offset: number; length: number }[] = [];
    for (let op = this.#pending.head; op; op = op.next) {
      ranges.push({ offset: op.offset, length: op.length });
    }
    return ranges;
  }

  /** Starts an op that holds its range, or holds it back while a member's fate is open. */
  start(op: IoOp): void {
    if ((this.#held.length === 0 || op.isOwn) && this.#mayStart()) this.#issue(op);
    else {
      op.own(this.#segment.options.outbox.buffers);
      this.#held.push(op);
    }
  }

  membersChanged(): void {}

  /** Clients' ops that hold their range and have not been started; they are the caller's again. */
  takeHeld(): IoOp[] {
    const taken = this.#held.filter((op) => !op.isOwn);
    if (this.#askedFor?.isOwn !== true) this.#askedFor = null;
    this.#held = this.#held.filter((op) => op.isOwn);
    return taken;
  }

  /**
   * Answers an op with an error though it cannot be finished. What some member may have got goes on
   * and keeps its range (DESIGN section 5). Not while the store reads bytes that are the client's:
   * then the caller tries again later.
   */
  giveUp(op: IoOp, error: StorError): void {
    if (this.#askedFor === op) this.#askedFor = null;
    if (remove(this.#held, op) || remove(this.#withheld, op)) this.#finish(op, error);
    else if (op.inPending && !(op.localRunning && !op.ownsBytes)) {
      this.#hooks.answerEarly(op, error);
    }
  }

  resentTo(member: Member): { offset: number; length: number }[] {
    const ranges: { offset: number; length: number }[] = [];
    for (let op = this.#pending.head; op; op = op.next) {
      const { offset, length } = op;
      if (op.sequence > member.ackedSequence) ranges.push({ offset, length });
    }
    return ranges;
  }

  /** A member that could not be dropped is back: it gets again what it has not acknowledged. */
  memberOpened(member: Member): void {
    const remote = this.#segment.remotes.find((each) => each === member);
    if (!remote) {
      this.#localIsBack();
      return;
    }
    // one that was lost before it could answer is asked again
    for (const op of this.#held) op.roomRefused = false;
    for (let op = this.#pending.head; op; op = op.next) {
      if (!op.frame || op.sequence <= remote.ackedSequence) continue;
      // what it said of its chunks is from before these writes
      const chunks = newChunks(remote, op);
      if (chunks > 0) remote.credits.spend(op.sequence, chunks);
      noteAllocation(remote, op);
      remote.send(op.frame, op.sequence, op.frameBodyBytes);
    }
  }

  /**
   * The only member is the local one, and its disk was away with writes under way. What of them it
   * has is settled like after a crash: this primary ends, and the next one begins anew.
   */
  #localIsBack(): void {
    for (let op = this.#pending.head; op; op = op.next) {
      if (!op.localPending) continue;
      const reason = 'the local replica was away while writes were under way';
      this.#segment.superseded(new StorError('UNAVAILABLE', reason));
      return;
    }
  }

  /** Answers what all that must have it have; then starts what was held. */
  pump(): void {
    if (this.#pumping || this.#segment.stopped) return;
    this.#pumping = true;
    try {
      this.#acknowledge();
      while (this.#held.length > 0 && this.#mayStart()) {
        if (this.#segment.rule.writes !== 'start' && !this.#held[0]?.isOwn) break;
        const op = this.#held.shift();
        if (op) this.#issue(op);
        this.#acknowledge();
      }
    } finally {
      this.#pumping = false;
    }
    for (const look of this.afterPump) look();
  }

  /** Fails everything: the primary has stopped. */
  abandon(error: StorError): void {
    const ops = [...this.#held, ...this.#withheld];
    this.#askedFor = null;
    this.#held = [];
    this.#withheld = [];
    for (let op = this.#pending.head; op; op = this.#pending.head) {
      this.#pending.remove(op);
      ops.push(op);
    }
    for (const op of ops) this.#finish(op, error);
  }

  #finish(op: IoOp, error: StorError | null): void {
    if (!op.localRunning) {
      this.#hooks.answer(op, error);
      this.#hooks.recycle(op);
      return;
    }
    // the store still reads the payload: nobody may reuse the memory before it is done
    op.completed = true;
    op.failure = error;
    op.answerLater = op.kind === 'write' && !op.ownsBytes;
    if (!op.answerLater) this.#hooks.answer(op, error);
  }

  #mayStart(): boolean {
    const { membership, targets, required, local, localIsRequired, isHeld, stopped } =
      this.#segment;
    if (!membership || membership.holding || isHeld || stopped || this.#asked > 0) return false;
    if (localIsRequired && !local?.isOpen) return false;
    for (const member of required) if (!member.isOpen) return false;
    for (const member of targets) {
      if (member.unackedBytes > maxUnackedBytesPerMember) return false;
    }
    return true;
  }

  #acknowledge(): void {
    const segment = this.#segment;
    this.#writeAcknowledged();
    if ((!this.#pending.head && this.#withheld.length === 0) || segment.stopped) return;
    if (!segment.leased) return;
    if (this.#withheld.length > 0 && segment.rule.writes === 'start') {
      const withheld = this.#withheld;
      this.#withheld = [];
      for (const op of withheld) this.#finish(op, null);
    }
    const acked = this.#acked;
    let op: IoOp | null = this.#pending.head;
    while (op && op.sequence <= acked) {
      const next: IoOp | null = op.next;
      if (!op.localPending || !segment.localIsRequired) {
        this.#pending.remove(op);
        this.#applied(op);
      }
      op = next;
    }
  }

  /** The last write that all required members of other nodes have. */
  get #acked(): number {
    let acked = Infinity;
    for (const member of this.#segment.required) acked = Math.min(acked, member.ackedSequence);
    return acked;
  }

  /**
   * The others may have a write before the turn ends in which it was sent to them. Then this node's replica
   * gets it now: it may be the last that is waited for, or be in the way of being filled, when nobody waits for
   * it and the op is over with the acknowledgement.
   */
  #writeAcknowledged(): void {
    const { required, localIsRequired } = this.#segment;
    if (required.length === 0 && localIsRequired) return;
    if (this.#acked >= this.#late.first) this.#late.drain();
  }

  /** All that must have it have it (I1); whether they are enough the failure mode says. */
  #applied(op: IoOp): void {
    const { rule } = this.#segment;
    if (rule.acknowledges || op.isOwn) this.#finish(op, null);
    else if (rule.writes === 'refuse') this.#finish(op, this.#hooks.refusal());
    else {
      this.#withheld.push(op);
      this.#hooks.releaseRange(op);
    }
  }

  #issue(op: IoOp): void {
    const segment = this.#segment;
    const { outbox } = segment.options;
    const isAlone = outbox.isIdle;
    if (op.freesChunk >= 0 && !this.trimmed.isComplete(op.freesChunk, segment.sizeBytes)) {
      // written since, or rolled back
      this.#finish(op, null);
      return;
    }
    if (this.#askForRoom(op)) return;
    const full = this.#spendSpace(op);
    if (full) {
      // nothing was sent: the volume stays as it is, and so do its members
      const where = `disk ${full.diskId} of node ${full.nodeId}`;
      this.#finish(op, new StorError('NO_SPACE', `no space on ${where} for a new chunk`));
      this.#hooks.noSpace(full);
      return;
    }
    segment.regionUse.touch(op.offset, op.length);
    const sequence = ++segment.sequence;
    op.sequence = sequence;
    if (op.kind === 'write') this.#sum(op);
    if (segment.targets.length > 0) this.#send(op);
    this.#noteAllocation(op);
    this.#noteTrims(op);
    this.#pending.append(op);
    const isSent = segment.targets.length > 0 && this.#sendsNow(isAlone);
    // on its way before this node writes it too, so that all do at the same time
    if (isSent) outbox.flush();
    const { local, localIsTarget } = segment;
    const isLate = localIsTarget && !isAlone && local !== null && this.#late.add(op, local);
    if (localIsTarget && !isLate) this.#issueLocal(op, this.#sums);
    if (segment.required.length === 0) this.pump();
  }

  #sendsNow(isAlone: boolean): boolean {
    this.#unsent += 1;
    if (!isAlone && this.#unsent < writesSentTogether) return false;
    this.#unsent = 0;
    return true;
  }

  #sum(op: IoOp): void {
    const blocks = op.length / blockBytes;
    if (this.#sums.length < blocks) this.#sums = new Uint32Array(blocks);
    const { bytes } = op;
    if (!bytes) return;
    let at = op.start;
    for (let block = 0; block < blocks; block++, at += blockBytes) {
      this.#sums[block] = crc32(partOf(bytes, at, blockBytes));
    }
  }

  #send(op: IoOp): void {
    const { options, targets } = this.#segment;
    const { outbox, index, channel } = options;
    const { sequence, offset, length } = op;
    if (op.kind === 'write' && op.memory) {
      op.keepFrame(
        outbox.encodeWriteFrom(
          ...([index, channel, sequence, offset, length] as const),
          ...([op.memory, op.start, this.#sums] as const),
        ),
        peerWriteBodyBytes(length),
      );
    } else if (op.kind === 'write' && op.bytes) {
      op.keepFrame(
        outbox.encodeWrite(
          index,
          channel,
          sequence,
          offset,
          length,
          op.bytes,
          op.start,
          this.#sums,
        ),
        peerWriteBodyBytes(length),
      );
    } else {
      const flags = op.keepAllocated ? peerFlagKeepAllocated : 0;
      const type = peerFrame.zero;
      op.keepFrame(outbox.encode(type, flags, index, channel, sequence, offset, length, null), 0);
    }
    const { frame } = op;
    if (!frame) return;
    for (const member of targets) member.send(frame, sequence, op.frameBodyBytes);
  }

  /**
   * Inline when the store can; the client's bytes are used where they lie. No closure here: one that is
   * not even made costs every write the memory of what it would catch.
   */
  #issueLocal(op: IoOp, sums: Uint32Array): void {
    const { local } = this.#segment;
    const session = local?.session;
    op.localPending = true;
    // the epoch is checked in the turn in which the write is issued (I2)
    if (!local || !session?.alive) return;
    if (op.kind === 'zero') {
      this.#issueToStore(op, local, session, sums);
      return;
    }
    const { offset, length, bytes, start } = op;
    if (!bytes) return;
    try {
      if (session.store.writeInline(offset, length, bytes, start, sums, 0)) {
        local.release(op.localChunks);
        op.localPending = false;
        return;
      }
    } catch (error) {
      local.release(op.localChunks);
      local.drop(StorError.from(error));
      return;
    }
    this.#issueToStore(op, local, session, sums);
  }

  /** What the store cannot do at once. */
  #issueToStore(op: IoOp, local: LocalMember, session: GateSession, sums: Uint32Array): void {
    const { store } = session;
    const done = local.tracked(session, (error) => {
      local.release(op.localChunks);
      op.localRunning = false;
      // a failed replica leaves the set before this write is acknowledged (I4, I7)
      if (!error) op.localPending = false;
      if (op.completed) {
        if (op.answerLater) this.#hooks.answer(op, op.failure);
        this.#hooks.recycle(op);
      }
      if (error && session.alive) local.drop(error);
      else this.pump();
    });
    const { offset, length } = op;
    if (op.kind === 'zero') {
      op.localRunning = true;
      store.zero(offset, length, op.keepAllocated, done);
      return;
    }
    const { bytes, start } = this.#keptPayload(op);
    op.localRunning = true;
    store.write(offset, length, bytes, start, sums, 0, done);
  }

  /** The payload where it stays unchanged until the op is recycled. */
  #keptPayload(op: IoOp): { bytes: Uint8Array; start: number } {
    if (op.frame && !op.ownsBytes) {
      op.ownsBytes = true;
      return { bytes: op.frame.batch.bytes, start: op.frame.end - op.length };
    }
    op.own(this.#segment.options.outbox.buffers, this.#segment.mayAnswerEarly);
    return { bytes: op.bytes ?? new Uint8Array(op.length), start: op.start };
  }

  /**
   * Little is kept for each primary ahead of need, so a member that seems to have too little room is
   * asked before the write is refused; the write waits, ahead of those that come after it.
   */
  #askForRoom(op: IoOp): boolean {
    if (op.roomRefused || !this.#lacksRoom(op)) return false;
    this.#ask(op);
    return true;
  }

  #lacksRoom(op: IoOp): boolean {
    for (const member of this.#segment.targets) {
      if (member.availableChunks < newChunks(member, op)) return true;
    }
    return false;
  }

  #ask(op: IoOp): void {
    const lacking = this.#segment.targets.filter(
      (member) => member.availableChunks < newChunks(member, op),
    );
    op.own(this.#segment.options.outbox.buffers);
    this.#held.unshift(op);
    this.#askedFor = op;
    this.#asked += lacking.length;
    for (const member of lacking) {
      member.requestRoom(newChunks(member, op), (granted) => {
        this.#asked -= 1;
        if (!granted && this.#askedFor) this.#askedFor.roomRefused = true;
        if (this.#asked > 0) return;
        this.#askedFor = null;
        this.pump();
      });
    }
  }

  /**
   * Checks that every member has room for the chunks that the write may take, and takes it. The
   * member that has none; null when all have.
   */
  #spendSpace(op: IoOp): Member | null {
    const { targets, local, localIsTarget } = this.#segment;
    op.localChunks = 0;
    for (const member of targets) {
      const chunks = newChunks(member, op);
      if (chunks === 0 || member.availableChunks >= chunks) continue;
      if (!this.#dropWithoutRoom(member)) return member;
    }
    if (local && localIsTarget) {
      const chunks = newChunks(local, op);
      if (chunks > 0 && local.availableChunks < chunks) {
        if (!this.#dropWithoutRoom(local)) return local;
      } else {
        op.localChunks = chunks;
        local.reserve(chunks);
      }
    }
    for (const member of this.#segment.targets) {
      const chunks = newChunks(member, op);
      if (chunks > 0) member.credits.spend(this.#segment.sequence + 1, chunks);
    }
    return null;
  }

  #noteTrims(op: IoOp): void {
    const { offset, length, freesChunk } = op;
    if (op.kind === 'write' || op.keepAllocated) this.trimmed.written(offset, length);
    else if (freesChunk >= 0) this.trimmed.freed(freesChunk);
    else this.#noteZeroed(offset, length);
  }

  #noteZeroed(offset: number, length: number): void {
    const { sizeBytes, targets, local } = this.#segment;
    const { trimmed } = this;
    const isAllocated = (chunk: number): boolean =>
      local?.allocated?.has(chunk) === true ||
      targets.some((member) => member.allocated?.has(chunk) !== false);
    for (const chunk of trimmed.zeroed(offset, length, sizeBytes)) {
      if (isAllocated(chunk)) this.#hooks.trimmed(chunk);
      else trimmed.freed(chunk);
    }
  }

  /** A member that is being filled must not make the volume full: it goes. False for others. */
  #dropWithoutRoom(member: Member): boolean {
    const { joining, syncing } = this.#segment;
    if (!joining.has(member) && !syncing.has(member)) return false;
    member.drop(new StorError('NO_SPACE', `${member.nodeId} has no room for the replica`));
    return true;
  }

  #noteAllocation(op: IoOp): void {
    const { targets, local, localIsTarget } = this.#segment;
    for (const member of targets) noteAllocation(member, op);
    if (local && localIsTarget) noteAllocation(local, op);
  }
}

export function remove<T>(list: T[], item: T): boolean {
  const at = list.indexOf(item);
  if (at >= 0) list.splice(at, 1);
  return at >= 0;
}

/** Chunks of new room that the op may make a member take. */
function newChunks(member: Member, op: SpaceOp): number {
  const { space } = member;
  if (space) return space.needs(op);
  if (op.kind !== 'write' && !op.keepAllocated) return 0;
  const first = Math.floor(op.offset / chunkBytes);
  return Math.floor((op.offset + op.length - 1) / chunkBytes) + 1 - first;
}

/** Keeps what is known of a member's chunks in step with what it is sent. */
export function noteAllocation(member: Member, op: SpaceOp): void {
  member.space?.note(op);
}
