import type { Clock } from '../clock.ts';

interface Timer {
  atMs: number;
  fn: () => void;
}

/**
 * A clock for tests whose processes are one process with real sockets: at most 1 ms passes in a turn
 * of the event loop. On a busy machine such a process stands still for longer than leases and time
 * limits last, and when it goes on, timers come before what has arrived meanwhile: by the host's
 * clock everybody is late at once. By this one, everybody has had a turn for each millisecond.
 */
export class PacedClock implements Clock {
  #nowMs = 0;
  readonly #startWallMs = Date.now();
  readonly #timers = new Set<Timer>();
  #tick: NodeJS.Timeout | null = null;

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#startWallMs + this.#nowMs;
  }

  after(delayMs: number, fn: () => void): () => void {
    const timer = { atMs: this.#nowMs + delayMs, fn };
    this.#timers.add(timer);
    this.#goOn();
    return () => {
      this.#timers.delete(timer);
      // without timers the process may exit
      if (this.#timers.size === 0) this.#stop();
    };
  }

  endOfTurn(fn: () => void): void {
    setImmediate(fn);
  }

  /** The next millisecond comes in a later turn, after the sockets that are ready. */
  #goOn(): void {
    this.#tick ??= setTimeout(() => {
      this.#pass();
    }, 1);
  }

  #stop(): void {
    if (this.#tick) clearTimeout(this.#tick);
    this.#tick = null;
  }

  #pass(): void {
    this.#tick = null;
    this.#nowMs += 1;
    const due = [...this.#timers].filter(({ atMs }) => atMs <= this.#nowMs);
    for (const timer of due.sort((a, b) => a.atMs - b.atMs)) {
      // one before it may have cancelled it
      if (this.#timers.delete(timer)) timer.fn();
    }
    if (this.#timers.size > 0) this.#goOn();
  }
}
