/** What only the first on-disk format had: one map per replica, from chunk to slot. */
import { chunkBytes } from '@stor/protocol';
import type { Generation, ReplicaIdentity, SetView } from '../../replica-store.ts';
import { type Crc32, unitBytes } from './format.ts';
import { decodeImageUnit } from './image.ts';
import type { JournalRecord } from './journal-record.ts';
import { pageHeaderBytes, type PagedTable, PageState } from './table-page.ts';

export interface ReplicaImage1 {
  number: number;
  identity: ReplicaIdentity;
  highestEpoch: number;
  setView: SetView | null;
  generation: Generation;
  historyAfter: Generation;
  suspect: boolean;
  damage: string | null;
  mapPages: number;
  regionPages: number;
}

export interface StoreImage1 {
  serial: number;
  appliedLsn: number;
  cleanShutdown: boolean;
  bootId: string;
  mountIdentity: string;
  nextReplicaNumber: number;
  replicas: ReplicaImage1[];
  deleting: string[];
}

/** Null when the file is no valid image of the first format. */
export function decodeImage1(file: Uint8Array, crc32: Crc32): StoreImage1 | null {
  const unit = decodeImageUnit(file, crc32);
  if (unit?.version !== 1) return null;
  const body = unit.body as Omit<StoreImage1, 'serial' | 'appliedLsn'>;
  return { serial: unit.serial, appliedLsn: unit.appliedLsn, ...body };
}

/** slot + 1 of a chunk as u32; 0: not allocated */
const mapEntryBytes = 4;
const mapEntriesPerPage = Math.floor((unitBytes - pageHeaderBytes) / mapEntryBytes);

/** The table `map` of one replica, read only. */
export class MapTable implements PagedTable {
  readonly kind = 'map';
  readonly owner: number;
  readonly pages: PageState;
  readonly slotOf: Uint32Array;

  constructor(owner: number, sizeBytes: number) {
    this.owner = owner;
    this.slotOf = new Uint32Array(Math.ceil(sizeBytes / chunkBytes));
    this.pages = new PageState(Math.ceil(this.slotOf.length / mapEntriesPerPage));
  }

  apply(record: JournalRecord): void {
    if (record.type !== 'chunks') return;
    const { entries } = record;
    for (let i = 0; i + 1 < entries.length; i += 2) {
      const chunk = entries[i] ?? 0;
      if (chunk < this.slotOf.length) this.slotOf[chunk] = entries[i + 1] ?? 0;
    }
  }

  loadPage(page: number, bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const first = page * mapEntriesPerPage;
    const last = Math.min(first + mapEntriesPerPage, this.slotOf.length);
    for (let chunk = first; chunk < last; chunk++) {
      const at = pageHeaderBytes + (chunk - first) * mapEntryBytes;
      this.slotOf[chunk] = view.getUint32(at, true);
    }
  }

  encodePage(): Uint8Array {
    throw new Error('maps are not written any more');
  }

  /** A slot that two chunks point to, which nothing but damage can bring about; or null. */
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
