import { blockBytes, chunkBytes, regionBytes } from '@stor/protocol';
import type { HotBlocks } from '../core/store/block-cache.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import { type Run, runsOf } from '../core/store/runs.ts';
import { blockUnreadable } from '../replica-store.ts';
import type { Journal } from './journal.ts';
import type { SlotFiles } from './slot-files.ts';
import type { SlotSupply } from './slot-supply.ts';

/** Data up to this length are written on this thread, longer ones in the pool (bytes). */
export const inlineBytes = 64 * 1024;

export interface SlowCallParts {
  tables: ReplicaTables;
  slots: SlotFiles;
  supply: SlotSupply;
  journal: Journal;
  hot: HotBlocks;
  /** numbers in one journal record */
  maxRecordNumbers: number;
}

/**
 * What calls do when they cannot be finished inline. `CallOrder` has made sure that no other call
 * touches the same blocks meanwhile; other blocks of the same chunk may well be written.
 */
export class SlowCalls {
  readonly #parts: SlowCallParts;
  /** chunks whose slot is on its way into the journal, and when it is there */
  readonly #allocating = new Map<number, Promise<void>>();

  constructor(parts: SlowCallParts) {
    this.#parts = parts;
  }

  async write(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
  ): Promise<void> {
    const { tables, slots, hot } = this.#parts;
    this.#use(offset, length);
    await this.#prepare(offset, length, chunksOf(offset, length));
    for (const run of runsOf(tables.slotOf, offset, length)) {
      const at = start + run.at * blockBytes;
      await this.#warm(run);
      if (length <= inlineBytes) slots.writeSync(run.linear, run.count, bytes, at, sums, run.at);
      else await slots.write(run.linear, run.count, bytes, at, sums, run.at);
    }
    hot.add(offset / blockBytes, length / blockBytes);
    this.#use(offset, length);
  }

  /** Whole chunks are freed, or filled with zeros when their space is to stay; the rest is filled. */
  async zero(offset: number, length: number, keepAllocated: boolean): Promise<void> {
    const { tables } = this.#parts;
    this.#use(offset, length);
    const end = offset + length;
    const whole: number[] = [];
    const fill: { from: number; to: number }[] = [];
    for (const chunk of chunksOf(offset, length)) {
      const from = Math.max(offset, chunk * chunkBytes);
      const to = Math.min(end, (chunk + 1) * chunkBytes);
      const allocated = (tables.slotOf[chunk] ?? 0) !== 0 || this.#allocating.has(chunk);
      if (!allocated && !keepAllocated) continue;
      // what lies beyond the end of the replica is no reason to keep its last chunk
      const toEnd = to === (chunk + 1) * chunkBytes || to === sizeOf(tables);
      if (from === chunk * chunkBytes && toEnd && !keepAllocated) whole.push(chunk);
      else fill.push({ from, to });
    }
    await this.#free(whole);
    for (const { from, to } of fill) await this.#fill(from, to - from, keepAllocated);
    this.#use(offset, length);
  }

