import { isUnit, unitBytes, u64 } from './bytes.ts';
import { recordTypes, type JournalRecord } from './journal.ts';

const pageHeaderBytes = 32;
const slotEntryBytes = 8;
const layerEntryBytes = 64;
const layerMask = 0xffffff;
const holeFlag = 0x2000000;

/** What is needed to find a chunk: the layer below, and whose head it is. */
interface Layer {
  isHead: boolean;
  parent: number;
  replica: number;
}

/** Pages of a table as of the last checkpoint; null: made after it, so they say nothing. */
export interface TablePages {
  file: Buffer;
  written: number;
}

/** Who owns the slots of a data file: the tables' pages, then the journal's records. */
export class Lineage {
  readonly #slots = new Map<number, { chunk: number; word: number }>();
  readonly #layers = new Map<number, Layer>();
  readonly #problems: string[];

  constructor(
    number: number,
    tables: { slots: TablePages; layers: TablePages } | null,
    records: readonly JournalRecord[],
    problems: string[],
  ) {
    this.#problems = problems;
    if (tables) {
      this.#readPages(tables.slots, 'StorSlot', number, slotEntryBytes, (slot, entry) => {
        this.#setSlot(slot, entry.readUInt32LE(0), entry.readUInt32LE(4));
      });
      this.#readPages(tables.layers, 'StorLayr', number, layerEntryBytes, (place, entry) => {
        this.#setLayer(place, entry);
      });
    }
    for (const record of records) this.#apply(record, number);
  }

  #readPages(
    table: TablePages,
    magic: string,
    owner: number,
    entryBytes: number,
    visit: (index: number, entry: Buffer) => void,
  ): void {
    const perPage = Math.floor((unitBytes - pageHeaderBytes) / entryBytes);
    let found = 0;
    for (let page = 0; (page + 1) * 2 * unitBytes <= table.file.length; page += 1) {
      const copies = [0, 1].map((copy) =>
        table.file.subarray((page * 2 + copy) * unitBytes, (page * 2 + copy + 1) * unitBytes),
      );
      const valid = copies.filter(
        (copy) =>
          isUnit(copy, magic) && copy.readUInt32LE(16) === page && copy.readUInt32LE(20) === owner,
      );
      valid.sort((a, b) => u64(b, 24) - u64(a, 24));
      const [newest] = valid;
      // Never written, or torn at its first write: then the journal has all of it.
      if (!newest) continue;
      found += 1;
      for (let i = 0; i < perPage; i += 1) {
        const at = pageHeaderBytes + i * entryBytes;
        visit(page * perPage + i, newest.subarray(at, at + entryBytes));
      }
    }
    if (found < table.written) {
      this.#problems.push(`${table.written - found} pages ${magic} are damaged in both copies`);
    }
  }

  #setSlot(slot: number, chunk: number, word: number): void {
    if (word === 0) this.#slots.delete(slot);
    else this.#slots.set(slot, { chunk, word });
  }

  #setLayer(place: number, entry: Buffer): void {
    const kind = entry.readUInt32LE(0);
    if (kind === 0) {
      this.#layers.delete(place);
      return;
    }
    const [parent, replica] = [entry.readUInt32LE(4), entry.readUInt32LE(8)];
    this.#layers.set(place, { isHead: kind === 1, parent, replica });
  }

  #apply({ type, owner, body }: JournalRecord, number: number): void {
    if (type === recordTypes.create) {
      const created = JSON.parse(body.toString('utf8')) as {
        lineage: number;
        head: { place: number; parent: number; replica: number };
      };
      if (created.lineage !== number) return;
      const { place, parent, replica } = created.head;
      this.#layers.set(place, { isHead: true, parent, replica });
    }
    if (owner !== number) return;
    if (type === recordTypes.slots) {
      for (let at = 0; at < body.length; at += 12) {
        const [chunk, word] = [body.readUInt32LE(at + 4), body.readUInt32LE(at + 8)];
        this.#setSlot(body.readUInt32LE(at), chunk, word);
      }
    }
    if (type === recordTypes.layers) {
      for (let at = 0; at < body.length; at += 8 + layerEntryBytes) {
        this.#setLayer(body.readUInt32LE(at), body.subarray(at + 8, at + 8 + layerEntryBytes));
      }
    }
  }

  /** Slot + 1 of each chunk of the replica's live image, 0 for a chunk that has none. */
  mapOf(replica: number, chunks: number): Uint32Array {
    const map = new Uint32Array(chunks);
    const heads = [...this.#layers].filter(
      ([, layer]) => layer.isHead && layer.replica === replica,
    );
    if (heads.length !== 1) this.#problems.push(`the replica has ${heads.length} heads`);
    const nearness = new Map<number, number>();
    for (let at = heads[0]?.[0] ?? 0; at !== 0 && !nearness.has(at);) {
      nearness.set(at, nearness.size);
      const layer = this.#layers.get(at);
      if (!layer) this.#problems.push(`layer ${at} is missing`);
      at = layer?.parent ?? 0;
    }
    const best = new Map<number, number>();
    for (const [slot, { chunk, word }] of this.#slots) {
      const place = word & layerMask;
      if (!this.#layers.has(place)) this.#problems.push(`slot ${slot} has no layer`);
      const near = nearness.get(place);
      if (near === undefined || chunk >= chunks) continue;
      const other = best.get(chunk) ?? Infinity;
      if (near === other) this.#problems.push(`chunk ${chunk} has two slots in layer ${place}`);
      if (near >= other) continue;
      best.set(chunk, near);
      map[chunk] = (word & holeFlag) !== 0 ? 0 : slot + 1;
    }
    return map;
  }
}
