import { blocksPerChunk, StorError } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import { maxSlots } from '../core/store/format.ts';
import type { SlotAllocator } from '../core/store/slot-allocator.ts';
import type { InFlight } from './in-flight.ts';
import type { FailedStep } from './replica-failure.ts';
import type { SlotFiles } from './slot-files.ts';
import type { SpaceAccount } from './space-account.ts';

/** Slots zeroed in one go, and kept ready: enough to hide the zeroing, little enough to be cheap. */
const cleanBatch = 16;
/** Slots given back to the file system in one go. */
const punchBatch = 128;
/** A few freed slots wait this long for more, then they are given back all the same (ms). */
export const maxFreedWaitMs = 5_000;
/** With so many freed slots new chunks wait for them, so that the file need not grow (256 MiB). */
const maxRecyclable = 1024;

/**
 * Gives out slots that read as zeros: emptied ones first, then new ones. Freed slots are emptied in
 * the background, durably, before they are given out again: after a power cut a chunk must never
 * show bytes of another one. Where holes can be punched the file system has their space back then;
 * elsewhere they are zeroed, some ahead of need, and used again.
 */
export class SlotSupply {
  readonly #slots: SlotAllocator;
  readonly #files: SlotFiles;
  readonly #space: SpaceAccount;
  readonly #inFlight: InFlight;
  readonly #clock: Clock;
  readonly #failed: (cause: unknown, step: FailedStep) => void;
  /** ends the wait of freed slots; null when none wait */
  #endWait: (() => void) | null = null;
  #cleaning: Promise<void> | null = null;
  /** closing, or zeroing failed */
  #stopped = false;
  #closing = false;

  constructor(options: {
    slots: SlotAllocator;
    files: SlotFiles;
    space: SpaceAccount;
    inFlight: InFlight;
    clock: Clock;
    /** emptying slots failed, which is a failed write or sync of the lineage */
    failed: (cause: unknown, step: FailedStep) => void;
  }) {
    this.#slots = options.slots;
    this.#files = options.files;
    this.#space = options.space;
    this.#inFlight = options.inFlight;
    this.#clock = options.clock;
    this.#failed = options.failed;
  }

  /** The disk is open: what was freed before is given back. */
  begin(): void {
    if (this.#files.canPunch) this.#cleanAhead();
  }

  get highWater(): number {
    return this.#slots.highWater;
  }

  get recyclable(): number {
    return this.#slots.recyclable;
  }

  /** slots that hold no disk space and nobody's data */
  get punched(): number {
    return this.#slots.punchedCount;
  }

  /** slots freed and not emptied yet */
  get dirty(): number {
    return this.#slots.dirtyCount;
  }

  /** NO_SPACE when there is none and none is being emptied; then nothing is taken. */
  async take(count: number): Promise<number[]> {
    const taken: number[] = [];
    while (taken.length < count) {
      const slot = this.#takeOne();
      if (slot !== null) {
        taken.push(slot);
        continue;
      }
      if (this.#stopped || this.#slots.dirtyCount === 0) {
        this.untake(taken);
        throw new StorError('NO_SPACE', 'the disk has no room for another chunk');
      }
      await this.#clean();
    }
    this.#cleanAhead();
    return taken;
  }

  #takeOne(): number | null {
    const zeroed = this.#slots.takeZeroed();
    if (zeroed !== null) return zeroed;
    // the reserve is not for what slots that are being emptied were promised for
    const wait = this.#slots.dirtyCount > maxRecyclable || this.#space.freeSlots() === 0;
    if (wait && this.#slots.dirtyCount > 0) return null;
    if (this.#slots.highWater >= maxSlots || !this.#space.takeSlot()) return null;
    return this.#slots.takePunched() ?? this.#slots.takeFresh();
  }

  /** Numbers for holes: they hold no data, so they take no space. */
  takeHoles(count: number): number[] {
    const take = (): number => this.#slots.takePunched() ?? this.#slots.takeFresh();
    return Array.from({ length: count }, take);
  }

  /** Gives back slots that were taken and never written. */
  untake(slots: readonly number[]): void {
    for (const slot of slots) this.#slots.untake(slot, false);
  }

  /** Only once the records that free them are durable. */
  free(slot: number): void {
    this.#slots.free(slot);
    this.#cleanAhead();
  }

  #cleanAhead(): void {
    if (this.#files.canPunch) {
      // a sync for each batch: a few slots wait for more, for a while, or until they are needed
      if (this.#slots.dirtyCount >= cleanBatch) void this.#clean();
      else if (this.#slots.dirtyCount > 0) this.#cleanLater();
    } else if (this.#slots.cleanCount < cleanBatch) void this.#clean();
  }

  #cleanLater(): void {
    if (this.#stopped || this.#cleaning) return;
    this.#endWait ??= this.#clock.after(maxFreedWaitMs, () => {
      this.#endWait = null;
      if (this.#slots.dirtyCount > 0) void this.#clean();
    });
  }

  /** No zeroing begins after this; resolves when none is under way. */
  async stop(): Promise<void> {
    this.#closing = true;
    this.#stopped = true;
    this.#endWait?.();
    this.#endWait = null;
    await this.#cleaning;
  }

  /** Zeroing may be tried again: it had failed for lack of space, and there is some. */
  resume(): void {
    this.#stopped = this.#closing;
    this.#cleanAhead();
  }

  #clean(): Promise<void> {
    this.#cleaning ??= this.#cleanBatch().finally(() => {
      this.#cleaning = null;
      if (!this.#stopped && this.#files.canPunch) this.#cleanAhead();
    });
    return this.#cleaning;
  }

  async #cleanBatch(): Promise<void> {
    if (this.#stopped) return;
    // in a later turn: what is freed in this one joins the batch
    await Promise.resolve();
    const batch = this.#slots.takeDirty(this.#files.canPunch ? punchBatch : cleanBatch);
    if (batch.length === 0) return;
    let punched: boolean;
    let step: FailedStep = 'write';
    try {
      await this.#inFlight.settled();
      punched = await this.#files.punch(batch);
      if (!punched) await this.#zero(batch);
      step = 'sync';
      await this.#files.syncNow();
    } catch (error) {
      this.#stopped = true;
      // what was zeroed may not be durable: it is dirty, like before
      for (const slot of batch) this.#slots.uncleaned(slot);
      this.#failed(error, step);
      return;
    }
    for (const slot of batch) this.#slots.cleaned(slot, !punched);
    if (punched) this.#space.lookAgain();
  }

  async #zero(slots: readonly number[]): Promise<void> {
    for (const slot of slots) await this.#files.writeZeros(slot * blocksPerChunk, blocksPerChunk);
  }
}
