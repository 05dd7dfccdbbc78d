import { StorError, chunkBytes, hasCode, type SnapshotId } from '@stor/protocol';

import { FillPasses } from '../core/replication/fill-passes.ts';
import { FlapGuard } from '../core/replication/flap-guard.ts';
import { nextStructureStep } from '../core/replication/snapshot-structure.ts';
import {
  chunkRetryMs,
  maxChunkFailures,
  maxChunksInFlight,
  maxChunksPerSegment,
  resyncFlushBytes,
} from '../replication/limits.ts';
import type { ResyncStatus } from '../replicator-ports.ts';
import type { BackgroundTurn } from '../background-turns.ts';
import { Absences } from './absences.ts';
import { ChunkCopier } from './chunk-copier.ts';
import { ChunkLock } from './chunk-lock.ts';
import { adoptGeneration, confirmImage } from './equal-images.ts';
import { Filling } from './filling.ts';
import type { Member } from './member.ts';
import { PieceTurns } from './piece-turns.ts';
import { PassPlanner } from './pass-planner.ts';
import type { ReadPath } from './read-path.ts';
import type { ResyncOptions } from './resync-options.ts';
import { RoomWaits } from './room-waits.ts';
import type { Segment, SegmentPart } from './segment.ts';

/**
 * Brings members back (DESIGN "Resync"). From one instant on the member gets every new write; what
 * may differ from before is compared under the range lock and copied, as fast as clients allow. Then
 * it takes over the source's generation, must acknowledge, makes all it was given durable, and is
 * proposed as a member (I4).
 *
 * The generation comes before the membership: a member that did not know what changed while it was
 * away would one day tell a third replica that nothing did.
 */
export class Resyncer implements SegmentPart {
  readonly #segment: Segment;
  readonly #copier: ChunkCopier;
  readonly #planner: PassPlanner;
  readonly #options: ResyncOptions;
  readonly #filling = new Map<Member, Filling>();
  readonly #flaps = new FlapGuard();
  readonly #absences: Absences;
  readonly #noRoom = new RoomWaits();
  #cancelTimer: (() => void) | null = null;
  /** members that adopt the source's generation: no checkpoint meanwhile */
  adopting = 0;

