import type { Crc32 } from './format.ts';
import {
  pageHeaderBytes,
  type PagedTable,
  PageState,
  sealPage,
  slotEntriesPerPage,
  slotEntryBytes,
  startPage,
} from './table-page.ts';

/** A slot's word is its layer's place and these flags; 0: the slot belongs to nobody. */
export const layerMask = 0x00ffffff;
/** Copied on write and not synced since: after a crash of the host it never was. */
export const pendingFlag = 0x01000000;
/** Holds no data: the chunk reads as zeros, whatever the layers below have. */
export const holeFlag = 0x02000000;
const firstSlots = 1024;

/** To whom each slot of a lineage belongs: to exactly one chunk of one layer, or to nobody. */
export class SlotTable implements PagedTable {
  readonly kind = 'slots';
  readonly owner: number;
  readonly pages = new PageState(0);
  chunks = new Uint32Array(firstSlots);
  words = new Uint32Array(firstSlots);
  /** no slot from here on has an owner, or had one since the table was opened */
  end = 0;

  constructor(owner: number) {
    this.owner = owner;
  }

  set(slot: number, chunk: number, word: number): void {
    if (slot >= this.words.length) this.#grow(slot + 1);
    this.chunks[slot] = chunk;
    this.words[slot] = word;
    if (slot >= this.end) this.end = slot + 1;
    this.pages.touch(Math.floor(slot / slotEntriesPerPage));
  }

  #grow(slots: number): void {
    const size = Math.max(slots, this.words.length * 2);
    const chunks = new Uint32Array(size);
    chunks.set(this.chunks);
    const words = new Uint32Array(size);
    words.set(this.words);
    this.chunks = chunks;
    this.words = words;
  }

  encodePage(page: number, lsn: number, crc32: Crc32): Uint8Array {
    const { bytes, view } = startPage(this.kind, page, this.owner, lsn);
    const first = page * slotEntriesPerPage;
    const last = Math.min(first + slotEntriesPerPage, this.end);
    for (let slot = first; slot < last; slot++) {
      const at = pageHeaderBytes + (slot - first) * slotEntryBytes;
      view.setUint32(at, this.chunks[slot] ?? 0, true);
      view.setUint32(at + 4, this.words[slot] ?? 0, true);
    }
    sealPage(bytes, crc32);
    return bytes;
  }

  loadPage(page: number, bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const first = page * slotEntriesPerPage;
    for (let i = 0; i < slotEntriesPerPage; i++) {
      const at = pageHeaderBytes + i * slotEntryBytes;
      const word = view.getUint32(at + 4, true);
      if (word !== 0) this.set(first + i, view.getUint32(at, true), word);
    }
    this.pages.loaded(page);
  }
}
