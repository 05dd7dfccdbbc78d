import type { Clock } from '@stor/runtime';

/**
 * Answers of the disk that are handled in one turn of the event loop while several volumes use it. Each
 * takes 20 to 40 us of the lane, and whoever is served from memory waits for all of a turn. With two a volume in
 * memory kept 28 % of what it has alone beside 32 cold reads, with one 43 %, for a tenth of the cold reads.
 */
export const answersPerTurn = 1;

/**
 * So many turns the next answer waits for a request that is served from memory, after one of those came and an answer
 * was handled since. It is some 0.1 ms, in which a client that asks one by one has asked again.
 */
export const turnsForMemory = 32;

/**
 * Lets requests get between the answers of a disk. Those that came in one turn are handled in one go
 * when nobody else uses the lane, which costs the least; otherwise one in each turn, after all sockets
 * have been read.
 */
export class AnswerPace {
  readonly #clock: Pick<Clock, 'endOfTurn'>;
  readonly #isShared: () => boolean;
  #answers: (() => void)[] = [];
  #next = 0;
  #isPlanned = false;
  /** Somebody is served from memory; until an answer has waited in vain. */
  #isMemoryUsed = false;
  /** Somebody was, since the last answer. */
  #wasServed = false;
  #waitedTurns = 0;

  /** `isShared`: several volumes use this event loop now */
  constructor(clock: Pick<Clock, 'endOfTurn'>, isShared: () => boolean) {
    this.#clock = clock;
    this.#isShared = isShared;
  }

  /** Else an answer may be handled at once. */
  get isNeeded(): boolean {
    return this.#isPlanned || this.#isShared();
  }

  /** In the order in which they were given. */
  later(answer: () => void): void {
    this.#answers.push(answer);
    if (!this.#isPlanned) this.#plan();
  }

  /** A request was served from memory: it and the answers take turns. */
  served(): void {
    this.#isMemoryUsed = true;
    this.#wasServed = true;
  }

  #plan(): void {
    this.#isPlanned = true;
    this.#clock.endOfTurn(this.#handle);
  }

  readonly #handle = (): void => {
    if (this.#waitsForMemory()) {
      this.#plan();
      return;
    }
    const waiting = this.#answers.length - this.#next;
    const count = this.#isShared() ? Math.min(waiting, answersPerTurn) : waiting;
    // planned before they are handled: what they do must not make others overtake those that wait
    const end = this.#next + count;
    while (this.#next < end) {
      const answer = this.#answers[this.#next];
      this.#next += 1;
      answer?.();
    }
    if (this.#next < this.#answers.length) {
      this.#plan();
      return;
    }
    this.#isPlanned = false;
    this.#answers = [];
    this.#next = 0;
  };

  // counted in turns, not in time: the clock of a simulation stands still during turns
  #waitsForMemory(): boolean {
    if (this.#isMemoryUsed && !this.#wasServed && this.#isShared()) {
      this.#waitedTurns += 1;
      if (this.#waitedTurns <= turnsForMemory) return true;
      this.#isMemoryUsed = false;
    }
    this.#waitedTurns = 0;
    this.#wasServed = false;
    return false;
  }
}
