import { chunkBytes, regionBytes } from '@stor/protocol';
import {
  compareGenerations,
  type Generation,
  type GenerationHistory,
  noGeneration,
  type ReplicaIdentity,
  type SetView,
} from '../../replica-store.ts';
import { historyOf } from '../replication/generation-history.ts';
import { type Crc32, getU64, putU64 } from './format.ts';
import type { ReplicaImage } from './image.ts';
import type { JournalRecord } from './journal-record.ts';
import {
  mapEntriesPerPage,
  pageHeaderBytes,
  regionEntriesPerPage,
  regionEntryBytes,
  sealPage,
  startPage,
  type TableKind,
} from './table-page.ts';

const clean = 0;
const marked = 1;
/** Its mark is being cleared: still set on disk, but the next write must set it again. */
const retiring = 2;

/** Which pages of one table differ from disk, and which were ever written. */
class PageState {
  readonly dirty: Uint8Array;
  readonly written: Uint8Array;

  constructor(pages: number) {
    this.dirty = new Uint8Array(pages);
    this.written = new Uint8Array(pages);
  }

  writtenCount(): number {
    let count = 0;
    for (const one of this.written) count += one;
    return count;
  }
}

/**
 * The metadata of one replica as the journal has made it durable: records are applied here only
 * when their commit is on disk, so a page written from here can never run ahead of the journal.
 */
export class ReplicaTables {
  readonly number: number;
  readonly identity: ReplicaIdentity;
  readonly chunkCount: number;
  readonly regionCount: number;
  /** slot + 1 of each chunk; 0: not allocated, reads as zeros */
  readonly slotOf: Uint32Array;
  readonly pages: Record<TableKind, PageState>;
  highestEpoch = 0;
  setView: SetView | null = null;
  generation: Generation = noGeneration;
  /** changes up to this generation are not known region by region */
  historyAfter: Generation = noGeneration;
  suspect = false;
  damage: string | null = null;
  allocatedChunks = 0;
  markedCount = 0;

  readonly #mark: Uint8Array;
  readonly #stampEpoch: Float64Array;
  readonly #stampN: Float64Array;
  /** number of the cut after which the region was last written */
  readonly #lastUse: Uint32Array;
  #cut = 0;

  constructor(number: number, identity: ReplicaIdentity) {
    this.number = number;
    this.identity = identity;
    this.chunkCount = Math.ceil(identity.sizeBytes / chunkBytes);
    this.regionCount = Math.ceil(identity.sizeBytes / regionBytes);
    this.slotOf = new Uint32Array(this.chunkCount);
    this.#mark = new Uint8Array(this.regionCount);
    this.#stampEpoch = new Float64Array(this.regionCount);
    this.#stampN = new Float64Array(this.regionCount);
    this.#lastUse = new Uint32Array(this.regionCount);
    this.pages = {
      map: new PageState(Math.ceil(this.chunkCount / mapEntriesPerPage)),
      regions: new PageState(Math.ceil(this.regionCount / regionEntriesPerPage)),
    };
  }

  get cut(): number {
    return this.#cut;
  }

  /** True when a write to the region needs nothing durable first (I8). */
  isMarked(region: number): boolean {
    return this.#mark[region] === marked;
  }

  /** Notes a write; a retire leaves the mark of regions used since the cut. */
  use(region: number): void {
    this.#lastUse[region] = this.#cut;
  }

  takeCut(): void {
    this.#cut += 1;
  }

