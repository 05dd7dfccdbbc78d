/**
 * How much of a guarantee is owed after a pause, and how much more than it is held against a volume,
 * in time of the guarantee (ms).
 */
const spanMs = 100;

/**
 * What a volume is to get whatever others ask for. It is below its guarantee as long as it has had less
 * than that, counting everything that it got; then its requests go first. With both figures it is
 * below while either is unmet.
 */
export class Guarantee {
  readonly #opsPerMs: number;
  readonly #bytesPerMs: number;
  #ops: number;
  #bytes: number;
  #filledMs: number;
  /**
   * Time of its guarantee that it has had while it went first (ms). Of several that are below, the
   * one with the smallest goes: so what there is falls to them in proportion to their guarantees.
   */
  tag = 0;

  /** @param minIops requests per second, @param minBps bytes per second; 0: none */
  constructor(minIops: number, minBps: number, nowMs: number) {
    this.#opsPerMs = minIops / 1_000;
    this.#bytesPerMs = minBps / 1_000;
    this.#ops = this.#opsPerMs * spanMs;
    this.#bytes = this.#bytesPerMs * spanMs;
    this.#filledMs = nowMs;
  }

  isBelow(nowMs: number): boolean {
    this.#fill(nowMs);
    return this.#ops > 0 || this.#bytes > 0;
  }

  /** It gets a request, whether it went first or not. */
  take(bytes: number, nowMs: number): void {
    this.#fill(nowMs);
    this.#ops = owed(this.#ops, 1, this.#opsPerMs);
    this.#bytes = owed(this.#bytes, bytes, this.#bytesPerMs);
  }

  /** A request went first: what that is in time of the larger of its claims (ms). */
  wentFirst(bytes: number): void {
    const ops = this.#opsPerMs > 0 ? 1 / this.#opsPerMs : Infinity;
    const size = this.#bytesPerMs > 0 ? bytes / this.#bytesPerMs : Infinity;
    this.tag += Math.min(ops, size);
  }

  #fill(nowMs: number): void {
    const passedMs = nowMs - this.#filledMs;
    if (passedMs <= 0) return;
    this.#filledMs = nowMs;
    this.#ops = Math.min(this.#ops + this.#opsPerMs * passedMs, this.#opsPerMs * spanMs);
    this.#bytes = Math.min(this.#bytes + this.#bytesPerMs * passedMs, this.#bytesPerMs * spanMs);
  }
}

/** What is still owed after so much; a debt of no more than the span, or than this one request. */
function owed(now: number, amount: number, perMs: number): number {
  if (perMs === 0) return 0;
  return Math.max(now - amount, -Math.max(perMs * spanMs, amount));
}
