import { blockBytes, chunkBytes } from '@stor/protocol';

import { maxRepairsWaiting } from '../replication/limits.ts';
import type { BlockRepair } from './block-repair.ts';
import { ChunkLock } from './chunk-lock.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';

interface Place {
  member: Member;
  chunk: number;
}

/**
 * Repairs what reads of clients found bad at an in-sync member, while another one has it (I9). The
 * chunk is locked, so the good bytes are the newest.
 */
export class ReadRepair {
  readonly #segment: Segment;
  readonly #blocks: BlockRepair;
  readonly #waiting = new Map<string, Place>();
  /** bad blocks that nobody else has, and that were told of */
  readonly #kept = new Set<string>();
  #running: Place | null = null;

  constructor(segment: Segment, blocks: BlockRepair) {
    this.#segment = segment;
    this.#blocks = blocks;
  }

  /** A read found a bad block in the range; others may be behind it. */
  note(member: Member, offset: number, length: number): void {
    if (!this.#blocks.mayRepair(member)) {
      this.#noteKept(member, offset);
      return;
    }
    const last = Math.floor((offset + length - 1) / chunkBytes);
    for (let chunk = Math.floor(offset / chunkBytes); chunk <= last; chunk++) {
      // what is not remembered now is found again by the next read
      if (this.#waiting.size >= maxRepairsWaiting) break;
      if (this.#running?.member === member && this.#running.chunk === chunk) continue;
      this.#waiting.set(`${member.replicaId} ${chunk}`, { member, chunk });
    }
    this.#next();
  }

  /** Each is counted once, however often it is read, as long as they are few. */
  #noteKept(member: Member, offset: number): void {
    const place = `${member.replicaId} ${Math.floor(offset / blockBytes)}`;
    if (this.#kept.has(place) || this.#segment.stopped) return;
    if (this.#kept.size >= maxRepairsWaiting) this.#kept.clear();
    this.#kept.add(place);
    this.#blocks.noteFound(member, offset);
    this.#blocks.noteKept(member, offset);
  }

  #next(): void {
    if (this.#running || this.#segment.stopped) return;
    const [first] = this.#waiting;
    if (!first) return;
    const [key, place] = first;
    this.#waiting.delete(key);
    if (!this.#blocks.mayRepair(place.member)) {
      this.#next();
      return;
    }
    this.#running = place;
    this.#repair(place, () => {
      this.#running = null;
      this.#next();
    });
  }

  #repair({ member, chunk }: Place, over: () => void): void {
    const { lock, sizeBytes } = this.#segment;
    const offset = chunk * chunkBytes;
    const padded = Math.ceil(sizeBytes / blockBytes) * blockBytes;
    const length = Math.min(chunkBytes, padded - offset);
    const owner: ChunkLock = new ChunkLock(offset, length, () => {
      const release = (): void => {
        lock.release(owner);
        over();
      };
      if (!this.#blocks.mayRepair(member)) release();
      else this.#find(member, offset, length, release);
    });
    if (lock.acquire(owner)) owner.lockGranted();
  }

  #find(member: Member, offset: number, length: number, over: () => void): void {
    member.sums(offset, length, (error, sums) => {
      if (error || !sums || this.#segment.stopped) {
        over();
        return;
      }
      const bad: number[] = [];
      for (const [block, valid] of sums.valid.entries()) {
        if (valid !== 1) bad.push(offset + block * blockBytes);
      }
      // one after the other: they are few, and most often one
      const next = (index: number): void => {
        const at = bad[index];
        if (at === undefined || !this.#blocks.mayRepair(member)) over();
        else {
          this.#blocks.noteFound(member, at);
          this.#blocks.rewrite(member, at, (result) => {
            if (result === 'no-source') this.#blocks.noteKept(member, at);
            next(index + 1);
          });
        }
      };
      next(0);
    });
  }
}
