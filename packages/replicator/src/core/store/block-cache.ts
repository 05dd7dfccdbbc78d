import { blockBytes, regionBytes } from '@stor/protocol';

import { PagedNumbers } from './paged-numbers.ts';

const blocksPerRegion = regionBytes / blockBytes;
const bytesPerRegion = blocksPerRegion / 8;
/**
 * Blocks whose pages are likely to have left the cache with that of one of them: 64 KiB, a large folio or what
 * the kernel reads ahead. A system that takes back memory little by little takes single folios from anywhere, and a
 * region that was forgotten for each would soon be forgotten always.
 */
const neighbours = 16;

/**
 * Which blocks are likely to be in the page cache, because this process wrote or read them. One bit
 * per block, kept for at most `maxRegions` regions; when they run out all is forgotten and learnt
 * again.
 */
export class HotBlocks {
  #maxRegions: number;
  readonly #limit: number;
  readonly #place: PagedNumbers;
  #bits: Uint8Array;
  #used = 0;

  constructor(regionCount: number, maxRegions: number) {
    this.#limit = maxRegions;
    this.#maxRegions = Math.min(regionCount, maxRegions);
    this.#place = new PagedNumbers(regionCount);
    this.#bits = new Uint8Array(Math.min(this.#maxRegions, 8) * bytesPerRegion);
  }

  /** The replica has more regions now. */
  grow(regionCount: number): void {
    if (regionCount <= this.#place.length) return;
    this.#place.grow(regionCount);
    this.#maxRegions = Math.min(regionCount, this.#limit);
  }

  clear(): void {
    this.#place.clear();
    this.#bits.fill(0);
    this.#used = 0;
  }

  /** Forgets these blocks and those that lie next to them. */
  drop(firstBlock: number, count: number): void {
    const last = Math.floor((firstBlock + count - 1) / neighbours);
    for (let group = Math.floor(firstBlock / neighbours); group <= last; group++) {
      const first = group * neighbours;
      // the place stays the region's own: places are only given back all at once
      const place = this.#place.get(Math.floor(first / blocksPerRegion));
      if (place === 0) continue;
      const at = (place - 1) * bytesPerRegion + ((first % blocksPerRegion) >> 3);
      this.#bits.fill(0, at, at + neighbours / 8);
    }
  }

  add(firstBlock: number, count: number): void {
    for (let block = firstBlock; block < firstBlock + count; block++) {
      const region = Math.floor(block / blocksPerRegion);
      let place = this.#place.get(region);
      if (place === 0) place = this.#claim(region);
      const bit = block % blocksPerRegion;
      const at = (place - 1) * bytesPerRegion + (bit >> 3);
      this.#bits[at] = (this.#bits[at] ?? 0) | (1 << (bit & 7));
    }
  }

  has(block: number): boolean {
    const place = this.#place.get(Math.floor(block / blocksPerRegion));
    if (place === 0) return false;
    const bit = block % blocksPerRegion;
    return ((this.#bits[(place - 1) * bytesPerRegion + (bit >> 3)] ?? 0) & (1 << (bit & 7))) !== 0;
  }

  /** All of them: a large write need not care how their pages come into the cache. */
  hasAll(firstBlock: number, count: number): boolean {
    for (let block = firstBlock; block < firstBlock + count; block++) {
      if (!this.has(block)) return false;
    }
    return true;
  }

  #claim(region: number): number {
    if (this.#used === this.#maxRegions) this.clear();
    this.#used += 1;
    if (this.#used * bytesPerRegion > this.#bits.length) {
      const larger = new Uint8Array(
        Math.min(this.#maxRegions * bytesPerRegion, this.#bits.length * 2),
      );
      larger.set(this.#bits);
      this.#bits = larger;
    }
    this.#place.put(region, this.#used);
    return this.#used;
  }
}

/** An inline read that took longer than this may have waited for the disk (ms). */
const slowReadMs = 0.2;
/** One that took so long did, whatever the counter says: not every file system counts (ms). */
const surelyColdReadMs = 20;
/**
 * Cold reads among so many inline ones that mean more than a few pages gone. Each has held up the lane for some
 * 150 us; a read in the pool takes 30 us more of it than one inline, so below a fifth they cost less than forgetting.
 */
const coldReadsToForget = 12;
const coldReadWindow = 64;

/** What an inline read tells about the page cache. */
export type ReadWarmth = 'warm' | 'cold' | 'all cold';

/**
 * Judges inline reads. A slow one has waited for the disk, or its thread had to wait for a core: the
 * bytes that the thread has fetched from disks tell the two apart, and are asked for after slow reads
 * only. Where they are not known, slow counts as cold. One cold read makes its neighbours suspect; many
 * close together mean that the page cache lost what we rely on.
 */
export class ColdReads {
  readonly #readBytes: () => number | null;
  #lastReadBytes: number | null;
  #reads = 0;
  #cold = 0;

  /** `readBytes`: fetched from disks by this thread so far; null when nobody knows. */
  constructor(readBytes: () => number | null) {
    this.#readBytes = readBytes;
    this.#lastReadBytes = readBytes();
  }

  note(tookMs: number): ReadWarmth {
    this.#reads += 1;
    if (this.#reads >= coldReadWindow) this.#reads = this.#cold = 0;
    if (tookMs <= slowReadMs || !this.#hasWaited(tookMs)) return 'warm';
    this.#cold += 1;
    if (this.#cold < coldReadsToForget) return 'cold';
    this.#reads = this.#cold = 0;
    return 'all cold';
  }

  #hasWaited(tookMs: number): boolean {
    const last = this.#lastReadBytes;
    const now = this.#readBytes();
    this.#lastReadBytes = now;
    return now === null || now !== last || tookMs > surelyColdReadMs;
  }
}
