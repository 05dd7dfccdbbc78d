import type { Clock } from '@stor/runtime';
import type { JournalRecord } from '../core/store/journal-record.ts';
import type { LineageTables } from '../core/store/lineage-tables.ts';
import { SlotAllocator } from '../core/store/slot-allocator.ts';
import { holeFlag, layerMask, pendingFlag } from '../core/store/slot-table.ts';
import type { SumsCache } from '../core/store/sums-cache.ts';
import { layerEntriesPerPage, slotEntriesPerPage } from '../core/store/table-page.ts';
import { InFlight } from './in-flight.ts';
import type { IoPool } from './io-pool.ts';
import type { Journal } from './journal.ts';
import type { LineageFiles } from './lineage-directory.ts';
import { type FailedStep, isLackOfSpace } from './replica-failure.ts';
import { SlotFiles } from './slot-files.ts';
import { missingFiles, slotsOf } from './slot-inventory.ts';
import { SlotSupply } from './slot-supply.ts';
import type { SpaceAccount } from './space-account.ts';

export interface LineageParts {
  tables: LineageTables;
  /** null when they could not be opened or hold damaged metadata: then its replicas have failed */
  files: LineageFiles | null;
  journal: Journal;
  pool: IoPool;
  sumsCache: SumsCache;
  space: SpaceAccount;
  clock: Clock;
  /** numbers in one journal record */
  maxRecordNumbers: number;
  /** a write or sync of its own failed */
  failed: (cause: unknown, step: FailedStep) => void;
}

/** Layers that may be on their way at once. */
const layersAhead = 64;
/** A table that has room for fewer than these grows in good time: taking a snapshot holds writes. */
const layersInGoodTime = layersAhead + 32;

/** Slot, chunk and word: one entry of a `slots` record. */
export type SlotEntry = readonly [slot: number, chunk: number, word: number];

/** A data file with its checksums, and who owns its slots. */
export class Lineage {
  readonly tables: LineageTables;
  readonly slots: SlotFiles;
  readonly supply: SlotSupply;
  readonly inFlight = new InFlight();
  /** replicas in it, those on their way in counted, those on their way out not */
  replicaCount = 0;

  readonly #parts: LineageParts;

  constructor(parts: LineageParts) {
    this.#parts = parts;
    this.tables = parts.tables;
    const { files, tables } = parts;
    const { sumsCache: cache, pool, clock } = parts;
    this.slots = new SlotFiles({
      ...{ files: files ?? missingFiles, lineage: tables.number, cache, pool, clock },
      syncFailed: (error) => {
        parts.failed(error, 'sync');
      },
      writeFailed: (error) => {
        parts.failed(error, 'write');
      },
    });
    this.supply = new SlotSupply({
      slots: files ? slotsOf(tables.slots, files) : new SlotAllocator(0, []),
      files: this.slots,
      space: parts.space,
      inFlight: this.inFlight,
      clock: parts.clock,
      failed: parts.failed,
    });
    tables.freed = (slot, wasHole) => {
      if (wasHole) this.supply.untake([slot]);
      else this.supply.free(slot);
    };
  }

  get number(): number {
    return this.tables.number;
  }

  get folder(): string {
    return this.tables.folder;
  }

  get isWhole(): boolean {
    return this.#parts.files !== null;
  }

  /** for the account of space */
  get usage(): { slots: number; allocatedBytes: number } {
    const { data, sums } = this.slots;
    const allocatedBytes = data.size().allocatedBytes + sums.size().allocatedBytes;
    const empty = this.supply.punched + this.tables.holeCount;
    return { slots: Math.max(0, this.supply.highWater - empty), allocatedBytes };
  }

  /** Appends a record that changes the lineage; what follows is decided as if it had been applied. */
  append(record: JournalRecord): number {
    this.tables.plan(record);
    return this.#parts.journal.append(record);
  }

  /** Everything appended until now is applied. */
  settled(): Promise<void> {
    return this.#parts.journal.durable(this.#parts.journal.lastLsn);
  }

  durable(lsn: number): Promise<void> {
    return this.#parts.journal.durable(lsn);
  }

  /** Slots that read as zeros, with room for them in the table. */
  async take(count: number): Promise<number[]> {
    const slots = await this.supply.take(count);
    try {
      await this.#ensureSlots(slots);
    } catch (error) {
      this.supply.untake(slots);
      throw error;
    }
    return slots;
  }

