/** A wait is given up after this: what takes longer is worth a sleep (us). */
export const maxWaitUs = 150;
/** Between two turns that only wait; what takes longer was another thread's use of this core (us). */
const longTurnUs = 250;
/** Bad waits, less good ones, after which none is begun for a while; a core that was taken away counts more. */
const maxMisses = 8;
const preemptedMisses = 4;
/** Waits that are left out then, before it is tried again; twice as many each time that it ends so again. */
export const skippedWaits = 512;
const maxSkippedWaits = 65_536;
/** Good waits in a row after which the host counts as idle again. */
const goodRow = 1_000;

/**
 * Keeps a thread from going to sleep while something is to arrive within microseconds. To be woken
 * costs more than such a wait: in a virtual machine some 20 to 40 us, and the sender pays too. Where
 * what is awaited takes longer, or other threads want the core, it soon stops trying.
 */
export class ShortWait {
  readonly #nowMs: () => number;
  readonly #nextTurn: (fn: () => void) => void;
  #isOver: (() => boolean) | null = null;
  #untilMs = 0;
  #turnMs = 0;
  #isTurning = false;
  #misses = 0;
  #good = 0;
  #skips = 0;
  #nextSkips = skippedWaits;

  /** `nextTurn` runs what it is given in the next turn of the event loop, which then does not sleep. */
  constructor(nowMs: () => number, nextTurn: (fn: () => void) => void) {
    this.#nowMs = nowMs;
    this.#nextTurn = nextTurn;
  }

  /** Awake until `isOver`, for `maxWaitUs` at most; in place of what was awaited before. */
  begin(isOver: () => boolean): void {
    if (this.#skips > 0) {
      this.#skips -= 1;
      return;
    }
    this.#isOver = isOver;
    this.#turnMs = this.#nowMs();
    this.#untilMs = this.#turnMs + maxWaitUs / 1_000;
    if (this.#isTurning) return;
    this.#isTurning = true;
    this.#nextTurn(this.#turn);
  }

  readonly #turn = (): void => {
    const nowMs = this.#nowMs();
    const isPreempted = nowMs - this.#turnMs > longTurnUs / 1_000;
    this.#turnMs = nowMs;
    const isOver = this.#isOver?.() !== false;
    if (!isOver && !isPreempted && nowMs < this.#untilMs) {
      this.#nextTurn(this.#turn);
      return;
    }
    this.#isTurning = false;
    this.#isOver = null;
    this.#judge(isPreempted ? preemptedMisses : isOver ? 0 : 1);
  };

  #judge(misses: number): void {
    if (misses === 0) {
      this.#misses = Math.max(0, this.#misses - 1);
      this.#good += 1;
      if (this.#good >= goodRow) this.#nextSkips = skippedWaits;
      return;
    }
    this.#good = 0;
    this.#misses += misses;
    if (this.#misses < maxMisses) return;
    this.#misses = 0;
    this.#skips = this.#nextSkips;
    this.#nextSkips = Math.min(maxSkippedWaits, this.#nextSkips * 2);
  }
}
