import { regionBytes } from '@stor/protocol';

/**
 * When this primary last wrote to each region, in seconds. A checkpoint makes every member sync all
 * that it has, so it is worth its price only when it can clear marks of regions that have come to
 * rest; this says whether there are any.
 */
export class RegionUse {
  /** second of the last write, counted from 1; 0: not written by this primary */
  #lastUse: Uint32Array;
  #now = 1;

  constructor(sizeBytes: number) {
    this.#lastUse = new Uint32Array(Math.ceil(sizeBytes / regionBytes));
  }

  grown(sizeBytes: number): void {
    const regions = Math.ceil(sizeBytes / regionBytes);
    if (regions <= this.#lastUse.length) return;
    const grown = new Uint32Array(regions);
    grown.set(this.#lastUse);
    this.#lastUse = grown;
  }

  /** Moves time on; `seconds` never goes back. */
  tick(seconds: number): void {
    this.#now = Math.max(this.#now, Math.floor(seconds));
  }

  touch(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / regionBytes);
    for (let r = Math.floor(offset / regionBytes); r <= last; r++) this.#lastUse[r] = this.#now;
  }

  /** the second of now, as `touch` notes it */
  get now(): number {
    return this.#now;
  }

  /** Regions that this primary has written in that second or later, ascending. */
  since(second: number): number[] {
    const regions: number[] = [];
    for (let region = 0; region < this.#lastUse.length; region++) {
      if ((this.#lastUse[region] ?? 0) >= second) regions.push(region);
    }
    return regions;
  }

  /** Regions written within the last `seconds`. */
  countSince(seconds: number): number {
    const since = Math.max(1, this.#now - seconds);
    let count = 0;
    for (const used of this.#lastUse) if (used >= since) count += 1;
    return count;
  }
}
