import type { Clock } from '../clock.ts';

interface Timer {
  atMs: number;
  order: number;
  fn: () => void;
}

/** A clock that moves only when told; timers fire in order of time, then of registration. */
export class FakeClock implements Clock {
  #nowMs: number;
  #order = 0;
  #timers: Timer[] = [];
  #turn: (() => void)[] = [];
  /** how far the wall clock is ahead (ms): set it to make that clock jump */
  wallAheadMs = 0;

  constructor(startMs = 1_000_000) {
    this.#nowMs = startMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs + this.wallAheadMs;
  }

  after(delayMs: number, fn: () => void): () => void {
    const timer = { atMs: this.#nowMs + delayMs, order: this.#order++, fn };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  endOfTurn(fn: () => void): void {
    this.#turn.push(fn);
  }

  /** Runs what waits for the end of the turn, and what that adds. */
  runTurn(): void {
    while (this.#turn.length > 0) {
      const batch = this.#turn;
      this.#turn = [];
      for (const fn of batch) fn();
    }
  }

  /** Moves time forward, firing timers that fall due, each followed by its turn. */
  advance(ms: number): void {
    const endMs = this.#nowMs + ms;
    this.runTurn();
    for (;;) {
      this.#timers.sort((a, b) => a.atMs - b.atMs || a.order - b.order);
      const next = this.#timers[0];
      if (!next || next.atMs > endMs) break;
      this.#timers.shift();
      this.#nowMs = next.atMs;
      next.fn();
      this.runTurn();
    }
    this.#nowMs = endMs;
  }
}
