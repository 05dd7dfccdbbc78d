import { blockBytes, chunkBytes, chunksPerRegion, StorError } from '@stor/protocol';
import { hashBlocks } from '@stor/runtime';

import { Bitmap } from '../core/replication/bitmap.ts';
import {
  chooseBlocks,
  hashBytes,
  nobody,
  type ChunkSums,
  type SettleChoice,
} from '../core/replication/settle-choice.ts';
import { chunkRetryMs, maxChunksInFlight } from '../replication/limits.ts';
import { ChunkLock } from './chunk-lock.ts';
import type { Member } from './member.ts';
import type { Segment, SegmentPart } from './segment.ts';

/** An engine's own write to all members; the range is locked by the caller. */
export type WriteAll = (
  offset: number,
  length: number,
  bytes: Uint8Array | null,
  done: (error: StorError | null) => void,
) => void;

/**
 * Makes the members equal after an unclean stop. What the members have marked may differ; each
 * chunk of it is decided once, written to all, and only then read or written by clients (I5). The
 * chunk a client asks for comes first, the rest follows in the background.
 */
export class Settler implements SegmentPart {
  readonly #segment: Segment;
  readonly #writeAll: WriteAll;
  #unsettled = new Bitmap(0);
  readonly #waiting = new Map<number, (() => void)[]>();
  readonly #running = new Set<number>();
  /** chunks that a member has no room for: they come last */
  readonly #full = new Set<number>();
  #onSettled: () => void = () => {};

  constructor(segment: Segment, writeAll: WriteAll, onSettled: () => void) {
    this.#segment = segment;
    this.#writeAll = writeAll;
    this.#onSettled = onSettled;
  }

  get active(): boolean {
    return this.#unsettled.count > 0;
  }
  get bytesRemaining(): number {
    return this.#unsettled.count * chunkBytes;
  }

