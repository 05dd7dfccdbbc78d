import { StorError, blockBytes, chunkBytes, type SnapshotId } from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import { runsToCopy, type BlockRun } from '../core/replication/copy-runs.ts';
import { isZeros, type ChunkSums } from '../core/replication/settle-choice.ts';
import type { Member, MemberImage } from './member.ts';
import type { ReadPath } from './read-path.ts';
import type { Segment } from './segment.ts';
import { gather } from './settler.ts';
import { readSnapshotBlocks } from './snapshot-blocks.ts';
import { noteAllocation } from './write-path.ts';

/** Called once; `copiedBytes` is what was given to the member. */
export type CopyDone = (error: StorError | null, copiedBytes: number) => void;

/**
 * Makes one chunk of a member equal to the in-sync set: hashes are compared first, and only blocks
 * that differ are moved. The caller holds the chunk's range, so nobody writes to it meanwhile.
 *
 * A block that verifies at no in-sync member is nobody's truth: the member gets the source's bytes
 * with a checksum that cannot match, so that it stays an error to read and never becomes data (I9).
 */
export class ChunkCopier {
  readonly #segment: Segment;
  readonly #reads: ReadPath;

  constructor(segment: Segment, reads: ReadPath) {
    this.#segment = segment;
    this.#reads = reads;
  }

  /**
   * `image` null: of the live image. NO_SPACE: the member has no room for the chunk, nothing was
   * sent. NOT_FOUND: the snapshot is gone from one of them.
   */
  run(
    source: Member,
    member: Member,
    image: SnapshotId | null,
    offset: number,
    length: number,
    over: CopyDone,
  ): void {
    const copy: Copy = {
      source,
      member,
      image,
      from: imageOf(source, image),
      to: imageOf(member, image),
      chunkStart: offset,
    };
    const views: (ChunkSums | null)[] = [null, null];
    gather([copy.from, copy.to], (each, index, next) => {
      each.sums(offset, length, (error, sums) => {
        views[index] = sums;
        next(error);
      });
    })((error) => {
      const [ours, theirs] = views;
      if (error || !ours || !theirs || this.#segment.stopped) {
        over(error ?? new StorError('ABORTED', 'the primary has stopped'), 0);
        return;
      }
      const runs = runsToCopy(ours, theirs);
      if (this.#isHole(copy, ours, runs.length > 0)) this.#copyHole(copy, length, over);
      else if (runs.length === 0) over(null, 0);
      else this.#copy(copy, runs, over);
    });
  }

  /** What the source holds decides, not what is believed of it. */
  #isHole({ source, member, image, chunkStart }: Copy, ours: ChunkSums, differs: boolean): boolean {
    if (!isZeros(ours)) return false;
    // of a snapshot it does not matter what takes space in the source: it reads as zeros
    if (image !== null) return differs;
    const chunk = chunkStart / chunkBytes;
    if (source.allocated?.has(chunk) !== false) return false;
    return differs || isFreed(source, member, chunk);
  }

