import { blockBytes, blocksPerChunk, chunkBytes, regionBytes } from '@stor/protocol';
import type { HotBlocks } from '../core/store/block-cache.ts';
import { zeroBlockCrc } from '../core/store/format.ts';
import type { LayerImage } from '../core/store/layer-image.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import { type Run, runsOf } from '../core/store/runs.ts';
import { holeFlag, pendingFlag } from '../core/store/slot-table.ts';
import { blockUnreadable } from '../replica-store.ts';
import type { Journal } from './journal.ts';
import { isHole, layerOf, type Lineage, type SlotEntry } from './lineage.ts';

/** Data up to this length are written on this thread, longer ones in the pool (bytes). */
export const inlineBytes = 64 * 1024;

export interface ImageCallParts {
  tables: ReplicaTables;
  lineage: Lineage;
  /** the live image of a replica, or a snapshot's */
  image: LayerImage;
  journal: Journal;
  /** null: reads of this image are not expected again */
  hot: HotBlocks | null;
  /** numbers in one journal record */
  maxRecordNumbers: number;
  /** slots were given out for data: what was promised to the writer is used */
  slotsUsed(count: number): void;
}

/** New bytes of a write, for chunks that are copied. */
interface Source {
  offset: number;
  length: number;
  bytes: Uint8Array;
  start: number;
  sums: Uint32Array;
}

/**
 * What calls on one image do when they cannot be finished inline. `CallOrder` has made sure that no
 * other call touches the same blocks meanwhile; other blocks of the same chunk may well be written.
 */
export class ImageCalls {
  readonly #parts: ImageCallParts;
  /** chunks whose slot is on its way into the journal, and when it is there */
  readonly #allocating = new Map<number, Promise<void>>();

  constructor(parts: ImageCallParts) {
    this.#parts = parts;
  }

  async write(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
  ): Promise<void> {
    const { hot } = this.#parts;
    this.#use(offset, length);
    const source = { offset, length, bytes, start, sums };
    const copied = await this.#prepare(offset, length, chunksOf(offset, length), source);
    for (const part of partsWithout(copied, offset, length)) await this.#put(part, source);
    hot?.add(offset / blockBytes, length / blockBytes);
    this.#use(offset, length);
  }

