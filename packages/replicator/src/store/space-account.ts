import type { Clock, Files } from '@stor/runtime';
import { slotBytes, slotSumsBytes } from '../core/store/format.ts';
import { SpaceLedger } from '../core/store/space-ledger.ts';
import { slotEntryBytes } from '../core/store/table-page.ts';

/** What a slot may come to take of the file system once all its blocks are written, table included. */
const slotCostBytes = slotBytes + slotSumsBytes + 2 * slotEntryBytes;
/** The file system is asked again after this time; others may write to it too. */
const refreshMs = 1_000;
/** Below the reserve callers are told that there is no room; below this part of it we refuse. */
const floorShare = 4;

/** What one lineage's files take now, and how many slots may come to be full of data. */
export interface SlotUsage {
  slots: number;
  allocatedBytes: number;
}

/**
 * How many slots the disk can still give out. Files are sparse, so what was promised to slots that
 * are not filled yet is subtracted: an overwrite of an allocated chunk must not run out of space.
 */
export class SpaceAccount {
  /** what of the free slots was promised to writers */
  readonly ledger = new SpaceLedger(() => this.freeSlots());
  readonly #files: Files;
  readonly #directory: string;
  readonly #clock: Clock;
  readonly #reserve: number | null;
  readonly #usage: () => Iterable<SlotUsage>;
  #free = 0;
  #total = 0;
  #used = 0;
  #refreshedMs = -Infinity;

  constructor(options: {
    files: Files;
    directory: string;
    clock: Clock;
    reserveBytes: number | null;
    usage: () => Iterable<SlotUsage>;
  }) {
    this.#files = options.files;
    this.#directory = options.directory;
    this.#clock = options.clock;
    this.#reserve = options.reserveBytes;
    this.#usage = options.usage;
  }

  #refresh(): void {
    const now = this.#clock.monotonicMs();
    if (now - this.#refreshedMs < refreshMs) return;
    this.#refreshedMs = now;
    const { totalBytes, freeBytes } = this.#files.space(this.#directory);
    let promised = 0;
    let used = 0;
    for (const { slots, allocatedBytes } of this.#usage()) {
      promised += Math.max(0, slots * slotCostBytes - allocatedBytes);
      used += allocatedBytes;
    }
    this.#total = totalBytes;
    this.#used = used;
    this.#free = freeBytes - promised;
  }

  /** Kept for metadata and for what others put on the file system: 64 MiB or 1 %, a tenth at most. */
  get reserveBytes(): number {
    if (this.#reserve !== null) return this.#reserve;
    return Math.min(Math.max(64 * 2 ** 20, this.#total / 100), this.#total / 10);
  }

  /** bytes that may be promised without touching the reserve */
  freeBytes(): number {
    this.#refresh();
    return Math.max(0, this.#free - this.reserveBytes);
  }

  freeSlots(): number {
    return Math.floor(this.freeBytes() / slotCostBytes);
  }

  /** What was promised fits, with a part of the reserve to spare; asks the file system now. */
  keepsItsPromises(): boolean {
    this.#refreshedMs = -Infinity;
    this.#refresh();
    return this.#free >= this.reserveBytes / floorShare;
  }

  /** Space was given back: the file system is asked again before the next answer. */
  lookAgain(): void {
    this.#refreshedMs = -Infinity;
  }

  /** Promises one slot; false when even the reserve is nearly used. */
  takeSlot(): boolean {
    return this.takeBytes(slotCostBytes);
  }

  takeBytes(bytes: number): boolean {
    this.#refresh();
    if (this.#free - bytes < this.reserveBytes / floorShare) return false;
    this.#free -= bytes;
    return true;
  }

  usage(): {
    capacityBytes: number;
    usedBytes: number;
    freeBytes: number;
    reservedBytes: number;
  } {
    const freeBytes = Math.floor(this.freeBytes());
    const reservedBytes = Math.floor(this.reserveBytes);
    return { capacityBytes: this.#total, usedBytes: this.#used, freeBytes, reservedBytes };
  }
}
