/** What may be started at once after a pause, in time of the rate (ms). */
const burstMs = 100;

/**
 * How much the scrubs of one lane may read in a second, all together. It is a limit that operators
 * set; how far clients suffer is ResyncPace's to know.
 */
export class ScrubBudget {
  #rate = 1;
  #tokens = 0;
  #filledMs: number;

  constructor(nowMs: number) {
    this.#filledMs = nowMs;
  }

  /** bytes per second, above 0 */
  set rate(bytesPerSecond: number) {
    const rate = Math.max(1, bytesPerSecond);
    if (rate === this.#rate) return;
    this.#rate = rate;
    // a debt made at another rate is not waited for over minutes
    this.#tokens = Math.max(this.#tokens, -rate);
  }

  /** Time until a piece may be begun (ms); 0: now. Nothing is taken. */
  waitMs(nowMs: number): number {
    this.#fill(nowMs);
    return this.#tokens > 0 ? 0 : Math.ceil((-this.#tokens * 1_000) / this.#rate) + 1;
  }

  /** A piece begins; what it costs beyond what is there is waited for by the next one. */
  take(bytes: number): void {
    this.#tokens -= bytes;
  }

  #fill(nowMs: number): void {
    const gained = (this.#rate * Math.max(0, nowMs - this.#filledMs)) / 1_000;
    this.#tokens = Math.min(this.#tokens + gained, (this.#rate * burstMs) / 1_000);
    this.#filledMs = nowMs;
  }
}
