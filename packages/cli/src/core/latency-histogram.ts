/** Steps of one bucket (us): finer than any request over a socket. */
const unitUs = 0.1;
/** Each power of two is divided into so many buckets: a percentile is off by at most 1.6 %. */
const bitsOfStep = 5;
const stepsPerPower = 1 << bitsOfStep;
/** values beyond this count as this one: 429 s */
const mostUnits = 2 ** 32 - 1;

/** Counts latencies in buckets that grow with them, in the same room for any number of requests. */
export class LatencyHistogram {
  readonly #buckets = new Uint32Array((33 - bitsOfStep) * stepsPerPower);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  record(us: number): void {
    this.#count += 1;
    const index = bucketOf(Math.min(mostUnits, Math.max(0, Math.round(us / unitUs))));
    this.#buckets[index] = (this.#buckets[index] ?? 0) + 1;
  }

  /** The latency (us) that this share of all requests did not exceed; 0 when there was none. */
  quantileUs(share: number): number {
    const rank = Math.max(1, Math.ceil(share * this.#count));
    let seen = 0;
    for (let index = 0; index < this.#buckets.length; index++) {
      seen += this.#buckets[index] ?? 0;
      if (seen >= rank) return middleOf(index) * unitUs;
    }
    return 0;
  }
}

function bucketOf(units: number): number {
  if (units < stepsPerPower) return units;
  const shift = 31 - Math.clz32(units) - bitsOfStep;
  return (shift + 1) * stepsPerPower + ((units >>> shift) - stepsPerPower);
}

function middleOf(index: number): number {
  if (index < stepsPerPower) return index;
  const shift = Math.floor(index / stepsPerPower) - 1;
  const first = (stepsPerPower + (index % stepsPerPower)) * 2 ** shift;
  return first + (2 ** shift - 1) / 2;
}