  marks(): number[] {
    const regions: number[] = [];
    for (let r = 0; r < this.regionCount; r++) if (this.#mark[r] !== clean) regions.push(r);
    return regions;
  }

  /** Null when changes since then are not known region by region. */
  regionsChangedSince(since: Generation): number[] | null {
    if (compareGenerations(since, this.historyAfter) <= 0) return null;
    if (compareGenerations(since, this.generation) > 0 && !this.#isNext(since)) return null;
    const regions: number[] = [];
    for (let r = 0; r < this.regionCount; r++) {
      const epoch = this.#stampEpoch[r] ?? 0;
      const n = this.#stampN[r] ?? 0;
      const later = epoch > since.epoch || (epoch === since.epoch && n > since.n);
      if (later || this.#mark[r] !== clean) regions.push(r);
    }
    return regions;
  }

  /** For a replica that was made equal to this one. */
  history(): GenerationHistory {
    return historyOf({
      after: this.historyAfter,
      regionCount: this.regionCount,
      isMarked: (region) => this.#mark[region] !== clean,
      stampOf: (region) => ({
        epoch: this.#stampEpoch[region] ?? 0,
        n: this.#stampN[region] ?? 0,
      }),
    });
  }

  /** One behind is safe: what the newer checkpoint cleared elsewhere is still marked here. */
  #isNext(since: Generation): boolean {
    return since.epoch === this.generation.epoch && since.n === this.generation.n + 1;
  }

  /** Marked regions not used since `cut` and not `busy`; from now on writers mark again. */
  startRetire(cut: number, busy: (region: number) => boolean): Uint32Array {
    const regions: number[] = [];
    for (let r = 0; r < this.regionCount; r++) {
      if (this.#mark[r] !== marked || (this.#lastUse[r] ?? 0) >= cut || busy(r)) continue;
      this.#mark[r] = retiring;
      regions.push(r);
    }
    return Uint32Array.from(regions);
  }

  apply(record: JournalRecord): void {
    switch (record.type) {
      case 'create':
      case 'delete':
        break;
      case 'chunks':
        for (let i = 0; i + 1 < record.entries.length; i += 2) {
          this.#setChunk(record.entries[i] ?? 0, record.entries[i + 1] ?? 0);
        }
        break;
      case 'mark':
        for (const region of record.regions) this.#setMark(region, marked);
        break;
      case 'retire':
        for (const region of record.regions) {
          this.#setMark(region, clean);
          this.#stampEpoch[region] = record.generation.epoch;
          this.#stampN[region] = record.generation.n;
        }
        break;
      case 'generation':
        this.generation = record.generation;
        this.suspect = false;
        break;
      case 'adopt':
        this.generation = record.generation;
        this.historyAfter = record.after;
        this.suspect = false;
        break;
      case 'stamp':
        for (const region of record.regions) this.#stampLater(region, record.generation);
        break;
      case 'fence':
        this.highestEpoch = Math.max(this.highestEpoch, record.epoch);
        break;
      case 'view':
        this.setView = record.view;
        this.highestEpoch = Math.max(this.highestEpoch, record.view.epoch);
        break;
    }
  }

  #setChunk(chunk: number, slotPlusOne: number): void {
    if (chunk >= this.chunkCount) return;
    const before = this.slotOf[chunk] ?? 0;
    if (before === 0 && slotPlusOne !== 0) this.allocatedChunks += 1;
    if (before !== 0 && slotPlusOne === 0) this.allocatedChunks -= 1;
    this.slotOf[chunk] = slotPlusOne;
    this.pages.map.dirty[Math.floor(chunk / mapEntriesPerPage)] = 1;
  }

  #stampLater(region: number, stamp: Generation): void {
    if (region >= this.regionCount) return;
    const epoch = this.#stampEpoch[region] ?? 0;
    const n = this.#stampN[region] ?? 0;
    if (compareGenerations({ epoch, n }, stamp) >= 0) return;
    this.#stampEpoch[region] = stamp.epoch;
    this.#stampN[region] = stamp.n;
    this.pages.regions.dirty[Math.floor(region / regionEntriesPerPage)] = 1;
  }

  #setMark(region: number, state: number): void {
    if (region >= this.regionCount) return;
    const before = this.#mark[region] ?? clean;
    if (before === clean && state !== clean) this.markedCount += 1;
    if (before !== clean && state === clean) this.markedCount -= 1;
    this.#mark[region] = state;
    this.pages.regions.dirty[Math.floor(region / regionEntriesPerPage)] = 1;
  }

  encodePage(kind: TableKind, page: number, lsn: number, crc32: Crc32): Uint8Array {
    const { bytes, view } = startPage(kind, page, this.number, lsn);
    if (kind === 'map') {
      const first = page * mapEntriesPerPage;
      const last = Math.min(first + mapEntriesPerPage, this.chunkCount);
      for (let c = first; c < last; c++) {
        view.setUint32(pageHeaderBytes + (c - first) * 4, this.slotOf[c] ?? 0, true);
      }
    } else {
      const first = page * regionEntriesPerPage;
      const last = Math.min(first + regionEntriesPerPage, this.regionCount);
      for (let r = first; r < last; r++) {
        const at = pageHeaderBytes + (r - first) * regionEntryBytes;
        putU64(view, at, this.#stampEpoch[r] ?? 0);
        putU64(view, at + 8, this.#stampN[r] ?? 0);
        view.setUint32(at + 16, this.#mark[r] === clean ? 0 : 1, true);
      }
    }
    sealPage(bytes, crc32);
    return bytes;
  }

  /** Takes over a page that was verified; used at open, before any record is applied. */
  loadPage(kind: TableKind, page: number, bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (kind === 'map') {
      const first = page * mapEntriesPerPage;
      const last = Math.min(first + mapEntriesPerPage, this.chunkCount);
      for (let c = first; c < last; c++) {
        this.#setChunk(c, view.getUint32(pageHeaderBytes + (c - first) * 4, true));
      }
    } else {
      const first = page * regionEntriesPerPage;
      const last = Math.min(first + regionEntriesPerPage, this.regionCount);
      for (let r = first; r < last; r++) {
        const at = pageHeaderBytes + (r - first) * regionEntryBytes;
        this.#stampEpoch[r] = getU64(view, at);
        this.#stampN[r] = getU64(view, at + 8);
        this.#setMark(r, view.getUint32(at + 16, true) & 1);
      }
    }
    this.pages[kind].dirty[page] = 0;
    this.pages[kind].written[page] = 1;
  }

  image(): ReplicaImage {
    return {
      number: this.number,
      identity: this.identity,
      highestEpoch: this.highestEpoch,
      setView: this.setView,
      generation: this.generation,
      historyAfter: this.historyAfter,
      suspect: this.suspect,
      damage: this.damage,
      mapPages: this.pages.map.writtenCount(),
      regionPages: this.pages.regions.writtenCount(),
    };
  }

  loadImage(image: ReplicaImage): void {
    this.highestEpoch = image.highestEpoch;
    this.setView = image.setView;
    this.generation = image.generation;
    this.historyAfter = image.historyAfter;
    this.suspect = image.suspect;
    this.damage = image.damage;
  }

  /** A chunk pair that points to one slot, which nothing but damage can bring about; or null. */
  slotUsedTwice(): number | null {
    const seen = new Set<number>();
    for (const slotPlusOne of this.slotOf) {
      if (slotPlusOne === 0) continue;
      if (seen.has(slotPlusOne)) return slotPlusOne - 1;
      seen.add(slotPlusOne);
    }
    return null;
  }
}
