import type { Random } from '../random.ts';

const pageBytes = 4096;
/** What a disk writes whole even when the power fails. */
const sectorBytes = 512;

type Page = Uint8Array;
/** a page that takes no room */
const hole: Page = new Uint8Array(pageBytes);

/**
 * The content of one file as the page cache has it, as the disk has it, and every version of a page
 * in between that a power cut may leave behind.
 */
export class FaultyContent {
  /** bytes as a reader sees them */
  sizeBytes = 0;
  /** what the disk holds for certain */
  #durable = new Map<number, Page>();
  #durableSize = 0;
  /** syncs may end in another order than they began: an older one must not bring back a size */
  #syncs = 0;
  #durableSizeSync = 0;
  #cache = new Map<number, Page>();
  #unsynced = new Map<number, Page[]>();

  get pageCount(): number {
    return this.#cache.size;
  }

  /** Pages that a write of the range would add. */
  newPages(length: number, position: number): number {
    let count = 0;
    const last = Math.floor((position + length - 1) / pageBytes);
    for (let p = Math.floor(position / pageBytes); p <= last; p++) {
      if (!this.#cache.has(p)) count += 1;
    }
    return count;
  }

  read(target: Uint8Array, start: number, length: number, position: number): number {
    const got = Math.max(0, Math.min(length, this.sizeBytes - position));
    target.fill(0, start, start + length);
    for (let done = 0; done < got;) {
      const at = position + done;
      const page = Math.floor(at / pageBytes);
      const within = at % pageBytes;
      const n = Math.min(got - done, pageBytes - within);
      const bytes = this.#cache.get(page);
      if (bytes) target.set(bytes.subarray(within, within + n), start + done);
      done += n;
    }
    return got;
  }

  write(bytes: Uint8Array, start: number, length: number, position: number): void {
    for (let done = 0; done < length;) {
      const at = position + done;
      const page = Math.floor(at / pageBytes);
      const within = at % pageBytes;
      const n = Math.min(length - done, pageBytes - within);
      const before = this.#cache.get(page);
      const after = before ? before.slice() : new Uint8Array(pageBytes);
      after.set(bytes.subarray(start + done, start + done + n), within);
      this.#put(page, after);
      done += n;
    }
    this.sizeBytes = Math.max(this.sizeBytes, position + length);
  }

  /** Whole pages of the range read as zeros and take no room. */
  punch(position: number, length: number): void {
    const end = Math.floor((position + length) / pageBytes);
    for (let page = Math.ceil(position / pageBytes); page < end; page++) {
      if (this.#cache.has(page)) this.#put(page, hole);
    }
  }

  #put(page: number, bytes: Page): void {
    if (bytes === hole) this.#cache.delete(page);
    else this.#cache.set(page, bytes);
    const versions = this.#unsynced.get(page);
    if (versions) versions.push(bytes);
    else this.#unsynced.set(page, [bytes]);
  }

  truncate(sizeBytes: number): void {
    for (const page of [...this.#cache.keys()]) {
      const begin = page * pageBytes;
      if (begin + pageBytes <= sizeBytes) continue;
      const after = this.#cache.get(page)?.slice() ?? new Uint8Array(pageBytes);
      after.fill(0, Math.max(0, sizeBytes - begin));
      this.#put(page, after);
    }
    this.sizeBytes = sizeBytes;
  }

  /** What a sync that begins now will have made durable when it ends. */
  beginSync(): () => void {
    const pages = [...this.#unsynced].map(([page, versions]) => ({
      page,
      bytes: versions.at(-1),
    }));
    const size = this.sizeBytes;
    const sync = ++this.#syncs;
    return () => {
      for (const { page, bytes } of pages) {
        const versions = this.#unsynced.get(page);
        const at = versions && bytes ? versions.indexOf(bytes) : -1;
        if (!versions || !bytes || at < 0) continue;
        if (bytes === hole) this.#durable.delete(page);
        else this.#durable.set(page, bytes);
        versions.splice(0, at + 1);
        if (versions.length === 0) this.#unsynced.delete(page);
      }
      if (sync < this.#durableSizeSync) return;
      this.#durableSizeSync = sync;
      this.#durableSize = size;
    };
  }

  /** A failed sync: the cache keeps the bytes and calls them clean, the disk never gets them. */
  failSync(): void {
    this.#unsynced.clear();
  }

  /**
   * After a power cut every sector that was not synced holds any one of its versions; the file has
   * its old or its new length.
   */
  powerLoss(random: Random): void {
    for (const [page, versions] of this.#unsynced) {
      const candidates = [this.#durable.get(page) ?? new Uint8Array(pageBytes), ...versions];
      this.#durable.set(page, mix(candidates, random));
    }
    this.#unsynced.clear();
    if (random.next() < 0.5) this.#durableSize = this.sizeBytes;
    this.sizeBytes = this.#durableSize;
    this.#cache = new Map();
    for (const [page, bytes] of this.#durable) {
      const end = this.sizeBytes - page * pageBytes;
      if (end <= 0) this.#durable.delete(page);
      else {
        // what lies behind the end is zeros for good, also when the file grows again
        const kept = end >= pageBytes ? bytes : bytes.slice().fill(0, end);
        this.#durable.set(page, kept);
        this.#cache.set(page, kept);
      }
    }
  }

  /** For tests of damage: changes bytes on the disk and in the cache alike. */
  corrupt(position: number, bytes: Uint8Array): void {
    this.write(bytes, 0, bytes.length, position);
    this.beginSync()();
  }
}

function mix(candidates: readonly Page[], random: Random): Page {
  const pick = (): Page => {
    const chosen = candidates[Math.floor(random.next() * candidates.length)];
    return chosen ?? new Uint8Array(pageBytes);
  };
  const kind = random.next();
  // a page is often written back whole or not at all; torn inside is the rarer, harder case
  if (kind < 0.3) return (candidates[0] ?? pick()).slice();
  if (kind < 0.6) return pick().slice();
  const page = new Uint8Array(pageBytes);
  for (let at = 0; at < pageBytes; at += sectorBytes) {
    page.set(pick().subarray(at, at + sectorBytes), at);
  }
  return page;
}