  constructor(segment: Segment, read: ReadPath, options: ResyncOptions) {
    this.#segment = segment;
    this.#absences = new Absences(segment);
    this.#copier = new ChunkCopier(segment, read);
    this.#options = options;
    this.#planner = new PassPlanner({
      segment,
      rules: options.rules,
      isCurrent: (filling) => this.#isCurrent(filling),
      mayBegin: ({ member }) =>
        options.mayStart() &&
        segment.membership?.stable === true &&
        !segment.policy.rebuildPaused &&
        !segment.isLeaving(member),
    });
  }

  bytesRemaining(member: Member): number {
    return this.#filling.get(member)?.progress.bytesRemaining ?? 0;
  }

  isFilling(member: Member): boolean {
    return this.#filling.has(member);
  }

  /** How far a member's way back is; null for one that is in sync, has failed or is to go. */
  status(member: Member): ResyncStatus | null {
    const segment = this.#segment;
    if (member.answer?.failure || segment.distrusted.has(member.replicaId)) return null;
    if (segment.isLeaving(member)) return null;
    if (segment.isInSync(member) && member.isOpen) return null;
    const nowMs = segment.options.clock.monotonicMs();
    const filling = this.#filling.get(member);
    const progress = filling?.progress;
    const waits = filling ? '' : this.#whyNot(member, nowMs);
    const isPaused = segment.policy.rebuildPaused && (!filling || filling.phase === 'copying');
    return {
      state: isPaused ? 'paused' : waits ? 'waiting' : 'running',
      message: isPaused ? 'resync and rebuild of this volume are paused by its policy' : waits,
      sourceReplicaId: filling?.source?.replicaId ?? null,
      bytesTotal: progress?.bytesTotal ?? 0,
      bytesRemaining: progress?.bytesRemaining ?? 0,
      bytesCopied: progress?.bytesCopied ?? 0,
      bytesPerSecond: progress?.bytesPerSecond(nowMs) ?? 0,
      elapsedMs: progress ? nowMs - progress.startedMs : 0,
    };
  }

  tick(nowMs: number): void {
    const { pace, probe } = this.#options;
    pace.report(probe.look(nowMs), nowMs);
    this.#look(nowMs);
  }

  membersChanged(): void {
    const { membership, stopped, options } = this.#segment;
    if (stopped || !membership) return;
    const nowMs = options.clock.monotonicMs();
    for (const filling of [...this.#filling.values()]) {
      if (filling.phase === 'joining' && this.#segment.isInSync(filling.member)) {
        this.#forget(filling.member);
        this.#flaps.joined(filling.member.replicaId, nowMs);
        const { bytesCopied } = filling.progress;
        const replica = filling.member.replicaId;
        options.logger.info({ replica, bytesCopied }, 'resync is complete: the replica is in sync');
      }
    }
    this.#absences.noteEqual(this.#options.mayStart());
    this.#look(nowMs);
  }

  memberLost(member: Member): void {
    const { replicaId } = member;
    const nowMs = this.#segment.options.clock.monotonicMs();
    const isFilling = this.#forget(member);
    const wasEqual = this.#absences.lost(member, isFilling, this.#options.pendingRanges());
    if (wasEqual || isFilling) this.#flaps.left(replicaId, nowMs);
    const error = this.#segment.lastErrors.get(replicaId);
    // one that was not in use is only asked in vain whether there is room yet
    const wasUsed = isFilling || wasEqual;
    if (!wasUsed || !hasCode(error, 'NO_SPACE')) return;
    const waitMs = this.#noRoom.begin(replicaId, error.message, nowMs);
    const { logger } = this.#segment.options;
    logger.warn({ replica: replicaId, waitMs }, 'a replica has no room to be filled');
  }

  /** Starts members that may start, and chunks that may be copied now. */
  #look(nowMs: number): void {
    const { membership, members, stopped } = this.#segment;
    if (stopped || !membership) return;
    for (const { member, phase } of [...this.#filling.values()]) {
      if (phase !== 'structure' || !this.#segment.isLeaving(member)) continue;
      // it may have been rolled back: should it stay after all, its marks are asked for anew
      member.drop(new StorError('ABORTED', `replica ${member.replicaId} is to go`));
      this.#forget(member);
    }
    for (const member of members) {
      if (this.#isWanted(member) && this.#whyNot(member, nowMs) === '') this.#start(member, nowMs);
    }
    this.#pump();
  }

  #isWanted(member: Member): boolean {
    const segment = this.#segment;
    if (!member.isOpen || member.answer?.failure || this.#filling.has(member)) return false;
    if (segment.isLeaving(member) || segment.distrusted.has(member.replicaId)) return false;
    return segment.membership?.required().includes(member.replicaId) === false;
  }

  /** Why a member is not filled now; empty when it may be. */
  #whyNot(member: Member, nowMs: number): string {
    const segment = this.#segment;
    const { replicaId } = member;
    if (!member.isOpen) {
      const error = segment.lastErrors.get(replicaId);
      return error ? `not connected: ${error.message}` : `${member.nodeId} is not connected`;
    }
    if (segment.policy.rebuildPaused) return 'paused';
    if (!this.#options.mayStart()) return 'the in-sync replicas are made equal first';
    if (!segment.membership?.stable) return 'the in-sync set is being changed';
    if (segment.sources().length === 0) return 'no in-sync replica can be reached';
    const noRoom = this.#noRoom.reason(member, nowMs);
    if (noRoom !== null) return noRoom;
    const waitMs = this.#flaps.waitMs(replicaId, nowMs);
    if (waitMs === 0 || this.#isUrgent()) return '';
    const leaves = this.#flaps.leaves(replicaId);
    return `it has left ${leaves} times in a short time: it is filled again in ${Math.ceil(waitMs / 1_000)} s`;
  }

  /** Clients are held until enough replicas are in sync: nothing else matters. */
  #isUrgent(): boolean {
    const { writes } = this.#segment.rule;
    return writes === 'park' || writes === 'refuse';
  }

  #start(member: Member, nowMs: number): void {
    const again = (): void => {
      this.#pump();
    };
    const filling = new Filling(member, nowMs, new PieceTurns(this.#options.turns, again));
    this.#filling.set(member, filling);
    const { logger } = this.#segment.options;
    logger.info({ replica: member.replicaId }, 'resync begins');
    this.#planner.equalize(filling, () => {
      this.#begin(filling);
    });
  }

  /** It is not filled any more, or need not be. */
  #forget(member: Member): boolean {
    this.#filling.get(member)?.turns.drop();
    return this.#filling.delete(member);
  }

  /** The primary has ended. */
  abandon(): void {
    for (const { turns } of this.#filling.values()) turns.drop();
  }

  /** Its snapshots are those of the source: from here on it gets every write. */
  #begin(filling: Filling): void {
    const segment = this.#segment;
    const { member } = filling;
    // what is pending now was not sent to it and may not be marked at the source yet
    const pending = this.#options.pendingRanges();
    const chunks = Math.ceil(segment.sizeBytes / chunkBytes);
    filling.passes = new FillPasses(chunks, this.#absences.incomplete(member));
    filling.phase = 'planning';
    segment.syncing.add(member);
    if (!member.isLocal) member.ackedSequence = segment.sequence;
    const regions = this.#absences.writtenSinceLost(member);
    segment.changed();
    if (!this.#isCurrent(filling)) return;
    if (regions) this.#planned(filling, pending, regions);
    else {
      const isCurrent = (): boolean => this.#isCurrent(filling);
      this.#absences.whatChanged(member, isCurrent, (changed) => {
        this.#planned(filling, pending, changed);
      });
    }
  }

  #planned(
    filling: Filling,
    pending: { offset: number; length: number }[],
    regions: number[] | null,
  ): void {
    const chunks = Math.ceil(this.#segment.sizeBytes / chunkBytes);
    filling.changed(chunks, regions, pending);
    this.#planPass(filling);
  }

  /** The next image, or the way into the set when all are equal. */
  #planPass(filling: Filling): void {
    const { member, passes } = filling;
    if (!passes?.current) {
      this.#finish(filling);
      return;
    }
    filling.phase = 'planning';
    const { image } = filling;
    this.#planner.plan(filling, (planned) => {
      if (!planned) {
        this.dropped(image ?? '');
        member.dropSnapshot(image ?? '', () => {});
        return;
      }
      filling.begin(planned.chunks, planned.sizeBytes, planned.source);
      filling.source = planned.source;
      const { bytesTotal } = filling.progress;
      const { logger } = this.#segment.options;
      logger.info({ replica: member.replicaId, image, bytesTotal }, 'resync is planned');
      this.#pump();
    });
  }

  /** All of an image is compared and copied. */
  #passOver(filling: Filling): void {
    const { image, member, passes, round } = filling;
    if (image === null) {
      passes?.done();
      this.#finish(filling);
      return;
    }
    const isCurrent = (): boolean => this.#isCurrent(filling) && filling.round === round;
    const over = (error: StorError | null): void => {
      if (!isCurrent()) return;
      if (error && error.code !== 'NOT_FOUND') {
        member.drop(error);
        return;
      }
      passes?.done();
      this.#planPass(filling);
    };
    filling.phase = 'confirming';
    confirmImage(this.#segment, member, image, isCurrent, over);
  }

  // what members that are being filled have to do with snapshots

  cut(snapshotId: SnapshotId): void {
    for (const filling of this.#filling.values()) {
      if (!this.#segment.syncing.has(filling.member)) continue;
      if (filling.cut(snapshotId)) this.#planPass(filling);
    }
    this.#pump();
  }

  dropped(snapshotId: SnapshotId): void {
    for (const filling of this.#filling.values()) {
      const { passes, image } = filling;
      if (passes?.isPending(snapshotId) !== true) continue;
      passes.dropped(snapshotId);
      if (image !== snapshotId) continue;
      filling.round += 1;
      if (filling.isPlanned) this.#planPass(filling);
    }
  }

  isPending(member: Member, snapshotId: SnapshotId): boolean {
    const filling = this.#filling.get(member);
    if (filling) return filling.passes?.isPending(snapshotId) ?? true;
    // one that waits to be filled may lack what the others made durable without it
    return this.#segment.membership?.required().includes(member.replicaId) !== true;
  }

  #isCurrent(filling: Filling): boolean {
    return !this.#segment.stopped && this.#filling.get(filling.member) === filling;
  }

  /** The member that is most nearly complete comes first: redundancy is back soonest. */
  #pump(): void {
    const { policy, stopped } = this.#segment;
    if (stopped) return;
    const fillings = [...this.#filling.values()].filter(({ phase }) => phase === 'copying');
    fillings.sort((a, b) => a.progress.bytesRemaining - b.progress.bytesRemaining);
    for (const filling of fillings) {
      // an earlier one may have changed what is to be done with it
      if (filling.phase !== 'copying' || !this.#isCurrent(filling)) continue;
      if (policy.rebuildPaused) filling.turns.drop();
      else this.#fill(filling);
      if (filling.phase === 'copying' && filling.inFlight === 0 && filling.chunksLeft === 0) {
        this.#passOver(filling);
      }
    }
  }

  #fill(filling: Filling): void {
    const hasRoom = (): boolean =>
      filling.inFlight < maxChunksInFlight && this.#inFlight() < maxChunksPerSegment;
    // a chunk that fails at once may have ended it: turns that it asks for then nobody gives back
    while (this.#isCurrent(filling) && hasRoom()) {
      const mustFlush = filling.unflushedBytes >= resyncFlushBytes;
      const chunk = mustFlush && !this.#flush(filling) ? -1 : filling.peek();
      if (chunk < 0) {
        // others may need what is not used for now
        filling.turns.drop();
        return;
      }
      const turn = this.#turn(filling, filling.lengthOf(chunk));
      if (!turn) return;
      filling.take(chunk);
      this.#copyChunk(filling, chunk, turn);
    }
  }

  /** For one chunk, before its range is held; null: it is asked for, or the pace does not allow it yet. */
  #turn(filling: Filling, bytes: number): BackgroundTurn | null {
    const { pace, turns } = this.#options;
    const { member, qosClass, inFlight, chunksLeft } = filling;
    if (this.#isUrgent()) {
      pace.beginAtOnce(bytes);
      return turns.take(qosClass, bytes);
    }
    const [source] = this.#segment.sources();
    const members = source ? [source, member] : [member];
    const count = Math.min(maxChunksInFlight - inFlight, chunksLeft);
    if (!filling.turns.want(count, qosClass, bytes, members)) return null;
    const waitMs = pace.begin(bytes, this.#segment.options.clock.monotonicMs());
    if (waitMs === 0) return filling.turns.use();
    this.#pumpAfter(waitMs);
    return null;
  }

  #inFlight(): number {
    let count = 0;
    for (const filling of this.#filling.values()) count += filling.inFlight;
    return count;
  }

  #pumpAfter(waitMs: number): void {
    if (this.#cancelTimer) return;
    this.#cancelTimer = this.#segment.options.clock.after(waitMs, () => {
      this.#cancelTimer = null;
      this.#pump();
    });
  }

  /**
   * Copies become durable along the way: a join that had gigabytes to sync would hold up clients'
   * flushes for as long. False: too much is not durable yet, the next chunk waits.
   */
  #flush(filling: Filling): boolean {
    if (filling.flushing) return filling.unflushedBytes < 2 * resyncFlushBytes;
    filling.flushing = true;
    filling.unflushedBytes = 0;
    filling.member.flush((error) => {
      filling.flushing = false;
      if (!this.#isCurrent(filling)) return;
      if (error) filling.member.drop(error);
      else this.#pump();
    });
    return true;
  }

  #copyChunk(filling: Filling, chunk: number, turn: BackgroundTurn): void {
    const { lock, options } = this.#segment;
    const { pace } = this.#options;
    const { image, round } = filling;
    const length = filling.lengthOf(chunk);
    const over = (error: StorError | null, copiedBytes: number): void => {
      const nowMs = options.clock.monotonicMs();
      pace.ended(copiedBytes, nowMs);
      turn.end();
      filling.inFlight -= 1;
      if (!this.#isCurrent(filling)) return;
      // another image is looked at by now: the chunk is among what is left there
      if (filling.round !== round) this.#roundOver(filling, error);
      else if (error) this.#chunkFailed(filling, chunk, error);
      else {
        filling.compared(chunk, copiedBytes, nowMs);
        this.#pump();
      }
    };
    const owner: ChunkLock = new ChunkLock(chunk * chunkBytes, length, () => {
      const source = this.#segment.sources()[0];
      const release = (error: StorError | null, copiedBytes: number): void => {
        lock.release(owner);
        over(error, copiedBytes);
      };
      filling.source = source ?? null;
      if (!this.#isCurrent(filling)) release(null, 0);
      else if (!source) release(new StorError('UNAVAILABLE', 'the resync source was lost'), 0);
      else this.#copier.run(source, filling.member, image, owner.lockStart, length, release);
    });
    // nobody writes to a snapshot
    if (image !== null || lock.acquire(owner)) owner.lockGranted();
  }

  #roundOver(filling: Filling, error: StorError | null): void {
    if (error?.code === 'NO_SPACE') filling.member.drop(error);
    else this.#pump();
  }

  /** The source may have been lost, or the member is full; the plan holds for any other source. */
  #chunkFailed(filling: Filling, chunk: number, error: StorError): void {
    const { clock, logger } = this.#segment.options;
    const { member } = filling;
    filling.giveBack(chunk);
    if (error.code === 'NOT_FOUND' && filling.image !== null) {
      // it was dropped, at least there: what is left to do is looked at again
      filling.round += 1;
      this.#planPass(filling);
      return;
    }
    if (error.code === 'NO_SPACE') {
      // dropped, not only left alone: it was sent writes and will miss those that follow
      member.drop(error);
      return;
    }
    logger.warn({ replica: member.replicaId, error: error.message }, 'a resync copy failed');
    if (filling.failures > maxChunkFailures) {
      member.drop(new StorError('UNAVAILABLE', `the resync broke off: ${error.message}`));
      return;
    }
    clock.after(chunkRetryMs, () => {
      if (this.#isCurrent(filling)) this.#pump();
    });
  }

  /** All is copied: durable, then what the source knows, then the way into the set. */
  #finish(filling: Filling): void {
    const { member } = filling;
    filling.phase = 'adopting';
    this.#noRoom.over(member.replicaId);
    // no checkpoint comes meanwhile, so what the source says of generations stays true
    this.adopting += 1;
    const over = (error: StorError | null): void => {
      this.adopting -= 1;
      if (this.#isCurrent(filling)) {
        if (error) member.drop(error);
        else if (filling.passes?.current) this.#planPass(filling);
        else this.#join(filling);
      }
      this.#options.joined();
    };
    adoptGeneration(this.#segment, member, () => this.#isCurrent(filling), over);
  }

  /** From now on it must acknowledge; then what it has becomes durable. */
  #join(filling: Filling): void {
    const segment = this.#segment;
    const { member } = filling;
    const { membership } = segment;
    const source = segment.sources()[0];
    if (!membership || !this.#isCurrent(filling)) return;
    if (!source || segment.isHeld || filling.passes?.current) {
      segment.options.clock.after(chunkRetryMs, () => {
        if (filling.phase !== 'adopting' || !this.#isCurrent(filling)) return;
        if (filling.passes?.current) this.#planPass(filling);
        else this.#join(filling);
      });
      return;
    }
    const step = nextStructureStep(source, member, this.#options.rules);
    if (step && step.type !== 'rollback') {
      const message = `its snapshots are not those of ${source.replicaId} any more: ${step.type}`;
      member.drop(new StorError('UNAVAILABLE', message));
      return;
    }
    filling.phase = 'joining';
    segment.syncing.delete(member);
    segment.joining.add(member);
    membership.join(member.replicaId);
    segment.changed();
    member.flush((error) => {
      if (!this.#isCurrent(filling)) return;
      if (error) {
        member.drop(error);
        return;
      }
      membership.joined(member.replicaId);
      segment.changed();
    });
  }
}
