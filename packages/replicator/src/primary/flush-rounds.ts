import type { StorError } from '@stor/protocol';

import type { StoreDone } from '../replica-store.ts';
import type { Member } from './member.ts';
import type { Segment, SegmentPart } from './segment.ts';

export interface WaitingFlush {
  done: StoreDone;
  /** as far as was looked; 0: not held, or not looked yet (ms) */
  heldSinceMs: number;
}

/**
 * FLUSH: every member has made durable what was acknowledged before (I1). One round runs at a time;
 * flushes that come meanwhile share the next one.
 */
export class FlushRounds implements SegmentPart {
  readonly #segment: Segment;
  #running: WaitingFlush[] = [];
  #next: WaitingFlush[] = [];
  /** members whose flush is missing in this round; true: it was asked and has not answered */
  readonly #missing = new Map<Member, boolean>();
  #round = 0;

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  get inFlight(): number {
    return this.#running.length + this.#next.length;
  }

  flush(done: StoreDone): void {
    this.#next.push({ done, heldSinceMs: 0 });
    if (this.#running.length === 0) this.#begin();
  }

  /** Members that left no longer count; one that is back is asked again. */
  membersChanged(): void {
    this.#review();
  }

  memberLost(member: Member): void {
    if (this.#missing.has(member)) this.#missing.set(member, false);
  }

  /** Answers a round that is complete, when leases allow it (I6). */
  look(): void {
    const segment = this.#segment;
    if (this.#running.length === 0 || this.#missing.size > 0 || segment.stopped) return;
    if (!segment.leased) return;
    const done = this.#running;
    this.#running = [];
    if (this.#next.length > 0) this.#begin();
    for (const each of done) each.done(null);
  }

  /** Answers with the error those for which `isOver`; the round goes on without them. */
  giveUp(isOver: (each: WaitingFlush) => boolean, error: StorError): void {
    const over = [...this.#running, ...this.#next].filter(isOver);
    if (over.length === 0) return;
    this.#running = this.#running.filter((each) => !over.includes(each));
    this.#next = this.#next.filter((each) => !over.includes(each));
    if (this.#running.length === 0 && this.#next.length > 0) this.#begin();
    for (const each of over) each.done(error);
  }

  /** Nothing is held now. */
  forgetHolds(): void {
    for (const each of [...this.#running, ...this.#next]) each.heldSinceMs = 0;
  }

  abandon(error: StorError): void {
    const all = [...this.#running, ...this.#next];
    this.#running = [];
    this.#next = [];
    this.#missing.clear();
    this.#round += 1;
    for (const each of all) each.done(error);
  }

  #begin(): void {
    this.#running = this.#next;
    this.#next = [];
    this.#round += 1;
    this.#missing.clear();
    const { remotes, local, membership } = this.#segment;
    const required = membership?.required() ?? [];
    // the local one last: the others are farther away
    for (const member of local ? [...remotes, local] : remotes) {
      if (required.includes(member.replicaId)) this.#missing.set(member, false);
    }
    this.#review();
  }

  #review(): void {
    if (this.#running.length === 0) return;
    const { membership, joining, options } = this.#segment;
    const { outbox } = options;
    const isAlone = outbox.isIdle;
    const required = membership?.required() ?? [];
    for (const [member, asked] of [...this.#missing]) {
      if (!required.includes(member.replicaId)) {
        this.#missing.delete(member);
        continue;
      }
      const usable = member.isOpen && (this.#segment.isInSync(member) || joining.has(member));
      if (asked || !usable) continue;
      this.#missing.set(member, true);
      const round = this.#round;
      if (member.isLocal && isAlone) outbox.flush();
      member.flush((error) => {
        if (round !== this.#round || !this.#missing.has(member)) return;
        if (error) {
          this.#missing.set(member, false);
          member.drop(error);
          return;
        }
        this.#missing.delete(member);
        this.look();
      });
    }
    this.look();
  }
}
