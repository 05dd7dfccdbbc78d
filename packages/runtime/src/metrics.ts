import { Registry, collectDefaultMetrics, type Metric } from 'prom-client';

export type MetricType = 'counter' | 'gauge' | 'histogram';

export interface MetricFamily {
  name: string;
  help: string;
  type: MetricType;
}

export interface MetricSample {
  labels: Record<string, string>;
  value: number;
}

export interface HistogramSample {
  labels: Record<string, string>;
  /** upper bounds in seconds, ascending, without +Inf */
  bounds: readonly number[];
  /** counts per bucket (not cumulative); one more than bounds, the last is +Inf */
  counts: readonly number[];
  sum: number;
}

/** All values of one scrape, by family name. A family without samples is left out of the page. */
export interface MetricSnapshot {
  samples: Map<string, MetricSample[]>;
  histograms: Map<string, HistogramSample[]>;
}

/**
 * The /metrics page. The data path keeps plain counters on its own thread; they are fetched when
 * somebody looks, so that no request pays for a metric object.
 */
export class MetricsPage {
  readonly #registry = new Registry();
  readonly #collect: () => Promise<MetricSnapshot>;
  #scrape: Promise<MetricSnapshot> | null = null;

  constructor(families: readonly MetricFamily[], collect: () => Promise<MetricSnapshot>) {
    this.#collect = collect;
    collectDefaultMetrics({ register: this.#registry });
    for (const family of families) {
      const metric = {
        ...family,
        aggregator: 'sum',
        get: async () => ({
          ...family,
          aggregator: 'sum',
          values: valuesOf(family, await this.#snapshot()),
        }),
        reset() {},
      };
      // prom-client asks a registered metric only for its name and `get`; its classes cannot be set
      // to counts that were gathered on another thread.
      this.#registry.registerMetric(metric as unknown as Metric);
    }
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async text(): Promise<string> {
    this.#scrape = this.#collect();
    try {
      return await this.#registry.metrics();
    } finally {
      this.#scrape = null;
    }
  }

  #snapshot(): Promise<MetricSnapshot> {
    this.#scrape ??= this.#collect();
    return this.#scrape;
  }
}

function valuesOf(
  family: MetricFamily,
  snapshot: MetricSnapshot,
): { metricName?: string; labels: Record<string, string | number>; value: number }[] {
  if (family.type !== 'histogram') return snapshot.samples.get(family.name) ?? [];
  return (snapshot.histograms.get(family.name) ?? []).flatMap((histogram) => {
    let cumulative = 0;
    const buckets = histogram.counts.map((count, i) => {
      cumulative += count;
      const le = histogram.bounds[i] ?? '+Inf';
      return {
        metricName: `${family.name}_bucket`,
        labels: { ...histogram.labels, le },
        value: cumulative,
      };
    });
    return [
      ...buckets,
      { metricName: `${family.name}_sum`, labels: histogram.labels, value: histogram.sum },
      { metricName: `${family.name}_count`, labels: histogram.labels, value: cumulative },
    ];
  });
}
