import { regionBytes } from '@stor/protocol';
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
import { RegionTable } from './region-table.ts';
import {
  pageHeaderBytes,
  type PagedTable,
  PageState,
  regionEntriesPerPage,
  regionEntryBytes,
  sealPage,
  startPage,
} from './table-page.ts';

const clean = 0;
const marked = 1;
/** Its mark is being cleared: still set on disk, but the next write must set it again. */
const retiring = 2;

/**
 * What one replica knows of itself, and of its regions, as the journal has made it durable: records
 * are applied here only when their commit is on disk, so a page written from here can never run
 * ahead of the journal. Where its chunks lie its lineage knows.
 */
export class ReplicaTables implements PagedTable {
  readonly kind = 'regions';
  /** never used again on this disk */
  readonly number: number;
  readonly lineage: number;
  identity: ReplicaIdentity;
  regionCount: number;
  readonly pages: PageState;
  highestEpoch = 0;
  setView: SetView | null = null;
  generation: Generation = noGeneration;
  /** changes up to this generation are not known region by region */
  historyAfter: Generation = noGeneration;
  suspect = false;
  damage: string | null = null;
  markedCount = 0;
  /** called when the replica has another size */
  resized: (sizeBytes: number) => void = () => {};

  readonly #regions = new RegionTable();
  #cut = 0;

  constructor(number: number, lineage: number, identity: ReplicaIdentity) {
    this.number = number;
    this.lineage = lineage;
    this.identity = identity;
    this.regionCount = Math.ceil(identity.sizeBytes / regionBytes);
    this.pages = new PageState(regionPagesOf(identity.sizeBytes));
  }

  get owner(): number {
    return this.number;
  }

