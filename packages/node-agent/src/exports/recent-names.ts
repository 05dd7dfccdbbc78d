import type { Clock } from '@stor/runtime';

/** Names kept at once; more than a node has volumes in motion. */
const maxNames = 4_096;

/** Names that were noted less than `keptMs` ago. */
export class RecentNames {
  readonly #clock: Clock;
  readonly #keptMs: number;
  /** until when, the oldest note first */
  readonly #untilMs = new Map<string, number>();

  constructor(clock: Clock, keptMs: number) {
    this.#clock = clock;
    this.#keptMs = keptMs;
  }

  add(name: string): void {
    const nowMs = this.#clock.monotonicMs();
    this.#untilMs.delete(name);
    this.#untilMs.set(name, nowMs + this.#keptMs);
    for (const [oldest, untilMs] of this.#untilMs) {
      if (untilMs > nowMs && this.#untilMs.size <= maxNames) break;
      this.#untilMs.delete(oldest);
    }
  }

  delete(name: string): void {
    this.#untilMs.delete(name);
  }

  has(name: string): boolean {
    return this.#clock.monotonicMs() < (this.#untilMs.get(name) ?? -Infinity);
  }
}
