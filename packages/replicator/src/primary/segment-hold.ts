import { StorError } from '@stor/protocol';

import type { Segment, SegmentPart } from './segment.ts';
import type { WritePath } from './write-path.ts';

interface Hold {
  readonly token: string;
  readonly sinceMs: number;
  readonly holdMs: number;
  readonly cancelTimer: () => void;
  /** while it waits for what was started */
  waiting: { resolve: () => void; reject: (error: StorError) => void } | null;
  /** an order that must not be broken off by the clock is under way */
  isPinned: boolean;
  /** its time was over while it was pinned */
  isLate: boolean;
}

/**
 * Holds writes for a moment, so that every member can be told something at the same point of its
 * stream. A write that comes meanwhile takes its range and waits in the write path, as it does while the
 * set changes: nothing is lost and the order stays. What was started is finished first, so that of
 * several segments or volumes that are held together none holds a write that another one lacks.
 *
 * Reads go on: nothing changes while the hold lasts, so they can only return what was returned before
 * (I5). So do flushes: they change no byte.
 */
export class SegmentHold implements SegmentPart {
  /** The hold has ended otherwise than by `release`: what was made under it is void. */
  onBroken: (token: string) => void = () => {};
  readonly #segment: Segment;
  readonly #writes: WritePath;
  #hold: Hold | null = null;

  constructor(segment: Segment, writes: WritePath) {
    this.#segment = segment;
    this.#writes = writes;
    writes.afterPump.push(() => {
      this.#look();
    });
  }

  /** The hold is complete: nothing that was started is under way. */
  isHeld(token: string): boolean {
    return this.#hold?.token === token && this.#hold.waiting === null;
  }

  /** An order changes what the members hold, one after the other. */
  get isPinned(): boolean {
    return this.#hold?.isPinned === true;
  }

  /** TIMEOUT, FAILED_PRECONDITION. */
  hold(token: string, holdMs: number): Promise<void> {
    const { clock } = this.#segment.options;
    if (this.#hold) {
      const by = `the hold ${this.#hold.token}`;
      const message = `writes are held already, by ${by}: try again when it is over`;
      return Promise.reject(new StorError('FAILED_PRECONDITION', message));
    }
    return new Promise((resolve, reject) => {
      const sinceMs = clock.monotonicMs();
      const cancelTimer = clock.after(holdMs, () => {
        this.#timeIsOver(holdMs);
      });
      const waiting = { resolve, reject };
      this.#hold = { token, sinceMs, holdMs, cancelTimer, waiting, isPinned: false, isLate: false };
      this.#segment.isHeld = true;
      this.#look();
    });
  }

  /**
   * Whether the hold had lasted until now, and for how long. One that was longer than it may be is as
   * good as broken: in a process that is short of time the timer comes late.
   */
  release(token: string): { heldMs: number; intact: boolean } {
    const hold = this.#hold;
    if (hold?.token !== token) return { heldMs: 0, intact: false };
    const heldMs = this.#segment.options.clock.monotonicMs() - hold.sinceMs;
    const intact = hold.waiting === null && heldMs <= hold.holdMs;
    this.#end(hold);
    hold.waiting?.reject(new StorError('ABORTED', 'the hold was given up'));
    if (!intact) this.onBroken(token);
    return { heldMs, intact };
  }

  /** The live image is becoming another one: what was known of its blocks is over. */
  imageReplaced(): void {
    this.#writes.trimmed.clear();
  }

  /** From now on the hold lasts until `unpin`. */
  pin(token: string): void {
    if (this.#hold?.token === token) this.#hold.isPinned = true;
  }
  unpin(token: string): void {
    const hold = this.#hold;
    if (hold?.token !== token) return;
    hold.isPinned = false;
    if (hold.isLate) this.#break(hold, new StorError('TIMEOUT', 'the hold has lasted too long'));
  }

  membersChanged(): void {
    this.#look();
  }

  /** The primary stops. */
  abandon(reason: StorError): void {
    if (this.#hold) this.#break(this.#hold, reason);
  }

  #timeIsOver(holdMs: number): void {
    const hold = this.#hold;
    if (!hold) return;
    if (hold.isPinned) {
      hold.isLate = true;
      return;
    }
    const what = hold.waiting ? 'what was under way did not end' : 'the hold was not released';
    this.#break(hold, new StorError('TIMEOUT', `${what} within ${holdMs} ms: try again`));
  }

  #break(hold: Hold, error: StorError): void {
    this.#end(hold);
    hold.waiting?.reject(error);
    this.onBroken(hold.token);
  }

  #end(hold: Hold): void {
    this.#hold = null;
    hold.cancelTimer();
    this.#segment.isHeld = false;
    this.#writes.pump();
  }

  #look(): void {
    const hold = this.#hold;
    if (!hold?.waiting || this.#segment.stopped) return;
    // while the set changes it is open who must have what
    if (!this.#writes.isQuiet || this.#segment.membership?.stable !== true) return;
    const { waiting } = hold;
    hold.waiting = null;
    waiting.resolve();
  }
}
