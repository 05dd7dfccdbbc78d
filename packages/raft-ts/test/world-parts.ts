import { decodeMessages, encodeMessages } from '../src/index.ts';
import type { RaftClock, RaftMessage, RaftTransport } from '../src/index.ts';
import type { ManualClock } from '../src/testing/index.ts';

/**
 * The clock of one process: it runs faster or slower than the world's, what is due waits while the
 * process stands still, and nothing is due any more when it was killed.
 */
export class ProcessClock implements RaftClock {
  readonly #world: ManualClock;
  readonly #rate: number;
  #isPaused = false;
  #isDead = false;
  #waiting: (() => void)[] = [];

  constructor(world: ManualClock, rate: number) {
    this.#world = world;
    this.#rate = rate;
  }

  monotonicMs(): number {
    return this.#world.monotonicMs() * this.#rate;
  }

  after(delayMs: number, fn: () => void): () => void {
    let isCancelled = false;
    const run = () => {
      if (!isCancelled) fn();
    };
    const cancel = this.#world.after(delayMs / this.#rate, () => {
      this.run(run);
    });
    return () => {
      isCancelled = true;
      cancel();
    };
  }

  /** At once, or when the process goes on. */
  run(work: () => void): void {
    if (this.#isDead) return;
    if (this.#isPaused) this.#waiting.push(work);
    else work();
  }

  pause(): void {
    this.#isPaused = true;
  }

  goOn(): void {
    this.#isPaused = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const work of waiting) this.run(work);
  }

  kill(): void {
    this.#isDead = true;
    this.#waiting = [];
  }
}

/** Bytes between members: late, lost, repeated, out of order, and in one direction only. */
export class FaultyNetwork {
  readonly #world: ManualClock;
  readonly #random: () => number;
  readonly #receivers = new Map<string, (messages: RaftMessage[]) => void>();
  readonly #blocked = new Set<string>();
  /** probability of a loss, and of a second copy */
  lossRate = 0;

  constructor(world: ManualClock, random: () => number) {
    this.#world = world;
    this.#random = random;
  }

  join(id: string, receive: (messages: RaftMessage[]) => void): void {
    this.#receivers.set(id, receive);
  }

  leave(id: string): void {
    this.#receivers.delete(id);
  }

  block(from: string, to: string): void {
    this.#blocked.add(`${from}>${to}`);
  }

  heal(): void {
    this.#blocked.clear();
    this.lossRate = 0;
  }

  transport(from: string): RaftTransport {
    return {
      send: (to, messages) => {
        const bytes = encodeMessages(messages);
        if (this.#random() >= this.lossRate) this.#carry(from, to, bytes);
        if (this.#random() < this.lossRate) this.#carry(from, to, bytes);
      },
    };
  }

  #carry(from: string, to: string, bytes: Uint8Array): void {
    // most within milliseconds, some after elections, a few after the next restart
    const dice = this.#random();
    const spreadMs = dice < 0.97 ? 8 : dice < 0.995 ? 1_500 : 20_000;
    this.#world.after(1 + this.#random() * spreadMs, () => {
      if (!this.#blocked.has(`${from}>${to}`)) this.#receivers.get(to)?.(decodeMessages(bytes));
    });
  }
}
