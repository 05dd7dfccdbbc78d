import { StorError, blockBytes, chunkBytes, chunksPerRegion } from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import { maxChunksInFlight } from '../replication/limits.ts';
import { compareGenerations, noGeneration } from '../replica-store.ts';
import { ChunkCopier, isFreed } from './chunk-copier.ts';
import { ChunkLock } from './chunk-lock.ts';
import type { Member } from './member.ts';
import type { ReadPath } from './read-path.ts';
import type { Segment, SegmentPart } from './segment.ts';

/** A member that is being made equal. */
interface Filling {
  member: Member;
  /** chunks still to be compared; null until the source has said which */
  chunks: Bitmap | null;
  /** of those, what the source has as a hole and the member has not */
  frees: number[];
  /** these are over: their space may be what the others need */
  freed: boolean;
  inFlight: number;
  cursor: number;
  phase: 'copying' | 'joining' | 'done';
}

/**
 * Brings members back (DESIGN "Resync"). From one instant on the member gets every new write; what
 * may differ from before is compared under the range lock and copied. Then it must acknowledge,
 * makes all it was given durable, and is proposed as a member (I4).
 */
export class Resyncer implements SegmentPart {
  readonly #segment: Segment;
  readonly #copier: ChunkCopier;
  readonly #options: {
    mayStart: () => boolean;
    pendingRanges: () => { offset: number; length: number }[];
    copyNothing: boolean;
    joined: () => void;
  };
  readonly #filling = new Map<Member, Filling>();
  /** members that adopt the source's generation: no checkpoint meanwhile */
  adopting = 0;

  constructor(
    segment: Segment,
    read: ReadPath,
    options: {
      mayStart: () => boolean;
      pendingRanges: () => { offset: number; length: number }[];
      copyNothing: boolean;
      joined: () => void;
    },
  ) {
    this.#segment = segment;
    this.#copier = new ChunkCopier(segment, read);
    this.#options = options;
  }

  bytesRemaining(member: Member): number {
    const filling = this.#filling.get(member);
    if (!filling) return 0;
    return ((filling.chunks?.count ?? 0) + filling.inFlight) * chunkBytes;
  }

  membersChanged(): void {
    const { membership, members, stopped } = this.#segment;
    if (stopped || !membership) return;
    for (const filling of [...this.#filling.values()]) {
      if (filling.phase === 'joining' && this.#segment.isInSync(filling.member)) {
        this.#finished(filling);
      }
    }
    if (!membership.stable || !this.#options.mayStart()) return;
    for (const member of members) {
      const wanted = member.isOpen && !member.answer?.failure && !this.#filling.has(member);
      if (!wanted || this.#segment.isLeaving(member)) continue;
      if (!membership.required().includes(member.replicaId)) this.#start(member);
    }
  }

  memberLost(member: Member): void {
    this.#filling.delete(member);
  }

  #start(member: Member): void {
    const segment = this.#segment;
    const source = segment.sources()[0];
    if (!source) return;
    const filling: Filling = {
      member,
      chunks: null,
      frees: [],
      freed: false,
      inFlight: 0,
      cursor: 0,
      phase: 'copying',
    };
    this.#filling.set(member, filling);
    const { logger } = segment.options;
    logger.info({ replica: member.replicaId, source: source.replicaId }, 'resync begins');
    // what is pending now was not sent to it and may not be marked at the source yet
    const pending = this.#options.pendingRanges();
    // from here on it gets every write
    segment.syncing.add(member);
    if (!member.isLocal) member.ackedSequence = segment.sequence;
    segment.changed();
    const since = member.generation;
    const known =
      compareGenerations(since, noGeneration) > 0 &&
      compareGenerations(since, source.generation) <= 0;
    const decide = (error: StorError | null, regions: number[] | null): void => {
      if (!this.#isCurrent(filling)) return;
      if (error) member.drop(new StorError('UNAVAILABLE', 'the resync source was lost'));
      else this.#plan(filling, source, pending, regions);
    };
    if (known) source.changedSince(since, decide);
    else decide(null, null);
  }

  /** What to compare: what source or member has marked or changed since, or everything. */
  #plan(
    filling: Filling,
    source: Member,
    pending: { offset: number; length: number }[],
    regions: number[] | null,
  ): void {
    const chunks = new Bitmap(Math.ceil(this.#segment.options.sizeBytes / chunkBytes));
    const addRegion = (region: number): void => {
      for (let i = 0; i < chunksPerRegion; i++) chunks.add(region * chunksPerRegion + i);
    };
    if (regions) regions.forEach(addRegion);
    else {
      for (const member of [filling.member, source]) {
        for (const chunk of member.allocated?.list() ?? []) chunks.add(chunk);
      }
    }
    for (const region of filling.member.answer?.marks.list() ?? []) addRegion(region);
    for (const { offset, length } of pending) {
      const last = Math.floor((offset + length - 1) / chunkBytes);
      for (let chunk = Math.floor(offset / chunkBytes); chunk <= last; chunk++) chunks.add(chunk);
    }
    if (this.#options.copyNothing) for (const chunk of chunks.list()) chunks.delete(chunk);
    const { logger } = this.#segment.options;
    const isDelta = regions !== null;
    logger.debug(
      { replica: filling.member.replicaId, isDelta, chunks: chunks.count },
      'resync: what to compare is known',
    );
    filling.chunks = chunks;
    filling.frees = chunks.list().filter((chunk) => isFreed(source, filling.member, chunk));
    this.#fill(filling);
  }

  #isCurrent(filling: Filling): boolean {
    return !this.#segment.stopped && this.#filling.get(filling.member) === filling;
  }

  #fill(filling: Filling): void {
    const { chunks } = filling;
    if (!chunks || !this.#isCurrent(filling) || filling.phase !== 'copying') return;
    while (filling.inFlight < maxChunksInFlight) {
      const chunk = this.#nextChunk(filling, chunks);
      if (chunk < 0) break;
      chunks.delete(chunk);
      filling.inFlight += 1;
      this.#copyChunk(filling, chunk);
    }
    if (filling.inFlight === 0 && chunks.count === 0) this.#join(filling);
  }

  /** What frees space at the member comes first; -1 when there is nothing to start now. */
  #nextChunk(filling: Filling, chunks: Bitmap): number {
    if (!filling.freed) {
      const chunk = filling.frees.pop();
      if (chunk !== undefined) return chunk;
      if (filling.inFlight > 0) return -1;
      filling.freed = true;
    }
    const chunk = chunks.next(filling.cursor);
    filling.cursor = chunk + 1;
    return chunk;
  }

  #copyChunk(filling: Filling, chunk: number): void {
    const { lock, options } = this.#segment;
    const offset = chunk * chunkBytes;
    const padded = Math.ceil(options.sizeBytes / blockBytes) * blockBytes;
    const length = Math.min(chunkBytes, padded - offset);
    const owner = new ChunkLock(offset, length, () => {
      const over = (error: StorError | null): void => {
        lock.release(owner);
        filling.inFlight -= 1;
        if (!this.#isCurrent(filling)) return;
        if (error) {
          options.logger.warn({ offset, error: error.message }, 'a resync copy failed');
          filling.member.drop(new StorError('UNAVAILABLE', 'the resync broke off'));
        } else this.#fill(filling);
      };
      const source = this.#segment.sources()[0];
      if (!this.#isCurrent(filling)) over(null);
      else if (!source) over(new StorError('UNAVAILABLE', 'the resync source was lost'));
      else this.#copier.run(source, filling.member, offset, length, over);
    });
    if (lock.acquire(owner)) owner.lockGranted();
  }

  /** All is copied: from now on it must acknowledge; then what it has becomes durable. */
  #join(filling: Filling): void {
    const segment = this.#segment;
    const { member } = filling;
    const { membership } = segment;
    if (!membership) return;
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

  #finished(filling: Filling): void {
    filling.phase = 'done';
    const { member } = filling;
    this.#filling.delete(member);
    const { logger } = this.#segment.options;
    logger.info({ replica: member.replicaId }, 'resync is complete: the replica is in sync');
    const source = this.#segment.sources().find((each) => each !== member);
    const current = source && compareGenerations(source.generation, member.generation) <= 0;
    // adopting also tells a replica that had lost its memory that it is whole again
    if (!source || (current && member.answer?.keptMemory)) return;
    // no checkpoint comes meanwhile, so what the source says of generations stays true
    this.adopting += 1;
    const over = (error: StorError | null): void => {
      this.adopting -= 1;
      if (error) member.drop(error);
      this.#options.joined();
    };
    const { generation } = source;
    source.history((failed, history) => {
      // without it the member knows less and is right all the same
      member.adopt(generation, failed ? null : history, (error) => {
        if (!error) member.generation = generation;
        over(error);
      });
    });
  }
}
