import { blocksPerChunk } from '@stor/protocol';
import type { Clock, OpenFile } from '@stor/runtime';
import { slotSumsBytes, sumBytes } from '../core/store/format.ts';
import { LatePages, slotsPerSumsPage, spansOf, type SlotSpan } from '../core/store/late-sums.ts';
import type { SumsCache } from '../core/store/sums-cache.ts';

/**
 * Pages of one file whose checksums are in memory only; more are written at once, the oldest first. All
 * are written when a client's FLUSH begins, in one turn: that many take some 2 ms.
 */
const maxLatePages = 512;
/** Late pages are written after this (ms), `pagesAtOnce` in a turn (0.1 ms), so a few tenths of a second later. */
const lateMs = 20;
const pagesAtOnce = 32;

export interface SumsFileParts {
  file: OpenFile;
  /** number of the lineage, which names its lines in the cache */
  lineage: number;
  cache: SumsCache;
  clock: Clock;
  /** a write failed that was not asked for; what it was to write stays late */
  failed: (error: Error) => void;
}

/**
 * The checksums of one lineage: a file, lines of it in the cache, and those of small writes for a moment
 * in the cache alone. To write 4 bytes costs nearly as much as to write the block. After kill -9 a block
 * may be newer than its checksum anyway (docs/on-disk-format.md): what is late makes these more, and
 * all of them written since the last flush.
 */
export class SumsFile {
  readonly file: OpenFile;
  readonly #lineage: number;
  readonly #cache: SumsCache;
  readonly #clock: Clock;
  readonly #failed: (error: Error) => void;
  readonly #late = new LatePages();
  readonly #page = new Uint32Array(slotsPerSumsPage * blocksPerChunk);
  readonly #pageBytes = new Uint8Array(this.#page.buffer);
  #cancelTimer: (() => void) | null = null;
  #isClosed = false;
  #scratch = new Uint32Array(blocksPerChunk);
  #scratchBytes = new Uint8Array(this.#scratch.buffer);

  constructor({ file, lineage, cache, clock, failed }: SumsFileParts) {
    this.file = file;
    this.#lineage = lineage;
    this.#cache = cache;
    this.#clock = clock;
    this.#failed = failed;
  }

  /** Where the caller puts stored checksums before it calls `put` or `putLate`. */
  scratch(count: number): Uint32Array {
    if (this.#scratch.length < count) {
      this.#scratch = new Uint32Array(count);
      this.#scratchBytes = new Uint8Array(this.#scratch.buffer);
    }
    return this.#scratch;
  }

  /** Index of the slot's first checksum in the cache's `sums`, in this turn; -1: they are not there. */
  find(slot: number): number {
    return this.#cache.find(this.#lineage, slot);
  }

