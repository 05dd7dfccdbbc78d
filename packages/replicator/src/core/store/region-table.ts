/** Regions of one page: 1 GiB of a volume. */
const pageBits = 8;
const pageRegions = 1 << pageBits;
const pageMask = pageRegions - 1;

class RegionPage {
  /** 0 when nothing was said */
  readonly mark = new Uint8Array(pageRegions);
  readonly stampEpoch = new Float64Array(pageRegions);
  readonly stampN = new Float64Array(pageRegions);
  /** number of the cut after which the region was last written */
  readonly lastUse = new Uint32Array(pageRegions);
}

/**
 * What is known of each region, in pages that are there once something is known: of 65,536 regions of a segment of
 * 256 GiB few may ever have been written. Elsewhere everything is 0.
 */
export class RegionTable {
  #pages: (RegionPage | undefined)[] = [];

  /** Pages that it has memory for. */
  get pageCount(): number {
    return this.#pages.reduce((count, page) => count + (page ? 1 : 0), 0);
  }

  mark(region: number): number {
    return this.#pages[region >> pageBits]?.mark[region & pageMask] ?? 0;
  }
  stampEpoch(region: number): number {
    return this.#pages[region >> pageBits]?.stampEpoch[region & pageMask] ?? 0;
  }
  stampN(region: number): number {
    return this.#pages[region >> pageBits]?.stampN[region & pageMask] ?? 0;
  }
  lastUse(region: number): number {
    return this.#pages[region >> pageBits]?.lastUse[region & pageMask] ?? 0;
  }

  setMark(region: number, mark: number): void {
    if (mark === this.mark(region)) return;
    this.#page(region).mark[region & pageMask] = mark;
  }
  setStamp(region: number, epoch: number, n: number): void {
    if (epoch === this.stampEpoch(region) && n === this.stampN(region)) return;
    const page = this.#page(region);
    page.stampEpoch[region & pageMask] = epoch;
    page.stampN[region & pageMask] = n;
  }
  setLastUse(region: number, cut: number): void {
    this.#page(region).lastUse[region & pageMask] = cut;
  }

  /** The first region at or after `from` of which something may be known, below `end`; -1: there is none. */
  next(from: number, end: number): number {
    for (let region = from; region < end;) {
      if (this.#pages[region >> pageBits] !== undefined) return region;
      region = ((region >> pageBits) + 1) << pageBits;
    }
    return -1;
  }

  #page(region: number): RegionPage {
    let page = this.#pages[region >> pageBits];
    if (page === undefined) {
      page = new RegionPage();
      this.#pages[region >> pageBits] = page;
    }
    return page;
  }
}
