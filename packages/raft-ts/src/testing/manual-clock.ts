import type { RaftClock } from '../raft-options.ts';

/** A clock that moves only when told; timers fire in order of time, then of registration. */
export class ManualClock implements RaftClock {
  #nowMs = 0;
  #order = 0;
  #timers = new Set<{ atMs: number; order: number; fn: () => void }>();

  monotonicMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, fn: () => void): () => void {
    const timer = { atMs: this.#nowMs + delayMs, order: this.#order++, fn };
    this.#timers.add(timer);
    return () => {
      this.#timers.delete(timer);
    };
  }

  advance(ms: number): void {
    const endMs = this.#nowMs + ms;
    for (;;) {
      const [next] = [...this.#timers].sort((a, b) => a.atMs - b.atMs || a.order - b.order);
      if (!next || next.atMs > endMs) break;
      this.#timers.delete(next);
      this.#nowMs = next.atMs;
      next.fn();
    }
    this.#nowMs = endMs;
  }
}
