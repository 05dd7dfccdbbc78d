import type { Clock } from '@stor/runtime';

interface Event {
  atMs: number;
  order: number;
  run: (() => void) | null;
}

/** Events in order of time, then of asking; nothing happens but by `step`. */
export class SimScheduler {
  nowMs = 1_000_000;
  #order = 0;
  #heap: Event[] = [];
  #turn: (() => void)[] = [];

  at(delayMs: number, run: () => void): () => void {
    const event: Event = { atMs: this.nowMs + Math.max(0, delayMs), order: this.#order++, run };
    this.#push(event);
    return () => {
      event.run = null;
    };
  }

  endOfTurn(run: () => void): void {
    this.#turn.push(run);
  }

  /** Runs the next event and its turn; false when there is none before `untilMs`. */
  step(untilMs: number): boolean {
    for (;;) {
      const next = this.#heap[0];
      if (!next || next.atMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs);
        return false;
      }
      this.#pop();
      if (!next.run) continue;
      this.nowMs = next.atMs;
      next.run();
      this.runTurn();
      return true;
    }
  }

  runTurn(): void {
    while (this.#turn.length > 0) {
      const turn = this.#turn;
      this.#turn = [];
      for (const run of turn) run();
    }
  }

  #before(a: Event | undefined, b: Event | undefined): boolean {
    if (!a || !b) return false;
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(heap[at], heap[parent])) break;
      this.#swap(at, parent);
      at = parent;
    }
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (!last || heap.length === 0) return;
    heap[0] = last;
    for (let at = 0; ;) {
      const left = at * 2 + 1;
      let least = at;
      if (this.#before(heap[left], heap[least])) least = left;
      if (this.#before(heap[left + 1], heap[least])) least = left + 1;
      if (least === at) return;
      this.#swap(at, least);
      at = least;
    }
  }

  #swap(a: number, b: number): void {
    const heap = this.#heap;
    const kept = heap[a];
    const other = heap[b];
    if (!kept || !other) return;
    heap[a] = other;
    heap[b] = kept;
  }
}

/** The clock of one process: it may be stopped (SIGSTOP) and goes on where it was, or be killed. */
export class ProcessClock implements Clock {
  readonly #scheduler: SimScheduler;
  #state: 'running' | 'paused' | 'dead' = 'running';
  #stashed: (() => void)[] = [];

  constructor(scheduler: SimScheduler) {
    this.#scheduler = scheduler;
  }

  get dead(): boolean {
    return this.#state === 'dead';
  }
  get paused(): boolean {
    return this.#state === 'paused';
  }
  monotonicMs(): number {
    return this.#scheduler.nowMs;
  }
  wallMs(): number {
    return this.#scheduler.nowMs;
  }
  after(delayMs: number, fn: () => void): () => void {
    let cancelled = false;
    const cancel = this.#scheduler.at(delayMs, () => {
      this.run(() => {
        if (!cancelled) fn();
      });
    });
    return () => {
      cancelled = true;
      cancel();
    };
  }
  endOfTurn(fn: () => void): void {
    this.#scheduler.endOfTurn(() => {
      this.run(fn);
    });
  }

  /** Runs something in this process: now, when it goes on, or never. */
  run(fn: () => void): void {
    if (this.#state === 'running') fn();
    else if (this.#state === 'paused') this.#stashed.push(fn);
  }

  pause(): void {
    if (this.#state === 'running') this.#state = 'paused';
  }
  resume(): void {
    if (this.#state !== 'paused') return;
    this.#state = 'running';
    const stashed = this.#stashed;
    this.#stashed = [];
    for (const fn of stashed) this.run(fn);
  }
  kill(): void {
    this.#state = 'dead';
    this.#stashed = [];
  }
}
