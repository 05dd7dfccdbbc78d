import type { QosBurst } from '@stor/protocol';

/**
 * What may be taken at once after a pause, in time of the rate (ms): as much as a late timer or a busy
 * event loop may lose. Over 10 s it is 1 % of the limit.
 */
export const sliceMs = 100;
/** Of the credits that may be saved up, so many are there when a bucket is new. */
export const firstCredits = 0.5;

/**
 * One limit. Takers may go while there are tokens, whatever they take: what is missing then is a debt
 * of at most one request, and is waited for by the next. So a rate is exact for requests of any size.
 * With a burst, what is not used is saved as credits, and a second bucket holds the rate of the burst.
 */
export class TokenBucket {
  #ratePerMs = 0;
  #creditCap = 0;
  #tokens: number;
  /** rate and tokens of the burst; without one they bound nothing */
  #peakPerMs = Infinity;
  #peakTokens = Infinity;
  #filledMs: number;

  /** @param rate tokens per second, above 0 */
  constructor(rate: number, burst: QosBurst | undefined, nowMs: number) {
    this.#filledMs = nowMs;
    this.#tokens = Infinity;
    this.#set(rate, burst);
    this.#tokens = this.#ratePerMs * sliceMs + this.#creditCap * firstCredits;
  }

  /** Another limit from now on: a debt stays what it is, credits as far as they fit. */
  change(rate: number, burst: QosBurst | undefined, nowMs: number): void {
    this.#fill(nowMs);
    this.#set(rate, burst);
    this.#tokens = Math.min(this.#tokens, this.#cap);
    this.#peakTokens = Math.min(this.#peakTokens, this.#peakPerMs * sliceMs);
  }

  /** 0: something may be taken. Else the time until then (ms). */
  waitMs(nowMs: number): number {
    this.#fill(nowMs);
    const own = this.#tokens > 0 ? 0 : -this.#tokens / this.#ratePerMs + 0.001;
    const peak = this.#peakTokens > 0 ? 0 : -this.#peakTokens / this.#peakPerMs + 0.001;
    return Math.max(own, peak);
  }

  take(amount: number): void {
    this.#tokens -= amount;
    this.#peakTokens -= amount;
  }

  /** Tokens there are; below 0 a debt. */
  tokens(nowMs: number): number {
    this.#fill(nowMs);
    return this.#tokens;
  }

  /** Saved for bursts, as part of what may be saved; null when there is no burst. */
  credits(nowMs: number): number | null {
    if (this.#creditCap === 0) return null;
    this.#fill(nowMs);
    const saved = this.#tokens - this.#ratePerMs * sliceMs;
    return Math.min(Math.max(saved / this.#creditCap, 0), 1);
  }

  get #cap(): number {
    return this.#ratePerMs * sliceMs + this.#creditCap;
  }

  #set(rate: number, burst: QosBurst | undefined): void {
    this.#ratePerMs = rate / 1_000;
    const hasBurst = burst !== undefined && burst.factor > 1;
    // at `factor` times the rate it is used up after `seconds`, since the rate itself goes on
    this.#creditCap = hasBurst ? rate * (burst.factor - 1) * burst.seconds : 0;
    const hadPeak = this.#peakPerMs !== Infinity;
    this.#peakPerMs = hasBurst ? this.#ratePerMs * burst.factor : Infinity;
    if (!hasBurst) this.#peakTokens = Infinity;
    else if (!hadPeak) this.#peakTokens = this.#peakPerMs * sliceMs;
  }

  #fill(nowMs: number): void {
    const passedMs = nowMs - this.#filledMs;
    if (passedMs <= 0) return;
    this.#filledMs = nowMs;
    this.#tokens = Math.min(this.#tokens + this.#ratePerMs * passedMs, this.#cap);
    if (this.#peakPerMs !== Infinity) {
      const gained = this.#peakTokens + this.#peakPerMs * passedMs;
      this.#peakTokens = Math.min(gained, this.#peakPerMs * sliceMs);
    }
  }
}
