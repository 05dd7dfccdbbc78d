import { StorError, blockBytes, hasCode } from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import type { IntegrityLog } from './integrity-log.ts';
import type { Member, MemberImage } from './member.ts';
import type { Segment } from './segment.ts';
import { noteAllocation } from './write-path.ts';

/**
 * What became of a block: `no-source`: nobody gave it; `no-room`: the member has no room for the chunk
 * that the write would take; `lost`: the member is gone, failed or refused.
 */
export type RepairResult = 'repaired' | 'no-source' | 'no-room' | 'lost';

/** The image of a member that is repaired: its live one, or one of its snapshots. */
export type ImageOf = (member: Member) => MemberImage;

export const liveImage: ImageOf = (member) => member;

interface Block {
  readonly member: Member;
  readonly offset: number;
  readonly bytes: Buffer;
  readonly imageOf: ImageOf;
}

/**
 * Gives a block of an in-sync member the bytes of another one (I9). Afterwards the member must give
 * them back: when it cannot even then, its disk is not to be trusted, and the replica fails (I7).
 * The caller holds the range, so the bytes are the newest.
 */
export class BlockRepair {
  /** blocks that did not verify, and blocks that were written again */
  found = 0;
  repaired = 0;
  readonly #segment: Segment;
  readonly #log: IntegrityLog;

  constructor(segment: Segment, log: IntegrityLog) {
    this.#segment = segment;
    this.#log = log;
  }

  /** A block of the member does not verify. */
  noteFound(member: Member, offset: number): void {
    this.found += 1;
    this.#log.found(
      this.#segment.options.volumeId,
      member,
      this.#segment.options.offsetBytes + offset,
    );
  }

  /** ... and nobody else has it. */
  noteKept(member: Member, offset: number): void {
    this.#log.kept(
      this.#segment.options.volumeId,
      member,
      this.#segment.options.offsetBytes + offset,
    );
  }

  /** Others may be asked for it, and it is still one that counts. */
  mayRepair(member: Member): boolean {
    const sources = this.#segment.sources();
    return !this.#segment.stopped && sources.includes(member) && sources.length > 1;
  }

  /** From the first of `sources` (all others, when none are named) whose bytes verify. */
  rewrite(
    member: Member,
    offset: number,
    done: (result: RepairResult) => void,
    sources: readonly Member[] = this.#segment.sources(),
    imageOf = liveImage,
  ): void {
    const bytes = Buffer.alloc(blockBytes);
    this.#readGood({ member, offset, bytes, sources, imageOf }, (source) => {
      if (!source) done('no-source');
      else if (!this.mayRepair(member)) done('lost');
      else if (imageOf !== liveImage) this.#write({ member, offset, bytes, imageOf }, source, done);
      else {
        this.#withRoom(member, offset, (hasRoom) => {
          if (!hasRoom) done('no-room');
          else if (!this.mayRepair(member)) done('lost');
          else this.#write({ member, offset, bytes, imageOf }, source, done);
        });
      }
    });
  }

  #write(block: Block, source: Member, done: (result: RepairResult) => void): void {
    const { member, offset, bytes, imageOf } = block;
    const sums = Uint32Array.of(crc32(bytes));
    const sequence = ++this.#segment.sequence;
    if (imageOf === liveImage) {
      noteAllocation(member, { kind: 'write', offset, length: blockBytes, keepAllocated: false });
    }
    imageOf(member).copy(sequence, offset, blockBytes, bytes, sums, (error) => {
      if (error) done('lost');
      else this.#verify(block, source, done);
    });
  }

  /** A block of a chunk that the member does not have, or shares with a snapshot, takes a new one. */
  #withRoom(member: Member, offset: number, then: (hasRoom: boolean) => void): void {
    const op = { kind: 'write', offset, length: blockBytes, keepAllocated: false };
    const needs = member.space?.needs(op) ?? 0;
    const asked = (granted: boolean): void => {
      if (granted && !member.isLocal) member.credits.spend(this.#segment.sequence + 1, needs);
      then(granted);
    };
    if (needs === 0) then(true);
    else if (member.availableChunks >= needs) asked(true);
    else member.requestRoom(needs, asked);
  }

  /** Null when none has the bytes. */
  #readGood(
    { member, offset, bytes, sources, imageOf }: Block & { sources: readonly Member[] },
    done: (source: Member | null) => void,
  ): void {
    const left = sources.filter((each) => each !== member);
    const next = (): void => {
      const source = left.shift();
      if (!source) done(null);
      else if (!this.#segment.sources().includes(source)) next();
      else {
        imageOf(source).read(offset, blockBytes, bytes, 0, (error) => {
          if (error) next();
          else done(source);
        });
      }
    };
    next();
  }

  #verify(
    { member, offset, bytes, imageOf }: Block,
    source: Member,
    done: (result: RepairResult) => void,
  ): void {
    const { logger, volumeId, offsetBytes } = this.#segment.options;
    const found = Buffer.alloc(blockBytes);
    imageOf(member).read(offset, blockBytes, found, 0, (error) => {
      const replica = member.replicaId;
      if (!error && found.equals(bytes)) {
        this.repaired += 1;
        logger.warn({ replica, offset, from: source.replicaId }, 'a bad block was repaired');
        this.#log.repaired(volumeId, member, offsetBytes + offset, source.replicaId);
        done('repaired');
        return;
      }
      if (!error || hasCode(error, 'CHECKSUM_MISMATCH', 'DISK_FAILED')) {
        const message = `the block at byte ${offset} of replica ${replica} cannot be repaired: its disk does not keep what is written; it must be rebuilt`;
        logger.error({ replica, offset, error: error?.message }, 'a block cannot be repaired');
        this.#segment.distrusted.add(replica);
        member.drop(new StorError('DISK_FAILED', message));
      }
      done('lost');
    });
  }
}