  /** Grows; what a record repeated by a replay says has been done already. */
  #resize(sizeBytes: number): void {
    if (sizeBytes <= this.identity.sizeBytes) return;
    this.identity = { ...this.identity, sizeBytes };
    this.regionCount = Math.ceil(sizeBytes / regionBytes);
    this.pages.ensure(regionPagesOf(sizeBytes));
    this.resized(sizeBytes);
  }

  /** Pages of regions that it has memory for. */
  get knownPages(): number {
    return this.#regions.pageCount;
  }

  get cut(): number {
    return this.#cut;
  }

  /** True when a write to the region needs nothing durable first (I8). */
  isMarked(region: number): boolean {
    return this.#regions.mark(region) === marked;
  }

  /** Notes a write; a retire leaves the mark of regions used since the cut. */
  use(region: number): void {
    this.#regions.setLastUse(region, this.#cut);
  }

  takeCut(): void {
    this.#cut += 1;
  }

  marks(): number[] {
    return this.#where((region) => this.#regions.mark(region) !== clean);
  }

  /** Regions that are so, ascending; one of which nothing is known is clean, and was never stamped. */
  #where(isSo: (region: number) => boolean): number[] {
    const found: number[] = [];
    const end = this.regionCount;
    for (let r = this.#regions.next(0, end); r >= 0; r = this.#regions.next(r + 1, end)) {
      if (isSo(r)) found.push(r);
    }
    return found;
  }

  /** Null when changes since then are not known region by region. */
  regionsChangedSince(since: Generation): number[] | null {
    if (compareGenerations(since, this.historyAfter) <= 0) return null;
    if (compareGenerations(since, this.generation) > 0 && !this.#isNext(since)) return null;
    return this.#where((region) => {
      const epoch = this.#regions.stampEpoch(region);
      const later =
        epoch > since.epoch || (epoch === since.epoch && this.#regions.stampN(region) > since.n);
      return later || this.#regions.mark(region) !== clean;
    });
  }

  /** For a replica that was made equal to this one. */
  history(): GenerationHistory {
    return historyOf({
      after: this.historyAfter,
      regionCount: this.regionCount,
      next: (from) => this.#regions.next(from, this.regionCount),
      isMarked: (region) => this.#regions.mark(region) !== clean,
      stampOf: (region) => ({
        epoch: this.#regions.stampEpoch(region),
        n: this.#regions.stampN(region),
      }),
    });
  }

  /** One behind is safe: what the newer checkpoint cleared elsewhere is still marked here. */
  #isNext(since: Generation): boolean {
    return since.epoch === this.generation.epoch && since.n === this.generation.n + 1;
  }

  /** Marked regions not used since `cut` and not `busy`; from now on writers mark again. */
  startRetire(cut: number, busy: (region: number) => boolean): Uint32Array {
    const table = this.#regions;
    const regions = this.#where((region) => {
      return table.mark(region) === marked && table.lastUse(region) < cut && !busy(region);
    });
    for (const region of regions) table.setMark(region, retiring);
    return Uint32Array.from(regions);
  }

  apply(record: JournalRecord): void {
    switch (record.type) {
      // its lineage's
      case 'create':
      case 'create1':
      case 'delete':
      case 'chunks':
      case 'slots':
      case 'layers':
        break;
      case 'resize':
        this.#resize(record.sizeBytes);
        break;
      case 'mark':
        for (const region of record.regions) this.#setMark(region, marked);
        break;
      case 'retire':
        for (const region of record.regions) {
          this.#setMark(region, clean);
          this.#regions.setStamp(region, record.generation.epoch, record.generation.n);
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

  #stampLater(region: number, stamp: Generation): void {
    if (region >= this.regionCount) return;
    const epoch = this.#regions.stampEpoch(region);
    const n = this.#regions.stampN(region);
    if (compareGenerations({ epoch, n }, stamp) >= 0) return;
    this.#regions.setStamp(region, stamp.epoch, stamp.n);
    this.pages.touch(Math.floor(region / regionEntriesPerPage));
  }

  #setMark(region: number, state: number): void {
    if (region >= this.regionCount) return;
    const before = this.#regions.mark(region);
    if (before === clean && state !== clean) this.markedCount += 1;
    if (before !== clean && state === clean) this.markedCount -= 1;
    this.#regions.setMark(region, state);
    this.pages.touch(Math.floor(region / regionEntriesPerPage));
  }

  encodePage(page: number, lsn: number, crc32: Crc32): Uint8Array {
    const { bytes, view } = startPage(this.kind, page, this.number, lsn);
    const first = page * regionEntriesPerPage;
    const last = Math.min(first + regionEntriesPerPage, this.regionCount);
    for (let r = first; r < last; r++) {
      const at = pageHeaderBytes + (r - first) * regionEntryBytes;
      putU64(view, at, this.#regions.stampEpoch(r));
      putU64(view, at + 8, this.#regions.stampN(r));
      view.setUint32(at + 16, this.#regions.mark(r) === clean ? 0 : 1, true);
    }
    sealPage(bytes, crc32);
    return bytes;
  }

  loadPage(page: number, bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const first = page * regionEntriesPerPage;
    const last = Math.min(first + regionEntriesPerPage, this.regionCount);
    for (let r = first; r < last; r++) {
      const at = pageHeaderBytes + (r - first) * regionEntryBytes;
      this.#regions.setStamp(r, getU64(view, at), getU64(view, at + 8));
      this.#setMark(r, view.getUint32(at + 16, true) & 1);
    }
    this.pages.loaded(page);
  }

  image(): ReplicaImage {
    return {
      number: this.number,
      lineage: this.lineage,
      identity: this.identity,
      highestEpoch: this.highestEpoch,
      setView: this.setView,
      generation: this.generation,
      historyAfter: this.historyAfter,
      suspect: this.suspect,
      damage: this.damage,
      regionPages: this.pages.writtenCount(),
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
}

export function regionPagesOf(sizeBytes: number): number {
  return Math.ceil(Math.ceil(sizeBytes / regionBytes) / regionEntriesPerPage);
}
