import type { Clock } from '@stor/runtime';

import type { SimScheduler } from './scheduler.ts';

/** Wall time at the beginning of a run (ms since 1970). */
const wallStartMs = Date.UTC(2026, 0, 1);

/**
 * The clock of one host: `rate` seconds pass on it in one second of the simulation. It outlives the
 * processes of the host.
 */
export class HostClock {
  readonly scheduler: SimScheduler;
  readonly rate: number;
  readonly #startMs: number;

  constructor(scheduler: SimScheduler, rate: number) {
    this.scheduler = scheduler;
    this.rate = rate;
    this.#startMs = scheduler.nowMs;
  }

  nowMs(): number {
    return this.#startMs + (this.scheduler.nowMs - this.#startMs) * this.rate;
  }
}

/** Time of one process: it may be stopped (SIGSTOP) and go on where it was, or be killed. */
export class ProcessClock implements Clock {
  readonly #host: HostClock;
  #state: 'running' | 'paused' | 'dead' = 'running';
  #stashed: (() => void)[] = [];

  constructor(host: HostClock) {
    this.#host = host;
  }

  get dead(): boolean {
    return this.#state === 'dead';
  }
  get paused(): boolean {
    return this.#state === 'paused';
  }
  get running(): boolean {
    return this.#state === 'running';
  }

  monotonicMs(): number {
    return this.#host.nowMs();
  }
  wallMs(): number {
    return wallStartMs + this.#host.nowMs();
  }

  after(delayMs: number, fn: () => void): () => void {
    let cancelled = false;
    const cancel = this.#host.scheduler.at(delayMs / this.#host.rate, () => {
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
    this.#host.scheduler.endOfTurn(() => {
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
    // each in an event of its own, as ready timers and sockets are
    for (const fn of stashed) this.#host.scheduler.at(0, () => this.run(fn));
  }

  kill(): void {
    this.#state = 'dead';
    this.#stashed = [];
  }
}
