import { StorError, blockBytes, hasCode } from '@stor/protocol';

import type { StoreDone } from '../replica-store.ts';
import type { Adopt, Member } from './member.ts';
import type { Segment, SegmentPart } from './segment.ts';

/** Bad places are logged once; so many are remembered. */
const maxLoggedPlaces = 1_024;

interface Waiting {
  attempt: () => void;
  fail: StoreDone;
}

/** One read of a range, and the members that could not give it. */
interface Attempt {
  readonly offset: number;
  readonly length: number;
  readonly target: Uint8Array;
  readonly start: number;
  readonly adopt: Adopt | null;
  readonly bad: Set<Member>;
  /** why the last of them could not */
  error: StorError | null;
  readonly done: StoreDone;
}

/**
 * Reads blocks of a locked, settled range from an in-sync member: the local one first, another when
 * the bytes do not verify or the disk fails (I9). While none can be reached, the read waits.
 */
export class ReadPath implements SegmentPart {
  readonly #segment: Segment;
  #waiting: Waiting[] = [];
  /** places that were said already */
  readonly #logged = new Set<string>();
  /** reads that a member could not give, and another one had to */
  mismatches = 0;
  /** An in-sync member could not give the range: to be looked at and repaired (I9). */
  onBad: (member: Member, offset: number, length: number) => void = () => {};

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  /** Reads a settled range at once where the local store can; false: call `read`. */
  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    const segment = this.#segment;
    if (!segment.localIsInSync || !segment.leased) return false;
    if (offset % blockBytes !== 0 || length % blockBytes !== 0) return false;
    const session = segment.local?.session;
    if (!session?.alive || !segment.lock.isReadable(offset, offset + length)) return false;
    return session.store.readInline(offset, length, target, start);
  }

  read(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    done: StoreDone,
    adopt: Adopt | null = null,
  ): void {
    this.#try({ offset, length, target, start, adopt, bad: new Set(), error: null, done });
  }

  /**
   * As `read`, but blocks that no member can give are no error: `unreadable` has where they begin,
   * in bytes from `offset`; their place in the target is left as it was.
   */
  readBlocks(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    done: (error: StorError | null, unreadable: number[]) => void,
  ): void {
    this.read(offset, length, target, start, (error) => {
      if (!error || !isBlockError(error)) done(error, []);
      else this.#eachBlock({ offset, length, target, start }, done);
    });
  }

  membersChanged(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { attempt } of waiting) attempt();
  }

  /** Answers a read that waits for a member with the error; nothing happens when it does not. */
  giveUp(done: StoreDone, error: StorError): void {
    const at = this.#waiting.findIndex(({ fail }) => fail === done);
    if (at < 0) return;
    this.#waiting.splice(at, 1);
    done(error);
  }

  abandon(error: StorError): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { fail } of waiting) fail(error);
  }

  #try(attempt: Attempt): void {
    const segment = this.#segment;
    if (segment.stopped) {
      attempt.done(new StorError('ABORTED', 'the primary has stopped'));
      return;
    }
    const { offset, length, target, start, adopt, bad, done } = attempt;
    const source = segment.sources().find((member) => !bad.has(member));
    if (!source) {
      this.#noSource(attempt);
      return;
    }
    const over: StoreDone = (error) => {
      if (!error) {
        done(null);
        return;
      }
      if (isBlockError(error)) {
        this.mismatches += 1;
        bad.add(source);
        attempt.error = error;
        this.#noteBad(source, offset, length, error);
        this.#try(attempt);
        return;
      }
      if (source.isOpen && !hasCode(error, 'UNAVAILABLE', 'ABORTED')) done(error);
      else this.#try(attempt);
    };
    source.read(offset, length, target, start, over, adopt);
  }

  /** What lies before the first bad block was whole. */
  #noteBad(source: Member, offset: number, length: number, error: StorError): void {
    const first = Math.max(offset, Number(error.details['offset'] ?? offset));
    const place = `${source.replicaId} ${first}`;
    if (this.#logged.size >= maxLoggedPlaces) this.#logged.clear();
    if (!this.#logged.has(place)) {
      this.#logged.add(place);
      const { logger } = this.#segment.options;
      const what = { replica: source.replicaId, offset: first, error: error.message };
      logger.warn(what, 'a replica could not give a block');
    }
    this.onBad(source, first, offset + length - first);
  }

  #noSource(attempt: Attempt): void {
    const { membership, members } = this.#segment;
    const { bad, error, done } = attempt;
    const others = membership?.committed.some(
      (id) => !members.some((member) => member.replicaId === id && bad.has(member)),
    );
    if (!error || others) {
      const again = (): void => {
        this.#try(attempt);
      };
      this.#waiting.push({ attempt: again, fail: done });
    } else if (bad.size === 1 || attempt.length === blockBytes) done(error);
    else {
      // each member has a bad block, not necessarily the same one
      this.#eachBlock(attempt, (failed, unreadable) => {
        done(failed ?? (unreadable.length > 0 ? error : null));
      });
    }
  }

  #eachBlock(
    range: { offset: number; length: number; target: Uint8Array; start: number },
    done: (error: StorError | null, unreadable: number[]) => void,
  ): void {
    const unreadable: number[] = [];
    const next = (at: number): void => {
      if (at === range.length) {
        done(null, unreadable);
        return;
      }
      this.read(range.offset + at, blockBytes, range.target, range.start + at, (error) => {
        if (error && !isBlockError(error)) {
          done(error, unreadable);
          return;
        }
        if (error) unreadable.push(at);
        next(at + blockBytes);
      });
    };
    next(0);
  }
}

/** The member cannot give this block; others may. */
function isBlockError(error: StorError): boolean {
  return hasCode(error, 'CHECKSUM_MISMATCH', 'DISK_FAILED');
}
