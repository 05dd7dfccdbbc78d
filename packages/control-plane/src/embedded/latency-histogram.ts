/** Upper bounds of the buckets (seconds): a commit is a quorum round and a synced write. */
const boundsSeconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** Counts of durations, in the form that the metrics page wants. */
export class LatencyHistogram {
  readonly #counts = new Array<number>(boundsSeconds.length + 1).fill(0);
  #sum = 0;

  observe(seconds: number): void {
    const found = boundsSeconds.findIndex((bound) => seconds <= bound);
    const bucket = found < 0 ? boundsSeconds.length : found;
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#sum += seconds;
  }

  read(): { bounds: readonly number[]; counts: readonly number[]; sum: number } {
    return { bounds: boundsSeconds, counts: [...this.#counts], sum: this.#sum };
  }
}