  /** Numbers for holes, with room for them in the table. */
  async takeHoles(count: number): Promise<number[]> {
    if (count === 0) return [];
    const slots = this.supply.takeHoles(count);
    try {
      await this.#ensureSlots(slots);
    } catch (error) {
      this.supply.untake(slots);
      throw error;
    }
    return slots;
  }

  async #ensureSlots(slots: readonly number[]): Promise<void> {
    let last = 0;
    for (const slot of slots) last = Math.max(last, slot);
    const pages = Math.floor(last / slotEntriesPerPage) + 1;
    await this.#parts.files?.slots.ensure(pages, this.#parts.pool, this.#parts.failed);
  }

  /** Room for one more layer in its table, and for `ahead` more that may be on their way. */
  async ensureLayer(ahead = layersAhead): Promise<void> {
    // places are used again, so there are never more than the layers and those on their way
    const places = this.tables.freePlace() + ahead;
    const pages = Math.floor(places / layerEntriesPerPage) + 1;
    await this.#parts.files?.layers.ensure(pages, this.#parts.pool, this.#parts.failed);
  }

  /**
   * Makes room for the layers of the next snapshots, when nobody waits for it: all segments of a volume
   * run short of it at the same time. Lack of space is for the next one to tell that needs it.
   */
  async growInGoodTime(): Promise<void> {
    try {
      await this.ensureLayer(layersInGoodTime);
    } catch (cause) {
      if (!isLackOfSpace(cause)) throw cause;
    }
  }

  /** Each group stays in one record: it takes effect as a whole or not at all. */
  appendSlots(groups: readonly (readonly SlotEntry[])[]): number {
    const limit = Math.floor(this.#parts.maxRecordNumbers / 3) * 3;
    let lsn = 0;
    let numbers: number[] = [];
    const leave = (): void => {
      if (numbers.length === 0) return;
      const entries = Uint32Array.from(numbers);
      lsn = this.append({ type: 'slots', lineage: this.number, entries });
      numbers = [];
    };
    for (const group of groups) {
      if (numbers.length + group.length * 3 > limit) leave();
      for (const entry of group) numbers.push(...entry);
    }
    leave();
    return lsn;
  }

  /**
   * Makes data and checksums durable, and then, as a matter of record, what was copied on write: from
   * then on it outlives the host. A copy that came to one of their slots while they were synced is
   * not among them.
   */
  async sync(): Promise<void> {
    const pending = [...this.tables.pending];
    await this.slots.sync();
    this.appendSlots(this.#finalOf(pending));
    // another sync may have recorded some of them just now, which counts once it is durable
    if (pending.length > 0) await this.settled();
  }

  #finalOf(pending: readonly (readonly [slot: number, copy: number])[]): SlotEntry[][] {
    const groups: SlotEntry[][] = [];
    for (const [slot, copy] of pending) {
      if (this.tables.pending.get(slot) !== copy) continue;
      const word = this.tables.plannedWord(slot);
      if ((word & pendingFlag) === 0) continue;
      groups.push([[slot, this.tables.plannedChunk(slot), word & ~pendingFlag]]);
    }
    return groups;
  }

  /** At open, when data and checksums are synced: what was pending is there for good. */
  settlePending(): void {
    const { slots, pending } = this.tables;
    for (const slot of [...pending.keys()]) {
      this.tables.setSlot(slot, slots.chunks[slot] ?? 0, (slots.words[slot] ?? 0) & ~pendingFlag);
    }
  }

  /**
   * Resolves in a later turn. It waits for a read in the disk's own queue, so background work goes
   * behind what clients ask for, and a simulated disk decides about its order as about any other.
   */
  async pause(): Promise<void> {
    await this.#parts.pool.read(this.slots.sums, new Uint8Array(1), 0, 1, 0).catch(() => {});
  }

  async writeTables(lsn: number): Promise<void> {
    const { files, pool } = this.#parts;
    await files?.slots.writeDirty(this.tables.slots, lsn, pool);
    await files?.layers.writeDirty(this.tables.layers, lsn, pool);
  }

  close(): void {
    this.slots.close();
    this.#parts.files?.slots.close();
    this.#parts.files?.layers.close();
  }
}

/** What the top two bytes of a slot's word say. */
export function isHole(word: number): boolean {
  return (word & holeFlag) !== 0;
}

export function layerOf(word: number): number {
  return word & layerMask;
}
