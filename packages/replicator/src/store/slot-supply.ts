import { blocksPerChunk, StorError } from '@stor/protocol';
import type { SlotAllocator } from '../core/store/slot-allocator.ts';
import type { SlotFiles } from './slot-files.ts';
import type { SpaceAccount } from './space-account.ts';

/** Slots zeroed in one go, and kept ready: enough to hide the zeroing, little enough to be cheap. */
const cleanBatch = 16;

/**
 * Gives out slots that read as zeros: zeroed ones first, then new ones. Freed slots are zeroed in
 * the background, durably, before they are given out again: after a power cut a chunk must never
 * show bytes of another one. (Node cannot punch holes, so the file system keeps their space.)
 */
export class SlotSupply {
  readonly #slots: SlotAllocator;
  readonly #files: SlotFiles;
  readonly #space: SpaceAccount;
  /** more slots than chunks are never needed; beyond, zeroing is waited for */
  readonly #maxSlots: number;
  readonly #failed: (cause: unknown) => void;
  #cleaning: Promise<void> | null = null;
  /** closing, or zeroing failed */
  #stopped = false;
  #closing = false;

  constructor(options: {
    slots: SlotAllocator;
    files: SlotFiles;
    space: SpaceAccount;
    maxSlots: number;
    /** zeroing failed, which is a failed write of the replica */
    failed: (cause: unknown) => void;
  }) {
    this.#slots = options.slots;
    this.#files = options.files;
    this.#space = options.space;
    this.#maxSlots = options.maxSlots;
    this.#failed = options.failed;
  }

  get highWater(): number {
    return this.#slots.highWater;
  }

  get recyclable(): number {
    return this.#slots.recyclable;
  }

  /** NO_SPACE when there is none and none is being zeroed; then nothing is taken. */
  async take(count: number): Promise<number[]> {
    const taken: number[] = [];
    while (taken.length < count) {
      const slot = this.#takeOne();
      if (slot !== null) {
        taken.push(slot);
        continue;
      }
      if (this.#stopped || this.#slots.recyclable === 0) {
        this.untake(taken);
        throw new StorError('NO_SPACE', 'the disk has no room for another chunk');
      }
      await this.#clean();
    }
    if (this.#slots.cleanCount < cleanBatch) void this.#clean();
    return taken;
  }

  #takeOne(): number | null {
    const slot = this.#slots.takeClean();
    if (slot !== null) return slot;
    // the reserve is not for what slots that are being zeroed were promised for
    const isFull = this.#slots.highWater >= this.#maxSlots || this.#space.freeSlots() === 0;
    if (isFull && this.#slots.recyclable > 0) return null;
    return this.#space.takeSlot() ? this.#slots.takeFresh() : null;
  }

  untake(slots: readonly number[]): void {
    for (const slot of slots) this.#slots.untake(slot);
  }

  /** Only once the records that free them are durable. */
  free(slots: readonly number[]): void {
    for (const slot of slots) this.#slots.free(slot);
    if (this.#slots.cleanCount < cleanBatch) void this.#clean();
  }

  /** No zeroing begins after this; resolves when none is under way. */
  async stop(): Promise<void> {
    this.#closing = true;
    this.#stopped = true;
    await this.#cleaning;
  }

  /** Zeroing may be tried again: it had failed for lack of space, and there is some. */
  resume(): void {
    this.#stopped = this.#closing;
  }

  #clean(): Promise<void> {
    this.#cleaning ??= this.#cleanBatch().finally(() => {
      this.#cleaning = null;
    });
    return this.#cleaning;
  }

  async #cleanBatch(): Promise<void> {
    const batch: number[] = [];
    while (batch.length < cleanBatch && !this.#stopped) {
      const slot = this.#slots.takeDirty();
      if (slot === null) break;
      batch.push(slot);
    }
    if (batch.length === 0) return;
    try {
      for (const slot of batch) await this.#files.writeZeros(slot * blocksPerChunk, blocksPerChunk);
      await this.#files.syncNow();
    } catch (error) {
      this.#stopped = true;
      // what was zeroed may not be durable: it is dirty, like before
      for (const slot of batch) this.#slots.uncleaned(slot);
      this.#failed(error);
      return;
    }
    for (const slot of batch) this.#slots.cleaned(slot);
  }
}