  async #fill(offset: number, length: number, keepAllocated: boolean): Promise<void> {
    const { tables, slots } = this.#parts;
    await this.#prepare(offset, length, keepAllocated ? chunksOf(offset, length) : []);
    for (const run of runsOf(tables.slotOf, offset, length)) {
      if (run.linear >= 0) await slots.writeZeros(run.linear, run.count);
    }
  }

  /**
   * Reads everything; `valid` says which blocks match their checksum. One that the disk cannot read
   * any more is like one that does not match: others have it, and writing it anew may help (I9).
   */
  async read(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
  ): Promise<void> {
    const { tables, hot } = this.#parts;
    for (const run of runsOf(tables.slotOf, offset, length)) {
      const at = start + run.at * blockBytes;
      if (run.linear < 0) {
        target.fill(0, at, at + run.count * blockBytes);
        valid.fill(1, run.at, run.at + run.count);
      } else {
        const whole = await this.#readRun(run, target, at, valid);
        if (whole) hot.add(offset / blockBytes + run.at, run.count);
      }
    }
  }

  /** False when the disk could not read some block; then each was tried by itself. */
  async #readRun(run: Run, target: Uint8Array, at: number, valid: Uint8Array): Promise<boolean> {
    const { slots } = this.#parts;
    try {
      await slots.read(run.linear, run.count, target, at, valid, run.at);
      return true;
    } catch (error) {
      if (!isMediumError(error)) throw error;
    }
    if (run.count === 1) {
      target.fill(0, at, at + blockBytes);
      valid[run.at] = blockUnreadable;
      return false;
    }
    for (let i = 0; i < run.count; i++) {
      const one = { linear: run.linear + i, count: 1, at: run.at + i };
      await this.#readRun(one, target, at + i * blockBytes, valid);
    }
    return false;
  }

  async #warm(run: Run): Promise<void> {
    const firstSlot = Math.floor((run.linear * blockBytes) / chunkBytes);
    const lastSlot = Math.floor(((run.linear + run.count - 1) * blockBytes) / chunkBytes);
    for (let slot = firstSlot; slot <= lastSlot; slot++) {
      if (this.#parts.slots.isWarm(slot)) continue;
      await this.#parts.slots.warm(firstSlot, lastSlot - firstSlot + 1);
      return;
    }
  }

  #use(offset: number, length: number): void {
    for (const region of regionsOf(offset, length)) this.#parts.tables.use(region);
  }

  /** Marks the regions (I8) and gives slots to `chunks`, durably, before any data are written. */
  async #prepare(offset: number, length: number, chunks: number[]): Promise<void> {
    const { tables, journal } = this.#parts;
    const marks = regionsOf(offset, length).filter((region) => !tables.isMarked(region));
    const missing: number[] = [];
    const others: Promise<void>[] = [];
    for (const chunk of chunks) {
      const other = this.#allocating.get(chunk);
      if (other) others.push(other);
      else if (tables.slotOf[chunk] === 0) missing.push(chunk);
    }
    if (missing.length > 0) others.push(...this.#allocate(missing, marks));
    else if (marks.length > 0) others.push(journal.durable(this.#mark(marks)));
    if (others.length === 0) return;
    // settled: no call may be answered while a slot of it is still on its way
    const results = await Promise.allSettled(others);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  #mark(regions: readonly number[]): number {
    const { tables, journal, maxRecordNumbers } = this.#parts;
    let lsn = 0;
    for (let i = 0; i < regions.length; i += maxRecordNumbers) {
      const part = Uint32Array.from(regions.slice(i, i + maxRecordNumbers));
      lsn = journal.append({ type: 'mark', replica: tables.number, regions: part });
    }
    return lsn;
  }

  #allocate(chunks: number[], marks: number[]): Promise<void>[] {
    const { supply, journal } = this.#parts;
    const run = async (): Promise<void> => {
      const slots = await supply.take(chunks.length);
      this.#mark(marks);
      const entries: number[] = [];
      for (const [i, chunk] of chunks.entries()) entries.push(chunk, (slots[i] ?? 0) + 1);
      await journal.durable(this.#chunks(entries));
    };
    const done = run().finally(() => {
      for (const chunk of chunks) this.#allocating.delete(chunk);
    });
    for (const chunk of chunks) this.#allocating.set(chunk, done);
    return [done];
  }

  #chunks(entries: readonly number[]): number {
    const { tables, journal, maxRecordNumbers } = this.#parts;
    let lsn = 0;
    for (let i = 0; i < entries.length; i += maxRecordNumbers) {
      const part = Uint32Array.from(entries.slice(i, i + maxRecordNumbers));
      lsn = journal.append({ type: 'chunks', replica: tables.number, entries: part });
    }
    return lsn;
  }

  /** Durable when resolved; only then may the slots be used for something else. */
  async #free(chunks: number[]): Promise<void> {
    const { tables, supply, journal } = this.#parts;
    if (chunks.length === 0) return;
    const marks = new Set<number>();
    const entries: number[] = [];
    const slots: number[] = [];
    for (const chunk of chunks) {
      const region = Math.floor((chunk * chunkBytes) / regionBytes);
      if (!tables.isMarked(region)) marks.add(region);
      entries.push(chunk, 0);
      slots.push((tables.slotOf[chunk] ?? 0) - 1);
    }
    this.#mark([...marks]);
    await journal.durable(this.#chunks(entries));
    supply.free(slots);
  }
}

/** The disk says that it cannot read what is there. */
function isMediumError(error: unknown): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'EIO';
}

function sizeOf(tables: ReplicaTables): number {
  return Math.ceil(tables.identity.sizeBytes / blockBytes) * blockBytes;
}

export function chunksOf(offset: number, length: number): number[] {
  return unitsOf(offset, length, chunkBytes);
}

export function regionsOf(offset: number, length: number): number[] {
  return unitsOf(offset, length, regionBytes);
}

function unitsOf(offset: number, length: number, unitBytes: number): number[] {
  const units: number[] = [];
  const last = Math.floor((offset + length - 1) / unitBytes);
  for (let unit = Math.floor(offset / unitBytes); unit <= last; unit++) units.push(unit);
  return units;
}