  /**
   * The regions that may differ. A chunk that no member of the set has reads as zeros on all of them: what they
   * said when they were opened is still so, since they were fenced before and nobody has written since.
   */
  begin(regions: Iterable<number>): void {
    const chunks = Math.ceil(this.#segment.sizeBytes / chunkBytes);
    this.#unsettled = new Bitmap(chunks);
    const sources = this.#segment.sources();
    const areAll =
      sources.length > 0 && sources.length === this.#segment.membership?.committed.length;
    const isHole = (chunk: number): boolean =>
      areAll && sources.every(({ allocated }) => allocated?.has(chunk) === false);
    for (const region of regions) {
      const first = region * chunksPerRegion;
      for (let chunk = first; chunk < first + chunksPerRegion; chunk++) {
        if (!isHole(chunk)) this.#unsettled.add(chunk);
      }
    }
    if (!this.active) this.#onSettled();
    else this.#fill();
  }

  blocks(offset: number, length: number): boolean {
    if (this.#unsettled.count === 0) return false;
    const first = Math.floor(offset / chunkBytes);
    return this.#unsettled.hasAny(first, Math.floor((offset + length - 1) / chunkBytes) + 1);
  }

  /** Calls back when the first unsettled chunk of the range is settled; ask again then. */
  whenSettled(offset: number, length: number, then: () => void): void {
    const chunk = this.#unsettled.next(Math.floor(offset / chunkBytes));
    if (chunk < 0 || chunk * chunkBytes >= offset + length) {
      then();
      return;
    }
    const waiting = this.#waiting.get(chunk);
    if (waiting) waiting.push(then);
    else this.#waiting.set(chunk, [then]);
    if (!this.#running.has(chunk)) this.#settle(chunk);
  }

  membersChanged(): void {
    this.#fill();
  }

  /** The primary stops: those who wait must look at that themselves. */
  abandon(): void {
    const waiting = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    for (const then of waiting) then();
  }

  #fill(): void {
    const { stopped, membership } = this.#segment;
    if (stopped || !membership || membership.holding) return;
    let chunk = this.#unsettled.next(0);
    while (chunk >= 0 && this.#running.size < maxChunksInFlight) {
      if (!this.#running.has(chunk) && !this.#full.has(chunk)) this.#settle(chunk);
      chunk = this.#unsettled.next(chunk + 1);
    }
  }

  #settle(chunk: number): void {
    this.#running.add(chunk);
    const { lock, options, sizeBytes } = this.#segment;
    const offset = chunk * chunkBytes;
    const padded = Math.ceil(sizeBytes / blockBytes) * blockBytes;
    const length = Math.min(chunkBytes, padded - offset);
    const owner = new ChunkLock(offset, length, () => {
      this.#decide(offset, length, (error) => {
        lock.release(owner);
        this.#running.delete(chunk);
        if (this.#segment.stopped) return;
        if (error) {
          if (error.code === 'NO_SPACE') this.#full.add(chunk);
          this.#dropFull();
          options.clock.after(chunkRetryMs, () => {
            if (this.#waiting.has(chunk) && !this.#running.has(chunk)) this.#settle(chunk);
            else this.#fill();
          });
          return;
        }
        this.#settled(chunk);
      });
    });
    if (lock.acquire(owner)) owner.lockGranted();
  }

  /**
   * A member has no room for chunks that the others have: it can only be made equal later, by
   * resync, when there is room. It stays until nothing else is to be settled, for it may hold what
   * the others need; then it leaves, unless it is the last one (I7), which lacks nothing.
   */
  #dropFull(): void {
    const [chunk] = this.#full;
    if (chunk === undefined || this.#full.size < this.#unsettled.count) return;
    this.#full.clear();
    const sources = this.#segment.sources();
    if (sources.length < 2) return;
    const full = sources.find((member) => {
      const room = member.isLocal
        ? (this.#segment.local?.availableChunks ?? 0)
        : member.credits.available;
      return member.allocated?.has(chunk) === false && room < 1;
    });
    const message = `${full?.nodeId ?? ''} has no room for what the other replicas hold`;
    full?.drop(new StorError('NO_SPACE', message));
  }

  #settled(chunk: number): void {
    this.#unsettled.delete(chunk);
    this.#full.delete(chunk);
    const waiting = this.#waiting.get(chunk) ?? [];
    this.#waiting.delete(chunk);
    for (const then of waiting) then();
    if (!this.active) {
      this.#onSettled();
      return;
    }
    this.#dropFull();
    this.#fill();
  }

  #decide(offset: number, length: number, done: (error: StorError | null) => void): void {
    const { membership } = this.#segment;
    const members = this.#segment.sources();
    if (!membership || membership.holding || members.length !== membership.committed.length) {
      done(new StorError('UNAVAILABLE', 'the members are changing'));
      return;
    }
    const revision = membership.setRevision;
    const views: (ChunkSums | null)[] = members.map(() => null);
    gather(members, (member, index, next) => {
      member.sums(offset, length, (error, sums) => {
        views[index] = sums;
        next(error);
      });
    })((error) => {
      if (error) {
        done(error);
        return;
      }
      const known = views.filter((view) => view !== null);
      const choice = chooseBlocks(known);
      if (choice.firstBlock > choice.lastBlock) done(null);
      else this.#equalize(members, known, revision, offset, choice, done);
    });
  }

  /** Builds the bytes that stand and writes them to every member. */
  #equalize(
    members: Member[],
    views: readonly ChunkSums[],
    revision: number,
    offset: number,
    choice: SettleChoice,
    done: (error: StorError | null) => void,
  ): void {
    const length = choice.source.length * blockBytes;
    const chosen = Buffer.alloc(length);
    const used = members.filter((_member, index) => choice.source.includes(index));
    gather(used, (member, _index, next) => {
      const bytes = Buffer.allocUnsafe(length);
      const valid = new Uint8Array(choice.source.length);
      const own = members.indexOf(member);
      member.readUnverified(offset, length, bytes, 0, valid, (error) => {
        // the bytes travelled without a checksum: they must be those that were judged
        const view = views[own];
        const isSame = view !== undefined && matches(view, bytes, choice.source, own);
        for (let block = 0; block < choice.source.length; block++) {
          const at = block * blockBytes;
          if (choice.source[block] === own) bytes.copy(chosen, at, at, at + blockBytes);
        }
        const changed = new StorError('UNAVAILABLE', 'a block is not what it was a moment ago');
        next(error ?? (isSame ? null : changed));
      });
    })((error) => {
      if (error) {
        done(error);
        return;
      }
      const { membership } = this.#segment;
      if (this.#segment.stopped || membership?.setRevision !== revision) {
        done(new StorError('UNAVAILABLE', 'the members changed'));
        return;
      }
      const { logger } = this.#segment.options;
      logger.debug({ offset, length }, 'settle: members differ and are made equal');
      if (isZero(chosen) && !choice.source.includes(nobody)) {
        this.#writeAll(offset, length, null, done);
        return;
      }
      gather(runsOf(choice), ({ from, end }, _index, next) => {
        const bytes = chosen.subarray(from * blockBytes, end * blockBytes);
        this.#writeAll(offset + from * blockBytes, bytes.length, bytes, next);
      })(done);
    });
  }
}

/** What is written: all from the first block that differs to the last, but for those nobody has. */
function runsOf({ source, firstBlock, lastBlock }: SettleChoice): { from: number; end: number }[] {
  const runs: { from: number; end: number }[] = [];
  for (let block = firstBlock; block <= lastBlock; block++) {
    if (source[block] === nobody) continue;
    const last = runs[runs.length - 1];
    if (last && last.end === block) last.end = block + 1;
    else runs.push({ from: block, end: block + 1 });
  }
  return runs;
}

/** Whether the blocks that are taken from a member hash to what it said. */
function matches(view: ChunkSums, bytes: Buffer, source: Uint8Array, own: number): boolean {
  const hash = new Uint8Array(hashBytes);
  for (let block = 0; block < source.length; block++) {
    if (source[block] !== own) continue;
    hashBlocks(bytes, block * blockBytes, 1, blockBytes, hash, 0);
    const at = block * hashBytes;
    if (!hash.every((byte, i) => byte === view.hashes[at + i])) return false;
  }
  return true;
}

/** Runs a step for each item at once and calls back with the first error when all are over. */
export function gather<T>(
  items: readonly T[],
  step: (item: T, index: number, next: (error: StorError | null) => void) => void,
): (done: (error: StorError | null) => void) => void {
  return (done) => {
    let open = items.length;
    let failed: StorError | null = null;
    if (open === 0) done(null);
    items.forEach((item, index) => {
      step(item, index, (error) => {
        failed ??= error;
        open -= 1;
        if (open === 0) done(failed);
      });
    });
  };
}

export function isZero(bytes: Buffer): boolean {
  return (
    bytes.length === 0 ||
    (bytes[0] === 0 && bytes.compare(bytes, 1, bytes.length, 0, bytes.length - 1) === 0)
  );
}
