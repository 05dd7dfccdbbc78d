/** What is measured apart from each other: a long read says nothing about short ones. */
export const foregroundKinds = ['read', 'long read', 'write', 'long write', 'flush'] as const;
export type ForegroundKind = (typeof foregroundKinds)[number];

/** Requests above this are long (bytes). */
export const longRequestBytes = 64 * 1024;
/** Longer than this is no latency but a hold or a lost member (ms). */
const maxSampleMs = 5_000;
/** Weight of a sample; the older ones fade. */
const baselineWeight = 1 / 32;
const recentWeight = 1 / 12;
/** Fewer samples say nothing yet. */
const minSamples = 8;
/** A kind that was not seen for so long says nothing any more (ms). */
const freshMs = 1_500;
/** A growth by less than this is no harm, whatever it is in parts of a short latency (ms). */
export const latencySlackMs = 0.5;

interface Series {
  /** mean of the logarithm: single outliers count little */
  mean: number;
  count: number;
  lastMs: number;
}

/**
 * Latency of clients' requests with and without resync beside them. The latency without is learned
 * whenever no resync runs, also in the pauses that the pace makes for it.
 */
export class ForegroundMeter {
  readonly #baseline = new Map<ForegroundKind, Series>();
  readonly #recent = new Map<ForegroundKind, Series>();
  #lastMs = -Infinity;

  sample(kind: ForegroundKind, latencyMs: number, besideResync: boolean, nowMs: number): void {
    this.#lastMs = nowMs;
    if (latencyMs > maxSampleMs) return;
    const series = besideResync ? this.#recent : this.#baseline;
    const weight = besideResync ? recentWeight : baselineWeight;
    const value = Math.log(Math.max(latencyMs, 0.001));
    const known = series.get(kind);
    if (!known) {
      series.set(kind, { mean: value, count: 1, lastMs: nowMs });
      return;
    }
    known.count += 1;
    known.mean += (value - known.mean) * Math.max(weight, 1 / known.count);
    known.lastMs = nowMs;
  }

  /** A client asks for something now; how long it takes may not be known for a while. */
  asked(nowMs: number): void {
    this.#lastMs = nowMs;
  }

  /** Clients have asked for something a moment ago. */
  isActive(nowMs: number): boolean {
    return nowMs - this.#lastMs < freshMs;
  }

  /**
   * How many times as long requests take as without resync, the worst kind; null when nothing can
   * be said.
   */
  strain(nowMs: number): number | null {
    let worst: number | null = null;
    for (const [kind, recent] of this.#recent) {
      const baseline = this.#baseline.get(kind);
      if (!baseline || baseline.count < minSamples || recent.count < minSamples) continue;
      if (nowMs - recent.lastMs > freshMs) continue;
      const strain = Math.exp(recent.mean) / (Math.exp(baseline.mean) + latencySlackMs);
      worst = Math.max(worst ?? 0, strain);
    }
    return worst;
  }
}
