import {
  blockBytes,
  chunkBytes,
  chunksPerRegion,
  type BackgroundClass,
  type SnapshotId,
} from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import type { FillPasses } from '../core/replication/fill-passes.ts';
import { ResyncProgress } from '../core/replication/resync-progress.ts';
import { isFreed } from './chunk-copier.ts';
import type { Member } from './member.ts';
import type { PieceTurns } from './piece-turns.ts';

/** One member that is being made equal: which chunks are still to be compared, and how far it is. */
export class Filling {
  readonly member: Member;
  readonly progress: ResyncProgress;
  /** for chunks that are compared next */
  readonly turns: PieceTurns;
  /**
   * structure: its snapshots are made those of the source, it gets no writes yet; planning: it gets
   * them, and it is asked what the next image may differ in; confirming: what an image got is made
   * durable; adopting, joining: all of them are equal
   */
  phase: 'structure' | 'planning' | 'copying' | 'confirming' | 'adopting' | 'joining' = 'structure';
  /** where the bytes come from just now */
  source: Member | null = null;
  /** null until the member gets writes */
  passes: FillPasses | null = null;
  /** what may have changed is known */
  isPlanned = false;
  /** all of it may have changed: the member has nothing yet, or nobody knows what it has */
  #isWhole = false;
  /** another image is looked at: what was begun for the one before does not count */
  round = 0;
  inFlight = 0;
  /** copied since the member's last flush began, and whether one is under way */
  unflushedBytes = 0;
  flushing = false;
  /** chunks that failed one after another */
  failures = 0;
  /** chunks of its own live image that it gave up while it was put in the source's order */
  readonly rolledBack: Bitmap[] = [];
  /** of the image that is looked at (bytes) */
  #sizeBytes = 0;
  #chunks = new Bitmap(0);
  /** of this image, under way */
  readonly #taken = new Set<number>();
  /** of those, what the source has as a hole and the member has not */
  #frees: number[] = [];
  /** these are over: their space may be what the others need */
  #freed = false;
  #cursor = 0;

  constructor(member: Member, nowMs: number, turns: PieceTurns) {
    this.member = member;
    this.turns = turns;
    this.progress = new ResyncProgress(nowMs);
  }

  get qosClass(): BackgroundClass {
    return this.#isWhole ? 'rebuild' : 'resync';
  }
  /** Chunks that neither compared nor under way. */
  get chunksLeft(): number {
    return this.#chunks.count;
  }
  /** the image that is looked at; null: the live one */
  get image(): SnapshotId | null {
    return this.passes?.current?.snapshotId ?? null;
  }

  /** Lays down what of the live image may differ: regions, null for everything; and pending ranges. */
  changed(
    chunkCount: number,
    regions: readonly number[] | null,
    pending: readonly { offset: number; length: number }[],
  ): void {
    this.#isWhole = regions === null;
    const chunks = new Bitmap(chunkCount);
    for (const region of regions ?? []) {
      const first = region * chunksPerRegion;
      for (let i = 0; i < chunksPerRegion; i++) chunks.add(first + i);
    }
    for (const given of this.rolledBack) chunks.addAll(given);
    const underWay = new Bitmap(chunkCount);
    for (const { offset, length } of pending) {
      const last = Math.floor((offset + length - 1) / chunkBytes);
      for (let chunk = Math.floor(offset / chunkBytes); chunk <= last; chunk++) underWay.add(chunk);
    }
    this.passes?.changed(regions ? chunks : null, underWay);
    this.isPlanned = true;
  }

  /** These chunks of the image are compared now. */
  begin(chunks: Bitmap, sizeBytes: number, source: Member): void {
    this.#sizeBytes = sizeBytes;
    const count = Math.ceil(sizeBytes / chunkBytes);
    this.#chunks = chunks.resized(count);
    this.passes?.begun(this.#chunks);
    this.round += 1;
    this.#taken.clear();
    this.#cursor = 0;
    // a list of all chunks of a large volume would take gigabytes; of those to be freed there are few
    this.#frees = [];
    this.#freed = this.image !== null;
    for (let chunk = this.#chunks.next(0); chunk >= 0; chunk = this.#chunks.next(chunk + 1)) {
      if (!this.#freed && isFreed(source, this.member, chunk)) this.#frees.push(chunk);
    }
    const lastChunk = count - 1;
    const missing = this.#chunks.has(lastChunk) ? chunkBytes - this.lengthOf(lastChunk) : 0;
    this.progress.planned(this.#chunks.count * chunkBytes - missing);
    this.phase = 'copying';
  }

  /** The live image is frozen as a snapshot, here too. True: what is planned is to be planned anew. */
  cut(snapshotId: SnapshotId): boolean {
    const isPlanningLive = this.phase === 'planning' && this.image === null;
    const isCopyingLive = this.phase === 'copying' && this.image === null;
    if (isCopyingLive) for (const chunk of this.#taken) this.#chunks.add(chunk);
    this.passes?.cut(snapshotId, isCopyingLive ? this.#chunks : null);
    if (isCopyingLive) {
      // what is under way goes to the live image, and what the snapshot lacks is still to be given
      this.#frees = [];
      this.#freed = true;
      this.#taken.clear();
    }
    if (isCopyingLive || isPlanningLive) this.round += 1;
    return isPlanningLive && this.isPlanned;
  }

  lengthOf(chunk: number): number {
    const padded = Math.ceil(this.#sizeBytes / blockBytes) * blockBytes;
    return Math.min(chunkBytes, padded - chunk * chunkBytes);
  }

  /** The next chunk to compare; what frees space at the member comes first. -1: none just now. */
  peek(): number {
    if (!this.#freed) {
      const chunk = this.#frees[this.#frees.length - 1];
      if (chunk !== undefined) return chunk;
      if (this.inFlight > 0) return -1;
      this.#freed = true;
    }
    const chunk = this.#chunks.next(this.#cursor);
    return chunk >= 0 ? chunk : this.#chunks.next(0);
  }

  take(chunk: number): void {
    if (this.#frees[this.#frees.length - 1] === chunk) this.#frees.pop();
    else this.#cursor = chunk + 1;
    this.#chunks.delete(chunk);
    this.#taken.add(chunk);
    this.inFlight += 1;
  }

  /** It could not be compared: again later. */
  giveBack(chunk: number): void {
    this.#taken.delete(chunk);
    this.#chunks.add(chunk);
    this.failures += 1;
  }

  compared(chunk: number, copiedBytes: number, nowMs: number): void {
    this.failures = 0;
    this.#taken.delete(chunk);
    this.unflushedBytes += copiedBytes;
    this.progress.done(this.lengthOf(chunk), copiedBytes, nowMs);
  }
}
