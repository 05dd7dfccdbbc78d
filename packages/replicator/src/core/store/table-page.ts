import {
  type Crc32,
  getU64,
  putU64,
  sealUnit,
  startUnit,
  unitBytes,
  unitIsValid,
} from './format.ts';

/**
 * Tables are arrays of fixed records cut into pages: `slots` and `layers` of a lineage, `regions` of a
 * replica. `map` is the first format's.
 */
export type TableKind = 'slots' | 'layers' | 'regions' | 'map';
const magics: Record<TableKind, string> = {
  slots: 'StorSlot',
  layers: 'StorLayr',
  regions: 'StorRegP',
  map: 'StorMapP',
};

/** unit header, page u32 at 16, number of the owner u32 at 20, LSN u64 at 24; records from 32 */
export const pageHeaderBytes = 32;
/** chunk u32, word u32: flags and layer */
export const slotEntryBytes = 8;
export const slotEntriesPerPage = Math.floor((unitBytes - pageHeaderBytes) / slotEntryBytes);
export const layerEntryBytes = 64;
export const layerEntriesPerPage = Math.floor((unitBytes - pageHeaderBytes) / layerEntryBytes);
/** stamp epoch u64, stamp n u64, flags u32 (bit 0: marked), zero u32 */
export const regionEntryBytes = 24;
export const regionEntriesPerPage = Math.floor((unitBytes - pageHeaderBytes) / regionEntryBytes);
/** Each page has two copies side by side, written and synced one after the other. */
export const pageCopies = 2;
export const pagePairBytes = unitBytes * pageCopies;

export function startPage(
  kind: TableKind,
  page: number,
  owner: number,
  lsn: number,
): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(unitBytes);
  const view = startUnit(bytes, magics[kind]);
  view.setUint32(16, page, true);
  view.setUint32(20, owner, true);
  putU64(view, 24, lsn);
  return { bytes, view };
}

export function sealPage(bytes: Uint8Array, crc32: Crc32): void {
  sealUnit(bytes, crc32);
}

/** The LSN of a page that is valid and in its own place, or null. */
export function pageLsn(
  bytes: Uint8Array,
  kind: TableKind,
  page: number,
  owner: number,
  crc32: Crc32,
): number | null {
  if (!unitIsValid(bytes, magics[kind], crc32)) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(16, true) !== page || view.getUint32(20, true) !== owner) return null;
  return getU64(view, 24);
}

/** Which pages of a table differ from disk, and which were ever written. Grows with the table. */
export class PageState {
  dirty: Uint8Array;
  written: Uint8Array;

  constructor(pages: number) {
    this.dirty = new Uint8Array(pages);
    this.written = new Uint8Array(pages);
  }

  ensure(pages: number): void {
    if (pages <= this.dirty.length) return;
    const dirty = new Uint8Array(Math.max(pages, this.dirty.length * 2));
    dirty.set(this.dirty);
    const written = new Uint8Array(dirty.length);
    written.set(this.written);
    this.dirty = dirty;
    this.written = written;
  }

  touch(page: number): void {
    this.ensure(page + 1);
    this.dirty[page] = 1;
  }

  loaded(page: number): void {
    this.ensure(page + 1);
    this.dirty[page] = 0;
    this.written[page] = 1;
  }

  writtenCount(): number {
    let count = 0;
    for (const one of this.written) count += one;
    return count;
  }
}

/** A table as `TableFile` reads and writes it. */
export interface PagedTable {
  readonly kind: TableKind;
  /** number of the lineage or replica that it belongs to */
  readonly owner: number;
  readonly pages: PageState;
  encodePage(page: number, lsn: number, crc32: Crc32): Uint8Array;
  /** Takes over a page that was verified; used at open, before any record is applied. */
  loadPage(page: number, bytes: Uint8Array): void;
}
