import { StorError, blockBytes, chunkBytes } from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import { runsToCopy, type BlockRun } from '../core/replication/copy-runs.ts';
import { isZeros, type ChunkSums } from '../core/replication/settle-choice.ts';
import type { Member } from './member.ts';
import type { ReadPath } from './read-path.ts';
import type { Segment } from './segment.ts';
import { gather } from './settler.ts';
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

  /** NO_SPACE: the member has no room for the chunk, nothing was sent. */
  run(source: Member, member: Member, offset: number, length: number, over: CopyDone): void {
    const views: (ChunkSums | null)[] = [null, null];
    gather([source, member], (each, index, next) => {
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
      // what the source holds decides, not what is believed of it
      const isHole = source.allocated?.has(offset / chunkBytes) === false && isZeros(ours);
      const runs = runsToCopy(ours, theirs);
      if (isHole && (runs.length > 0 || isFreed(source, member, offset / chunkBytes))) {
        this.#copyHole(member, offset, length, over);
      } else if (runs.length === 0) over(null, 0);
      else this.#copy(source, member, offset, runs, over);
    });
  }

  #copyHole(member: Member, offset: number, length: number, over: CopyDone): void {
    noteAllocation(member, { kind: 'zero', offset, length, keepAllocated: false });
    member.copyZero(++this.#segment.sequence, offset, length, (error) => {
      over(error, 0);
    });
  }

  #copy(
    source: Member,
    member: Member,
    chunkStart: number,
    runs: BlockRun[],
    over: CopyDone,
  ): void {
    const segment = this.#segment;
    const { buffers } = segment.options.outbox;
    const from = (runs[0]?.first ?? 0) * blockBytes;
    const length = (runs[runs.length - 1]?.end ?? 0) * blockBytes - from;
    const offset = chunkStart + from;
    const bytes = buffers.take(length);
    this.#reads.readBlocks(offset, length, bytes, 0, (error, unreadable) => {
      if (error) {
        over(error, 0);
        return;
      }
      this.#readAnyway(source, offset, unreadable, bytes, (failed) => {
        if (failed || segment.stopped) {
          over(failed ?? new StorError('ABORTED', 'the primary has stopped'), 0);
          return;
        }
        const bad = new Set(unreadable.map((at) => (offset + at - chunkStart) / blockBytes));
        const moved = runs.map((run) => ({ ...run, from: run.first * blockBytes - from }));
        this.#send(member, chunkStart, moved, bytes, bad, (sendError, copiedBytes) => {
          // a store that hangs may still read the bytes of a copy that failed
          if (!sendError) buffers.give(bytes);
          over(sendError, copiedBytes);
        });
      });
    });
  }

  /** The source's bytes of blocks that verify nowhere; zeros where not even they can be read. */
  #readAnyway(
    source: Member,
    offset: number,
    unreadable: readonly number[],
    bytes: Buffer,
    done: (error: StorError | null) => void,
  ): void {
    gather(unreadable, (at, _index, next) => {
      const block = Buffer.alloc(blockBytes);
      source.readUnverified(offset + at, blockBytes, block, 0, new Uint8Array(1), (error) => {
        if (error) block.fill(0);
        block.copy(bytes, at);
        next(source.isOpen ? null : error);
      });
    })(done);
  }

  #send(
    member: Member,
    chunkStart: number,
    runs: readonly (BlockRun & { from: number })[],
    bytes: Buffer,
    bad: ReadonlySet<number>,
    over: CopyDone,
  ): void {
    const segment = this.#segment;
    if (!member.allocated?.has(chunkStart / chunkBytes)) {
      if (member.availableChunks < 1) {
        over(new StorError('NO_SPACE', `${member.nodeId} has no room for the replica`), 0);
        return;
      }
      if (!member.isLocal) member.credits.spend(segment.sequence + 1, 1);
    }
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
      noteAllocation(member, { kind: 'write', offset, length, keepAllocated: false });
      member.copy(++segment.sequence, offset, length, payload, sums, next);
    })((error) => {
      over(error, copiedBytes);
    });
  }
}

/** Making the member equal there gives it space back. */
export function isFreed(source: Member, member: Member, chunk: number): boolean {
  return source.allocated?.has(chunk) === false && member.allocated?.has(chunk) === true;
}
