import { blockBytes, chunkBytes, regionBytes, StorError } from '@stor/protocol';

import { maxChunksInFlight } from '../replication/limits.ts';
import type { Member, MemberImage, OpenAnswer } from './member.ts';

interface Range {
  offset: number;
  length: number;
}

/**
 * Whether a member that could not be dropped may go on as if it had never been away. Its process may have
 * been killed, and then a block that it had acknowledged may be newer than its checksum. Nobody else has
 * what it has, so such blocks are settled as after any unclean stop: by the next primary.
 */
export class ReturnCheck {
  /** of members that were in sync: the process that they were in */
  readonly #instances = new Map<string, string>();
  /** checks under way or over, by what the member said when it was opened */
  readonly #results = new WeakMap<OpenAnswer, 'running' | 'good' | 'bad'>();

  /** It is lost, and was in sync until now. */
  lost({ replicaId, instance }: Member): void {
    this.#instances.set(replicaId, instance);
  }

  /**
   * `again` is called when the answer may be another one. `resent`: what it gets anew in any case.
   */
  look(
    member: Member,
    sizeBytes: number,
    resent: readonly Range[],
    again: () => void,
  ): 'running' | 'good' | 'bad' {
    const { answer, replicaId } = member;
    if (!answer) return 'running';
    if (member.isLocal || this.#instances.get(replicaId) === member.instance) return 'good';
    const known = this.#results.get(answer);
    if (known) return known;
    this.#results.set(answer, 'running');
    let isAtOnce = true;
    const isCurrent = (): boolean => member.isOpen && member.answer === answer;
    checkChunks(
      isCurrent,
      [...livePieces(member, answer, sizeBytes, resent), ...snapshotPieces(member, answer)],
      (error, isGood) => {
        // one that cannot be asked to the end is dropped, and asked anew when it is back
        if (error) this.#results.delete(answer);
        else this.#results.set(answer, isGood ? 'good' : 'bad');
        if (isAtOnce || !isCurrent()) return;
        if (error) member.drop(error);
        else again();
      },
    );
    isAtOnce = false;
    return this.#results.get(answer) ?? 'running';
  }
}

/** Part of one image, within a chunk. */
interface Piece extends Range {
  image: MemberImage;
  resent: readonly Range[];
}

function livePieces(
  member: Member,
  answer: OpenAnswer,
  sizeBytes: number,
  resent: readonly Range[],
): Piece[] {
  return markedPieces(answer, sizeBytes)
    .filter(({ offset }) => member.allocated?.has(offset / chunkBytes) !== false)
    .map((range) => ({ ...range, image: member, resent }));
}

/** A snapshot that is not ready was not flushed: the live image may have other blocks by now. */
function snapshotPieces(member: Member, answer: OpenAnswer): Piece[] {
  return member.snapshots
    .filter(({ state }) => state !== 'ready')
    .flatMap(({ snapshotId, sizeBytes }) => {
      const image = member.view(snapshotId);
      return markedPieces(answer, sizeBytes).map((range) => ({ ...range, image, resent: [] }));
    });
}

function markedPieces({ marks }: OpenAnswer, sizeBytes: number): Range[] {
  const end = Math.ceil(sizeBytes / blockBytes) * blockBytes;
  const pieces: Range[] = [];
  for (const region of marks.list()) {
    const last = Math.min(end, (region + 1) * regionBytes);
    for (let offset = region * regionBytes; offset < last; offset += chunkBytes) {
      pieces.push({ offset, length: Math.min(chunkBytes, last - offset) });
    }
  }
  return pieces;
}

/** A few pieces at a time, until one is bad or all were looked at. */
function checkChunks(
  isCurrent: () => boolean,
  pieces: readonly Piece[],
  done: (error: StorError | null, isGood: boolean) => void,
): void {
  let next = 0;
  let running = 0;
  let isOver = false;
  const over = (error: StorError | null, isGood: boolean): void => {
    if (isOver) return;
    isOver = true;
    done(error, isGood);
  };
  const fill = (): void => {
    while (!isOver && running < maxChunksInFlight) {
      const piece = pieces[next++];
      if (piece === undefined) break;
      running += 1;
      checkPiece(piece, (error, isGood) => {
        running -= 1;
        if (!isCurrent()) over(new StorError('UNAVAILABLE', 'the member was lost'), false);
        else if (error || !isGood) over(error, false);
        else fill();
      });
    }
    if (running === 0) over(null, true);
  };
  fill();
}

function checkPiece(
  { image, offset, length, resent }: Piece,
  done: (error: StorError | null, isGood: boolean) => void,
): void {
  image.sums(offset, length, (error, sums) => {
    const isGood = sums?.valid.every((valid, block) => {
      const at = offset + block * blockBytes;
      // what the disk cannot read is no better after a settle
      return (
        valid !== 0 || resent.some((each) => at >= each.offset && at < each.offset + each.length)
      );
    });
    done(error, isGood === true);
  });
}