  /** Writes into the slots that are there, to whichever layer they belong. */
  overwrite(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
  ): Promise<void> {
    const source = { offset, length, bytes, start, sums };
    return this.#parts.lineage.inFlight.run(() =>
      this.#put({ from: offset, to: offset + length }, source),
    );
  }

  async #put(part: { from: number; to: number }, source: Source): Promise<void> {
    const { image, lineage, hot } = this.#parts;
    const { slots } = lineage;
    const before = part.from - source.offset;
    for (const run of runsOf(image.slotOf, part.from, part.to - part.from)) {
      const at = source.start + before + run.at * blockBytes;
      const sum = before / blockBytes + run.at;
      await this.#warm(run);
      if (source.length <= inlineBytes) {
        slots.writeSync(run.linear, run.count, source.bytes, at, source.sums, sum);
      } else {
        const first = part.from / blockBytes + run.at;
        const isCached = hot?.hasAll(first, run.count) === true;
        await slots.write(run.linear, run.count, source.bytes, at, source.sums, sum, isCached);
      }
    }
  }

  /** Whole chunks are freed, or filled with zeros when their space is to stay; the rest is filled. */
  async zero(offset: number, length: number, keepAllocated: boolean): Promise<void> {
    const { image } = this.#parts;
    this.#use(offset, length);
    const end = offset + length;
    const whole: number[] = [];
    const fill: { from: number; to: number }[] = [];
    for (const chunk of chunksOf(offset, length)) {
      const from = Math.max(offset, chunk * chunkBytes);
      const to = Math.min(end, (chunk + 1) * chunkBytes);
      const allocated = image.slotOf.get(chunk) > 0 || this.#allocating.has(chunk);
      if (!allocated && !keepAllocated) continue;
      // what lies beyond the end of the replica is no reason to keep its last chunk
      const toEnd = to === (chunk + 1) * chunkBytes || to === sizeOf(image);
      if (from === chunk * chunkBytes && toEnd && !keepAllocated) whole.push(chunk);
      else fill.push({ from, to });
    }
    await this.#free(whole);
    for (const { from, to } of fill) await this.#fill(from, to - from);
    this.#use(offset, length);
  }

  async #fill(offset: number, length: number): Promise<void> {
    const { image, lineage } = this.#parts;
    await this.#prepare(offset, length, chunksOf(offset, length), null);
    for (const run of runsOf(image.slotOf, offset, length)) {
      if (run.linear >= 0) await lineage.slots.writeZeros(run.linear, run.count);
    }
  }

  /**
   * Reads everything; `valid` says which blocks match their checksum. One that the disk cannot read
   * any more is like one that does not match: others have it, and writing it anew may help (I9).
   * `storedSums` is for those who compare replicas: what is in memory would hide what rots.
   */
  read(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    storedSums = false,
  ): Promise<void> {
    const { image, lineage, hot } = this.#parts;
    return lineage.inFlight.run(async () => {
      for (const run of runsOf(image.slotOf, offset, length)) {
        const at = start + run.at * blockBytes;
        if (run.linear < 0) {
          target.fill(0, at, at + run.count * blockBytes);
          valid.fill(1, run.at, run.at + run.count);
        } else {
          const whole = await this.#readRun(run, target, at, valid, storedSums);
          if (whole) hot?.add(offset / blockBytes + run.at, run.count);
        }
      }
    });
  }

  /** False when the disk could not read some block; then each was tried by itself. */
  async #readRun(
    run: Run,
    target: Uint8Array,
    at: number,
    valid: Uint8Array,
    storedSums: boolean,
  ): Promise<boolean> {
    const { slots } = this.#parts.lineage;
    try {
      await slots.read(run, target, at, valid, run.at, storedSums);
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
      await this.#readRun(one, target, at + i * blockBytes, valid, storedSums);
    }
    return false;
  }

  async #warm(run: Run): Promise<void> {
    const { slots } = this.#parts.lineage;
    const firstSlot = Math.floor((run.linear * blockBytes) / chunkBytes);
    const lastSlot = Math.floor(((run.linear + run.count - 1) * blockBytes) / chunkBytes);
    for (let slot = firstSlot; slot <= lastSlot; slot++) {
      if (slots.isWarm(slot)) continue;
      await slots.warm(firstSlot, lastSlot - firstSlot + 1);
      return;
    }
  }

  #use(offset: number, length: number): void {
    for (const region of regionsOf(offset, length)) this.#parts.tables.use(region);
  }

  /** True when the chunk's slot is the image's own, so that it may be written in its place. */
  #owns(chunk: number): boolean {
    const { image, lineage } = this.#parts;
    const slotPlusOne = image.slotOf.get(chunk);
    if (slotPlusOne <= 0) return false;
    return layerOf(lineage.tables.slots.words[slotPlusOne - 1] ?? 0) === image.top;
  }

  /**
   * Marks the regions (I8) and gives own slots to `chunks`, durably, before any of their data are
   * written. What had to be copied has the bytes of `source` already: those chunks are returned.
   */
  async #prepare(
    offset: number,
    length: number,
    chunks: readonly number[],
    source: Source | null,
  ): Promise<ReadonlySet<number>> {
    const { tables, journal } = this.#parts;
    const marks = regionsOf(offset, length).filter((region) => !tables.isMarked(region));
    const missing: number[] = [];
    const copied = new Set<number>();
    const others: Promise<void>[] = [];
    for (const chunk of chunks) {
      const other = this.#allocating.get(chunk);
      if (other) others.push(other);
      else if (!this.#owns(chunk)) missing.push(chunk);
    }
    if (missing.length > 0) others.push(this.#allocate(missing, marks, source, copied));
    else if (marks.length > 0) others.push(journal.durable(this.#mark(marks)));
    if (others.length === 0) return copied;
    // settled: no call may be answered while a slot of it is still on its way
    const results = await Promise.allSettled(others);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return copied;
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

  #allocate(
    chunks: readonly number[],
    marks: readonly number[],
    source: Source | null,
    copied: Set<number>,
  ): Promise<void> {
    const done = this.#obtain(chunks, marks, source, copied).finally(() => {
      for (const chunk of chunks) this.#allocating.delete(chunk);
    });
    for (const chunk of chunks) this.#allocating.set(chunk, done);
    return done;
  }

  /**
   * A chunk that nothing below has gets an empty slot: recorded first, then written. One that a
   * layer below has is copied, new bytes included, and only then recorded, as pending: until that is
   * durable every reader sees the old slot, and after a crash of the host before the next flush
   * again. A slot of a layer that nobody else sees is taken over where it is.
   */
  async #obtain(
    chunks: readonly number[],
    marks: readonly number[],
    source: Source | null,
    copied: Set<number>,
  ): Promise<void> {
    const { image, lineage } = this.#parts;
    const needed = chunks.filter((chunk) => !this.#mayTakeOver(chunk));
    const slots = needed.length > 0 ? await lineage.take(needed.length) : [];
    this.#parts.slotsUsed(slots.length);
    const slotFor = new Map(needed.map((chunk, i) => [chunk, slots[i] ?? 0]));
    const copies = needed.filter((chunk) => image.slotOf.get(chunk) > 0);
    const results = await Promise.allSettled(
      copies.map((chunk) => this.#copy(chunk, slotFor.get(chunk) ?? 0, source)),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed) {
      // they may hold some bytes by now
      for (const slot of slots) lineage.supply.free(slot);
      throw failed.reason;
    }
    this.#mark(marks);
    const groups = chunks.map((chunk) => this.#ownEntries(chunk, slotFor.get(chunk), copies));
    if (source) for (const chunk of copies) copied.add(chunk);
    await lineage.durable(lineage.appendSlots(groups));
  }

  #mayTakeOver(chunk: number): boolean {
    const { image, lineage } = this.#parts;
    const slotPlusOne = image.slotOf.get(chunk);
    if (slotPlusOne <= 0) return false;
    return image.exclusive.has(layerOf(lineage.tables.plannedWord(slotPlusOne - 1)));
  }

  #ownEntries(chunk: number, slot: number | undefined, copies: readonly number[]): SlotEntry[] {
    const { image, lineage } = this.#parts;
    const now = image.slotOf.get(chunk);
    if (slot === undefined) {
      const pending = lineage.tables.plannedWord(now - 1) & pendingFlag;
      return [[now - 1, chunk, image.top | pending]];
    }
    if (copies.includes(chunk)) return [[slot, chunk, image.top | pendingFlag]];
    const entries: SlotEntry[] = [[slot, chunk, image.top]];
    if (now < 0) {
      const word = lineage.tables.plannedWord(-now - 1);
      if (isHole(word) && layerOf(word) === image.top) entries.unshift([-now - 1, chunk, 0]);
    }
    return entries;
  }

  /** Copies a chunk into an empty slot, as it is: a block that does not verify stays so. */
  #copy(chunk: number, slot: number, source: Source | null): Promise<void> {
    const { image, lineage } = this.#parts;
    return lineage.inFlight.run(async () => {
      const from = image.slotOf.get(chunk) - 1;
      const first = source ? Math.max(0, (source.offset - chunk * chunkBytes) / blockBytes) : 0;
      const last = source
        ? Math.min(
            blocksPerChunk,
            (source.offset + source.length - chunk * chunkBytes) / blockBytes,
          )
        : 0;
      const isWhole = last - first === blocksPerChunk;
      const { bytes, stored } = isWhole ? emptySlot() : await this.#readOld(from);
      if (source) {
        const at = source.start + chunk * chunkBytes + first * blockBytes - source.offset;
        const length = (last - first) * blockBytes;
        bytes.set(source.bytes.subarray(at, at + length), first * blockBytes);
        const sum = (chunk * chunkBytes + first * blockBytes - source.offset) / blockBytes;
        for (let i = 0; i < last - first; i++) {
          stored[first + i] = (source.sums[sum + i] ?? 0) ^ zeroBlockCrc;
        }
      }
      await lineage.slots.writeSlot(slot, bytes, stored);
    });
  }

  async #readOld(slot: number): Promise<{ bytes: Uint8Array; stored: Uint32Array }> {
    const { slots } = this.#parts.lineage;
    try {
      return await slots.readSlot(slot);
    } catch (error) {
      if (!isMediumError(error)) throw error;
      return slots.readDamagedSlot(slot);
    }
  }

  /**
   * Durable when resolved; only then may the slots be used for something else. Where a layer lies
   * below, a hole takes the place of the data, or what is below would be seen again.
   */
  async #free(chunks: readonly number[]): Promise<void> {
    const { tables, image, lineage } = this.#parts;
    const there = chunks.filter((chunk) => image.slotOf.get(chunk) > 0);
    if (there.length === 0) return;
    const isBased = (lineage.tables.plannedLayer(image.top)?.parent ?? 0) !== 0;
    const holes = await lineage.takeHoles(isBased ? there.length : 0);
    const marks = new Set<number>();
    const groups: SlotEntry[][] = [];
    for (const [i, chunk] of there.entries()) {
      const region = Math.floor((chunk * chunkBytes) / regionBytes);
      if (!tables.isMarked(region)) marks.add(region);
      const slot = image.slotOf.get(chunk) - 1;
      const entries: SlotEntry[] = [];
      if (this.#owns(chunk) || this.#mayTakeOver(chunk)) entries.push([slot, chunk, 0]);
      const hole = holes[i];
      if (hole !== undefined) entries.push([hole, chunk, image.top | holeFlag]);
      groups.push(entries);
    }
    this.#mark([...marks]);
    await lineage.durable(lineage.appendSlots(groups));
  }
}

function emptySlot(): { bytes: Uint8Array; stored: Uint32Array } {
  return { bytes: new Uint8Array(chunkBytes), stored: new Uint32Array(blocksPerChunk) };
}

/** The range without the chunks that are done, in order. */
function partsWithout(
  done: ReadonlySet<number>,
  offset: number,
  length: number,
): { from: number; to: number }[] {
  const end = offset + length;
  if (done.size === 0) return [{ from: offset, to: end }];
  const parts: { from: number; to: number }[] = [];
  for (const chunk of chunksOf(offset, length)) {
    if (done.has(chunk)) continue;
    const from = Math.max(offset, chunk * chunkBytes);
    const to = Math.min(end, (chunk + 1) * chunkBytes);
    const last = parts.at(-1);
    if (last?.to === from) last.to = to;
    else parts.push({ from, to });
  }
  return parts;
}

/** The disk says that it cannot read what is there. */
function isMediumError(error: unknown): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'EIO';
}

function sizeOf(image: LayerImage): number {
  return Math.ceil(image.sizeBytes / blockBytes) * blockBytes;
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
