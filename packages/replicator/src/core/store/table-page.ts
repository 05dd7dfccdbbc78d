import {
  type Crc32,
  getU64,
  putU64,
  sealUnit,
  startUnit,
  unitBytes,
  unitIsValid,
} from './format.ts';

/** The two tables of a replica, each an array of fixed records cut into pages. */
export type TableKind = 'map' | 'regions';
const magics: Record<TableKind, string> = { map: 'StorMapP', regions: 'StorRegP' };

/** unit header, page number u32 at 16, replica number u32 at 20, LSN u64 at 24; records from 32 */
export const pageHeaderBytes = 32;
export const mapEntryBytes = 4;
export const mapEntriesPerPage = Math.floor((unitBytes - pageHeaderBytes) / mapEntryBytes);
/** stamp epoch u64, stamp n u64, flags u32 (bit 0: marked), zero u32 */
export const regionEntryBytes = 24;
export const regionEntriesPerPage = Math.floor((unitBytes - pageHeaderBytes) / regionEntryBytes);
/** Each page has two copies side by side, written and synced one after the other. */
export const pageCopies = 2;
export const pagePairBytes = unitBytes * pageCopies;

export function startPage(
  kind: TableKind,
  page: number,
  replica: number,
  lsn: number,
): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(unitBytes);
  const view = startUnit(bytes, magics[kind]);
  view.setUint32(16, page, true);
  view.setUint32(20, replica, true);
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
  replica: number,
  crc32: Crc32,
): number | null {
  if (!unitIsValid(bytes, magics[kind], crc32)) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(16, true) !== page || view.getUint32(20, true) !== replica) return null;
  return getU64(view, 24);
}
