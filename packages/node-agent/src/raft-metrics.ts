import type { ClusterStore } from '@stor/control-plane';
import type { HistogramSample } from '@stor/runtime';

/** Watches the cluster store of this member for the metrics page. */
export class RaftMetrics {
  readonly #store: ClusterStore & { commitLatency(): Omit<HistogramSample, 'labels'> };
  readonly #node: string;
  #leaderChanges = 0;
  #lastTerm = 0;

  constructor(
    node: string,
    store: ClusterStore & { commitLatency(): Omit<HistogramSample, 'labels'> },
  ) {
    this.#node = node;
    this.#store = store;
  }

  get isLeader(): boolean {
    return this.#store.status().isLeader;
  }

  read(): {
    term: number;
    appliedIndex: number;
    leaderChanges: number;
    commitLatency: HistogramSample;
  } {
    const { term, appliedIndex } = this.#store.status();
    if (this.#lastTerm !== 0 && term > this.#lastTerm) this.#leaderChanges += term - this.#lastTerm;
    this.#lastTerm = term;
    return {
      term,
      appliedIndex,
      leaderChanges: this.#leaderChanges,
      commitLatency: { labels: { node: this.#node }, ...this.#store.commitLatency() },
    };
  }
}