  /** As `find`; read from the file where they are not there. */
  load(slot: number): number {
    const found = this.find(slot);
    if (found >= 0) return found;
    const scratch = this.scratch(blocksPerChunk);
    this.file.readSync(this.#scratchBytes, 0, slotSumsBytes, slot * slotSumsBytes);
    return this.#keep(slot, scratch);
  }

  /** Writes what is in `scratch`, to the file and to the lines that are there. */
  put(linear: number, count: number): void {
    this.file.writeSync(this.#scratchBytes, 0, count * sumBytes, linear * sumBytes);
    for (let i = 0; i < count;) {
      const n = Math.min(count - i, blocksPerChunk - ((linear + i) % blocksPerChunk));
      const line = this.find(Math.floor((linear + i) / blocksPerChunk));
      if (line >= 0) this.#fill(line, linear + i, n, i);
      i += n;
    }
  }

  /**
   * As `put`, of a client's small write: where there is a line, or it is worth one, only there for now.
   * Throws what the file system throws, also for others that had to be written first.
   */
  putLate(linear: number, count: number): void {
    for (let i = 0; i < count;) {
      const slot = Math.floor((linear + i) / blocksPerChunk);
      const n = Math.min(count - i, blocksPerChunk - ((linear + i) % blocksPerChunk));
      const line = this.#lineFor(slot);
      if (line < 0) {
        this.file.writeSync(
          this.#scratchBytes,
          i * sumBytes,
          n * sumBytes,
          (linear + i) * sumBytes,
        );
      } else {
        this.#fill(line, linear + i, n, i);
        this.#cache.setLate(line, true);
        this.#becameLate(Math.floor(slot / slotsPerSumsPage));
      }
      i += n;
    }
  }

  /** The file has the checksums of these slots (`first` to `last`); reads of it may begin. */
  settle(first: number, last: number): void {
    if (this.#late.count === 0) return;
    const lastPage = Math.floor(last / slotsPerSumsPage);
    for (let page = Math.floor(first / slotsPerSumsPage); page <= lastPage; page++) {
      if (this.#late.has(page)) this.#writeOrFail(page);
    }
  }

  /** The same for all; a sync that begins now makes them durable. */
  settleAll(): void {
    if (this.#late.count === 0) return;
    for (const page of this.#late.all()) this.#writeOrFail(page);
  }

  /** What is late is not wanted: the caller has settled all, or the file goes. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#cancelTimer?.();
    for (const page of this.#late.all()) {
      for (let i = 0; i < slotsPerSumsPage; i++) {
        this.#cache.drop(this.#lineage, page * slotsPerSumsPage + i);
      }
    }
    this.file.close();
  }

  #lineFor(slot: number): number {
    const line = this.find(slot);
    if (line >= 0 || !this.#cache.isWorthLine(this.#lineage, slot)) return line;
    // not into `scratch`, where the new ones are
    this.file.readSync(this.#pageBytes, 0, slotSumsBytes, slot * slotSumsBytes);
    return this.#keep(slot, this.#page);
  }

  #keep(slot: number, sums: Uint32Array): number {
    const line = this.#cache.claim(this.#lineage, slot);
    const cached = this.#cache.sums;
    for (let i = 0; i < blocksPerChunk; i++) cached[line + i] = sums[i] ?? 0;
    return line;
  }

  #fill(line: number, linear: number, count: number, from: number): void {
    const at = line + (linear % blocksPerChunk);
    const cached = this.#cache.sums;
    for (let k = 0; k < count; k++) cached[at + k] = this.#scratch[from + k] ?? 0;
  }

  #becameLate(page: number): void {
    if (this.#late.has(page)) return;
    this.#late.add(page);
    if (this.#late.count > maxLatePages) this.#write(this.#late.oldest());
    this.#cancelTimer ??= this.#clock.after(lateMs, this.#writeSome);
  }

  readonly #writeSome = (): void => {
    this.#cancelTimer = null;
    if (this.#isClosed) return;
    try {
      for (let i = 0; i < pagesAtOnce; i++) {
        const page = this.#late.oldest();
        if (page < 0) return;
        this.#writeOrFail(page);
      }
    } catch {
      // whoever is concerned knows
      return;
    }
    if (this.#late.count > 0) this.#cancelTimer = this.#clock.after(lateMs, this.#writeSome);
  };

  /** For those who did not ask for a write: its failure is one all the same (I7). */
  #writeOrFail(page: number): void {
    try {
      this.#write(page);
    } catch (error) {
      this.#failed(error as Error);
      throw error;
    }
  }

  /** Writes what is late in a page. After an error all of it is late still. */
  #write(page: number): void {
    const firstSlot = page * slotsPerSumsPage;
    const late: boolean[] = [];
    for (let i = 0; i < slotsPerSumsPage; i++) {
      const line = this.find(firstSlot + i);
      late.push(line >= 0 && this.#cache.isLate(line));
    }
    const { spans, holes } = spansOf(late);
    for (const span of spans) this.#writeSpan(firstSlot, span, late, holes);
    for (const [i, isLate] of late.entries()) {
      if (isLate) this.#cache.setLate(this.find(firstSlot + i), false);
    }
    this.#late.remove(page);
  }

  #writeSpan(firstSlot: number, span: SlotSpan, late: readonly boolean[], holes: boolean): void {
    const bytes = (span.end - span.first) * slotSumsBytes;
    const position = (firstSlot + span.first) * slotSumsBytes;
    if (holes) this.file.readSync(this.#pageBytes, 0, bytes, position);
    const cached = this.#cache.sums;
    for (let slot = span.first; slot < span.end; slot++) {
      if (!late[slot]) continue;
      const line = this.find(firstSlot + slot);
      this.#page.set(
        cached.subarray(line, line + blocksPerChunk),
        (slot - span.first) * blocksPerChunk,
      );
    }
    this.file.writeSync(this.#pageBytes, 0, bytes, position);
  }
}
