import { blockBytes, chunkBytes, chunksPerRegion } from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import { ResyncProgress } from '../core/replication/resync-progress.ts';
import { isFreed } from './chunk-copier.ts';
import type { Member } from './member.ts';

/** What may differ: regions, or null for everything; and ranges of writes that are under way. */
export interface FillingPlan {
  regions: readonly number[] | null;
  pending: readonly { offset: number; length: number }[];
}

/** One member that is being made equal: which chunks are still to be compared, and how far it is. */
export class Filling {
  readonly member: Member;
  readonly progress: ResyncProgress;
  phase: 'planning' | 'copying' | 'adopting' | 'joining' = 'planning';
  /** where the bytes come from just now */
  source: Member | null = null;
  inFlight = 0;
  /** copied since the member's last flush began, and whether one is under way */
  unflushedBytes = 0;
  flushing = false;
  /** chunks that failed one after another */
  failures = 0;
  readonly #sizeBytes: number;
  #chunks: Bitmap;
  /** of those, what the source has as a hole and the member has not */
  #frees: number[] = [];
  /** these are over: their space may be what the others need */
  #freed = false;
  #cursor = 0;

  constructor(member: Member, sizeBytes: number, nowMs: number) {
    this.member = member;
    this.#sizeBytes = sizeBytes;
    this.#chunks = new Bitmap(Math.ceil(sizeBytes / chunkBytes));
    this.progress = new ResyncProgress(nowMs);
  }

  /** Chunks that neither compared nor under way. */
  get chunksLeft(): number {
    return this.#chunks.count;
  }

  /** Lays down what is to be compared. Chunks that take space at neither are zeros at both. */
  plan(source: Member, { regions, pending }: FillingPlan): void {
    const chunks = new Bitmap(this.#chunks.size);
    const { member } = this;
    const isData = (chunk: number): boolean =>
      source.allocated?.has(chunk) !== false || member.allocated?.has(chunk) !== false;
    for (const region of regions ?? []) {
      const first = region * chunksPerRegion;
      for (let i = 0; i < chunksPerRegion; i++) if (isData(first + i)) chunks.add(first + i);
    }
    if (!regions) {
      for (let chunk = 0; chunk < chunks.size; chunk++) if (isData(chunk)) chunks.add(chunk);
    }
    for (const { offset, length } of pending) {
      const last = Math.floor((offset + length - 1) / chunkBytes);
      for (let chunk = Math.floor(offset / chunkBytes); chunk <= last; chunk++) chunks.add(chunk);
    }
    this.#chunks = chunks;
    // a list of all chunks of a large volume would take gigabytes; of those to be freed there are few
    this.#frees = [];
    for (let chunk = chunks.next(0); chunk >= 0; chunk = chunks.next(chunk + 1)) {
      if (isFreed(source, member, chunk)) this.#frees.push(chunk);
    }
    const lastChunk = chunks.size - 1;
    const missing = chunks.has(lastChunk) ? chunkBytes - this.lengthOf(lastChunk) : 0;
    this.progress.planned(chunks.count * chunkBytes - missing);
    this.phase = 'copying';
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
    this.inFlight += 1;
  }

  /** It could not be compared: again later. */
  giveBack(chunk: number): void {
    this.#chunks.add(chunk);
    this.failures += 1;
  }

  compared(chunk: number, copiedBytes: number, nowMs: number): void {
    this.failures = 0;
    this.unflushedBytes += copiedBytes;
    this.progress.done(this.lengthOf(chunk), copiedBytes, nowMs);
  }
}
