import { regionBytes } from '@stor/protocol';

import { PagedNumbers } from '../store/paged-numbers.ts';

/**
 * When this primary last wrote to each region, in seconds. A checkpoint makes every member sync all
 * that it has, so it is worth its price only when it can clear marks of regions that have come to
 * rest; this says whether there are any.
 */
export class RegionUse {
  /** second of the last write, counted from 1; 0: not written by this primary */
  readonly #lastUse: PagedNumbers;
  /** of the last write to any */
  #latest = 0;
  #now = 1;

  constructor(sizeBytes: number) {
    this.#lastUse = new PagedNumbers(Math.ceil(sizeBytes / regionBytes));
  }

  grown(sizeBytes: number): void {
    this.#lastUse.grow(Math.ceil(sizeBytes / regionBytes));
  }

  /** Moves time on; `seconds` never goes back. */
  tick(seconds: number): void {
    this.#now = Math.max(this.#now, Math.floor(seconds));
  }

  touch(offset: number, length: number): void {
    this.#latest = this.#now;
    const last = Math.floor((offset + length - 1) / regionBytes);
    for (let r = Math.floor(offset / regionBytes); r <= last; r++) this.#lastUse.put(r, this.#now);
  }

  /** the second of now, as `touch` notes it */
  get now(): number {
    return this.#now;
  }

  /** Regions that this primary has written in that second or later, ascending. */
  since(second: number): number[] {
    const regions: number[] = [];
    if (this.#latest < second) return regions;
    for (let r = this.#lastUse.next(0); r >= 0; r = this.#lastUse.next(r + 1)) {
      if (this.#lastUse.get(r) >= second) regions.push(r);
    }
    return regions;
  }

  /** Regions written within the last `seconds`. */
  countSince(seconds: number): number {
    return this.since(Math.max(1, this.#now - seconds)).length;
  }
}
