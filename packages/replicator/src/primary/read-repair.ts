import { StorError, blockBytes, chunkBytes, hasCode } from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import { maxRepairsWaiting } from '../replication/limits.ts';
import { ChunkLock } from './chunk-lock.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';
import { noteAllocation } from './write-path.ts';

interface Place {
  member: Member;
  chunk: number;
}

/**
 * Rewrites blocks of an in-sync member that do not verify, from another in-sync member whose do
 * (I9). The chunk is locked, so the good bytes are the newest; afterwards the member must give them
 * back. When it cannot even then, its disk is not to be trusted, and the replica fails (I7).
 */
export class ReadRepair {
  /** blocks that did not verify, and of those the ones that do now */
  found = 0;
  repaired = 0;
  readonly #segment: Segment;
  readonly #waiting = new Map<string, Place>();
  #running: Place | null = null;

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  /** A read found a bad block in the range; others may be behind it. */
  note(member: Member, offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / chunkBytes);
    for (let chunk = Math.floor(offset / chunkBytes); chunk <= last; chunk++) {
      // what is not remembered now is found again by the next read
      if (this.#waiting.size >= maxRepairsWaiting) break;
      if (this.#running?.member === member && this.#running.chunk === chunk) continue;
      this.#waiting.set(`${member.replicaId} ${chunk}`, { member, chunk });
    }
    this.#next();
  }

  #next(): void {
    if (this.#running || this.#segment.stopped) return;
    const [first] = this.#waiting;
    if (!first) return;
    const [key, place] = first;
    this.#waiting.delete(key);
    if (!this.#mayRepair(place.member)) {
      this.#next();
      return;
    }
    this.#running = place;
    this.#repair(place, () => {
      this.#running = null;
      this.#next();
    });
  }

  /** Only where another one has the truth. */
  #mayRepair(member: Member): boolean {
    const sources = this.#segment.sources();
    return sources.includes(member) && sources.length > 1;
  }

  #repair({ member, chunk }: Place, over: () => void): void {
    const { lock, options } = this.#segment;
    const offset = chunk * chunkBytes;
    const padded = Math.ceil(options.sizeBytes / blockBytes) * blockBytes;
    const length = Math.min(chunkBytes, padded - offset);
    const owner: ChunkLock = new ChunkLock(offset, length, () => {
      const release = (): void => {
        lock.release(owner);
        over();
      };
      if (this.#segment.stopped || !this.#mayRepair(member)) release();
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
        if (at === undefined || !this.#mayRepair(member)) over();
        else {
          this.#block(member, at, () => {
            next(index + 1);
          });
        }
      };
      next(0);
    });
  }

  #block(member: Member, offset: number, over: () => void): void {
    const bytes = Buffer.alloc(blockBytes);
    this.found += 1;
    this.#readGood(member, offset, bytes, (source) => {
      if (!source || !this.#mayRepair(member)) {
        over();
        return;
      }
      const sums = Uint32Array.of(crc32(bytes));
      const sequence = ++this.#segment.sequence;
      noteAllocation(member, { kind: 'write', offset, length: blockBytes, keepAllocated: false });
      member.copy(sequence, offset, blockBytes, bytes, sums, (error) => {
        if (error) over();
        else this.#verify(member, source, offset, bytes, over);
      });
    });
  }

  /** From the first other member whose bytes verify; null when none has them. */
  #readGood(
    member: Member,
    offset: number,
    bytes: Buffer,
    done: (source: Member | null) => void,
  ): void {
    const tried = new Set<Member>([member]);
    const next = (): void => {
      const source = this.#segment.sources().find((each) => !tried.has(each));
      if (!source) {
        done(null);
        return;
      }
      tried.add(source);
      source.read(offset, blockBytes, bytes, 0, (error) => {
        if (error) next();
        else done(source);
      });
    };
    next();
  }

  #verify(member: Member, source: Member, offset: number, bytes: Buffer, over: () => void): void {
    const { logger } = this.#segment.options;
    const found = Buffer.alloc(blockBytes);
    member.read(offset, blockBytes, found, 0, (error) => {
      const replica = member.replicaId;
      if (!error && found.equals(bytes)) {
        this.repaired += 1;
        logger.warn({ replica, offset, from: source.replicaId }, 'a bad block was repaired');
      } else if (!error || hasCode(error, 'CHECKSUM_MISMATCH', 'DISK_FAILED')) {
        const message = `the block at byte ${offset} of replica ${replica} cannot be repaired: its disk does not keep what is written; it must be rebuilt`;
        logger.error({ replica, offset, error: error?.message }, 'a block cannot be repaired');
        this.#segment.distrusted.add(replica);
        member.drop(new StorError('DISK_FAILED', message));
      }
      over();
    });
  }
}
