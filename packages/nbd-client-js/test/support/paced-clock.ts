import type { NbdClock } from '../../src/index.ts';

interface Timer {
  atMs: number;
  run: () => void;
}

/**
 * A clock that at most 1 ms passes on in a turn of the event loop. On a busy machine the process
 * stands still for longer than the time limits of a test; when it goes on, timers come before what
 * has arrived meanwhile, so that by the host's clock a server which has answered counts as silent.
 * By this one, client and servers of one process have had a turn for each millisecond.
 */
export class PacedClock implements NbdClock {
  #nowMs = 0;
  readonly #timers = new Set<Timer>();
  #tick: NodeJS.Timeout | null = null;

  monotonicMs(): number {
    return this.#nowMs;
  }

  after(ms: number, run: () => void): () => void {
    const timer = { atMs: this.#nowMs + ms, run };
    this.#timers.add(timer);
    this.#tick ??= setTimeout(() => this.#pass(), 1);
    return () => {
      this.#timers.delete(timer);
      if (this.#timers.size > 0 || !this.#tick) return;
      clearTimeout(this.#tick);
      this.#tick = null;
    };
  }

  #pass(): void {
    this.#tick = null;
    this.#nowMs += 1;
    const due = [...this.#timers].filter(({ atMs }) => atMs <= this.#nowMs);
    for (const timer of due.sort((a, b) => a.atMs - b.atMs)) {
      // one before it may have cancelled it
      if (this.#timers.delete(timer)) timer.run();
    }
    // runs in a later turn, after the sockets that are ready
    if (this.#timers.size > 0) this.#tick ??= setTimeout(() => this.#pass(), 1);
  }
}
