import { StorError, hasCode } from '@stor/protocol';

import type { StoreDone } from '../replica-store.ts';
import type { Member } from './member.ts';
import type { Segment, SegmentPart } from './segment.ts';

interface Waiting {
  attempt: () => void;
  fail: StoreDone;
}

/**
 * Reads blocks of a locked, settled range from an in-sync member: the local one first, another when
 * the bytes do not verify or the disk fails (I9). While none can be reached, the read waits.
 */
export class ReadPath implements SegmentPart {
  readonly #segment: Segment;
  #waiting: Waiting[] = [];
  /** blocks that a member could not give, and another one did */
  mismatches = 0;

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    this.#try(new Set(), null, offset, length, target, start, done);
  }

  membersChanged(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { attempt } of waiting) attempt();
  }

  abandon(error: StorError): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { fail } of waiting) fail(error);
  }

  #try(
    bad: Set<Member>,
    lastError: StorError | null,
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    done: StoreDone,
  ): void {
    const segment = this.#segment;
    if (segment.stopped) {
      done(new StorError('ABORTED', 'the primary has stopped'));
      return;
    }
    const source = segment.sources().find((member) => !bad.has(member));
    if (!source) {
      const others = segment.membership?.committed.some(
        (id) => !segment.members.some((m) => m.replicaId === id && bad.has(m)),
      );
      if (lastError && !others) {
        done(lastError);
        return;
      }
      const attempt = (): void => {
        this.#try(bad, lastError, offset, length, target, start, done);
      };
      this.#waiting.push({ attempt, fail: done });
      return;
    }
    source.read(offset, length, target, start, (error) => {
      if (!error) {
        done(null);
        return;
      }
      if (hasCode(error, 'CHECKSUM_MISMATCH', 'DISK_FAILED')) {
        this.mismatches += 1;
        bad.add(source);
        const { logger } = segment.options;
        logger.warn({ replica: source.replicaId, offset, error: error.message }, 'a read failed');
        this.#try(bad, error, offset, length, target, start, done);
        return;
      }
      if (source.isOpen && !hasCode(error, 'UNAVAILABLE', 'ABORTED')) {
        done(error);
        return;
      }
      this.#try(bad, lastError, offset, length, target, start, done);
    });
  }
}