  #copyHole({ member, image, to, chunkStart }: Copy, length: number, over: CopyDone): void {
    const op = { kind: 'zero', offset: chunkStart, length, keepAllocated: false };
    if (image === null) noteAllocation(member, op);
    to.copyZero(++this.#segment.sequence, chunkStart, length, (error) => {
      over(error, 0);
    });
  }

  #copy(copy: Copy, runs: BlockRun[], over: CopyDone): void {
    const segment = this.#segment;
    const { buffers } = segment.options.outbox;
    const { chunkStart } = copy;
    const from = (runs[0]?.first ?? 0) * blockBytes;
    const length = (runs[runs.length - 1]?.end ?? 0) * blockBytes - from;
    const offset = chunkStart + from;
    const bytes = buffers.take(length);
    this.#readBlocks(copy, offset, length, bytes, (error, unreadable) => {
      if (error) {
        over(error, 0);
        return;
      }
      this.#readAnyway(copy, offset, unreadable, bytes, (failed) => {
        if (failed || segment.stopped) {
          over(failed ?? new StorError('ABORTED', 'the primary has stopped'), 0);
          return;
        }
        const bad = new Set(unreadable.map((at) => (offset + at - chunkStart) / blockBytes));
        const moved = runs.map((run) => ({ ...run, from: run.first * blockBytes - from }));
        this.#send(copy, moved, bytes, bad, (sendError, copiedBytes) => {
          // a store that hangs may still read the bytes of a copy that failed
          if (!sendError) buffers.give(bytes);
          over(sendError, copiedBytes);
        });
      });
    });
  }

  /** From whoever has them; `unreadable`: where blocks begin that nobody has, from `offset`. */
  #readBlocks(
    { image }: Copy,
    offset: number,
    length: number,
    bytes: Buffer,
    done: (error: StorError | null, unreadable: number[]) => void,
  ): void {
    if (image === null) this.#reads.readBlocks(offset, length, bytes, 0, done);
    else readSnapshotBlocks(this.#segment.sources(), image, offset, length, bytes, done);
  }

  /** The source's bytes of blocks that verify nowhere; zeros where not even they can be read. */
  #readAnyway(
    { source, from }: Copy,
    offset: number,
    unreadable: readonly number[],
    bytes: Buffer,
    done: (error: StorError | null) => void,
  ): void {
    gather(unreadable, (at, _index, next) => {
      const block = Buffer.alloc(blockBytes);
      from.readUnverified(offset + at, blockBytes, block, 0, new Uint8Array(1), (error) => {
        if (error) block.fill(0);
        block.copy(bytes, at);
        next(source.isOpen ? null : error);
      });
    })(done);
  }

  /** A snapshot that is filled takes a chunk of its own, unless it has one. */
  #needsRoom({ member, image, chunkStart }: Copy): boolean {
    const op = { kind: 'write', offset: chunkStart, length: blockBytes, keepAllocated: false };
    return image !== null || member.space?.needs(op) !== 0;
  }

  #send(
    copy: Copy,
    runs: readonly (BlockRun & { from: number })[],
    bytes: Buffer,
    bad: ReadonlySet<number>,
    over: CopyDone,
  ): void {
    const { member } = copy;
    if (!this.#needsRoom(copy) || member.availableChunks >= 1) {
      this.#write(copy, runs, bytes, bad, over);
      return;
    }
    member.requestRoom(1, (granted) => {
      if (granted) this.#write(copy, runs, bytes, bad, over);
      else over(new StorError('NO_SPACE', `${member.nodeId} has no room for the replica`), 0);
    });
  }

  #write(
    copy: Copy,
    runs: readonly (BlockRun & { from: number })[],
    bytes: Buffer,
    bad: ReadonlySet<number>,
    over: CopyDone,
  ): void {
    const segment = this.#segment;
    const { member, image, to, chunkStart } = copy;
    if (this.#needsRoom(copy) && !member.isLocal) member.credits.spend(segment.sequence + 1, 1);
    let copiedBytes = 0;
    gather(runs, (run, _index, next) => {
      const length = (run.end - run.first) * blockBytes;
      const offset = chunkStart + run.first * blockBytes;
      const payload = bytes.subarray(run.from, run.from + length);
      const sums = new Uint32Array(run.end - run.first);
      for (let block = 0; block < sums.length; block++) {
        const at = block * blockBytes;
        const sum = crc32(payload.subarray(at, at + blockBytes));
        sums[block] = bad.has(run.first + block) ? ~sum : sum;
      }
      copiedBytes += length;
      const written = { kind: 'write', offset, length, keepAllocated: false };
      if (image === null) noteAllocation(member, written);
      else member.space?.mayInherit(chunkStart / chunkBytes);
      to.copy(++segment.sequence, offset, length, payload, sums, next);
    })((error) => {
      over(error, copiedBytes);
    });
  }
}

/** One chunk of one image, from one member to another. */
interface Copy {
  source: Member;
  member: Member;
  image: SnapshotId | null;
  from: MemberImage;
  to: MemberImage;
  chunkStart: number;
}

function imageOf(member: Member, image: SnapshotId | null): MemberImage {
  return image === null ? member : member.view(image);
}

/** Making the member equal there gives it space back. */
export function isFreed(source: Member, member: Member, chunk: number): boolean {
  return source.allocated?.has(chunk) === false && member.allocated?.has(chunk) === true;
}
