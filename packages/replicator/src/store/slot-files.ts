import { blockBytes, blocksPerChunk } from '@stor/protocol';
import { type Clock, crc32, type FileDone, type OpenFile, partOf } from '@stor/runtime';
import { slotBytes, slotSumsBytes, sumBytes, zeroBlockCrc } from '../core/store/format.ts';
import { joinedCrc } from '../core/store/joined-sums.ts';
import { slotsPerSumsPage } from '../core/store/late-sums.ts';
import type { Run } from '../core/store/runs.ts';
import type { SumsCache } from '../core/store/sums-cache.ts';
import { FileSync } from './file-sync.ts';
import type { IoPool } from './io-pool.ts';
import { SumsFile } from './sums-file.ts';

if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1) {
  throw new Error('the disk format is little-endian, and so must the host be');
}

/** The stored checksum of a block of zeros is 0, so this one never fits. */
const unreadableSum = 0xffffffff;
const zeroChunk = new Uint8Array(blocksPerChunk * blockBytes);

export interface SlotFilesParts {
  files: { data: OpenFile; sums: OpenFile };
  /** its number */
  lineage: number;
  cache: SumsCache;
  pool: IoPool;
  clock: Clock;
  syncFailed: (error: Error) => void;
  /** of a write that nobody waits for */
  writeFailed: (error: Error) => void;
}

/**
 * The bytes of one lineage: `data` (slots) and `sums` (a checksum per block of each slot). A block is
 * named by its linear number, slot * blocksPerChunk + block in slot, in both files.
 *
 * Data go to the pool when large; sums are always written in the event loop, right after their
 * data, so that the cache, the file and what inline readers see never differ. Those of small writes
 * are in the cache alone for a moment (`SumsFile`): before their part of the file is read, or synced,
 * it is written.
 */
export class SlotFiles {
  readonly data: OpenFile;
  readonly sums: OpenFile;
  /** written since the last sync began */
  dirty = false;

  readonly #sumsFile: SumsFile;
  readonly #cache: SumsCache;
  readonly #pool: IoPool;
  /** the file system, or the host, cannot */
  #cannotPunch = false;
  #syncing: Promise<void> | null = null;
  readonly #syncs: readonly FileSync[];
  /** sums pages that this process has touched: writing 4 bytes there reads nothing from disk */
  #warm = new Uint8Array(64);

  constructor({ files, lineage, cache, pool, clock, ...parts }: SlotFilesParts) {
    this.data = files.data;
    this.sums = files.sums;
    this.#sumsFile = new SumsFile({
      ...{ file: files.sums, lineage, cache, clock },
      failed: parts.writeFailed,
    });
    this.#cache = cache;
    this.#pool = pool;
    this.#syncs = [this.data, this.sums].map((file) => new FileSync(file, pool, parts.syncFailed));
  }

  isWarm(slot: number): boolean {
    return this.#warm[Math.floor(slot / slotsPerSumsPage)] === 1;
  }

  coolDown(): void {
    this.#warm.fill(0);
  }

  /** Brings the slots' checksums into the page cache, off this thread. */
  async warm(firstSlot: number, count: number): Promise<void> {
    const first = Math.floor(firstSlot / slotsPerSumsPage);
    const last = Math.floor((firstSlot + count - 1) / slotsPerSumsPage);
    const target = new Uint8Array((last - first + 1) * blockBytes);
    await this.#pool.read(this.sums, target, 0, target.length, first * blockBytes);
    this.#setWarm(first, last);
  }

  #setWarm(first: number, last: number): void {
    if (last >= this.#warm.length) {
      const larger = new Uint8Array(Math.max(last + 1, this.#warm.length * 2));
      larger.set(this.#warm);
      this.#warm = larger;
    }
    this.#warm.fill(1, first, last + 1);
  }

  writeSync(
    linear: number,
    count: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
  ): void {
    this.dirty = true;
    this.data.writeSync(bytes, start, count * blockBytes, linear * blockBytes);
    this.#takeSums(count, sums, sumsStart);
    this.#sumsFile.putLate(linear, count);
  }

  /** `isCached`: its pages are in the page cache already, as far as is known. */
  async write(
    linear: number,
    count: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
    isCached: boolean,
  ): Promise<void> {
    this.dirty = true;
    const length = count * blockBytes;
    await this.#pool.write(this.data, bytes, start, length, linear * blockBytes, isCached);
    // a sync may have begun meanwhile, without these bytes
    this.dirty = true;
    this.#takeSums(count, sums, sumsStart);
    this.#sumsFile.put(linear, count);
  }

  /** Zeros, at most one slot's worth. */
  async writeZeros(linear: number, count: number): Promise<void> {
    this.dirty = true;
    await this.#pool.write(this.data, zeroChunk, 0, count * blockBytes, linear * blockBytes);
    this.dirty = true;
    this.#sumsFile.scratch(count).fill(0, 0, count);
    this.#sumsFile.put(linear, count);
  }

  #takeSums(count: number, sums: Uint32Array, sumsStart: number): void {
    const scratch = this.#sumsFile.scratch(count);
    for (let i = 0; i < count; i++) scratch[i] = (sums[sumsStart + i] ?? 0) ^ zeroBlockCrc;
  }

  /** Reads within one slot and verifies; false when a block does not match. */
  readSync(linear: number, count: number, target: Uint8Array, start: number): boolean {
    this.data.readSync(target, start, count * blockBytes, linear * blockBytes);
    return this.matches(linear, count, target, start);
  }

  /** The checksums are in memory, or in pages that this process has touched. */
  #areSumsAtHand(linear: number, count: number): boolean {
    const last = Math.floor((linear + count - 1) / blocksPerChunk);
    for (let slot = Math.floor(linear / blocksPerChunk); slot <= last; slot++) {
      if (!this.isWarm(slot) && this.#sumsFile.find(slot) < 0) return false;
    }
    return true;
  }

  #sumsAtHand(linear: number, count: number): Uint32Array {
    const sums = new Uint32Array(count);
    for (let i = 0; i < count;) {
      const slot = Math.floor((linear + i) / blocksPerChunk);
      const within = (linear + i) % blocksPerChunk;
      const n = Math.min(count - i, blocksPerChunk - within);
      const line = this.#sumsFile.load(slot);
      for (let k = 0; k < n; k++) sums[i + k] = this.#cache.sums[line + within + k] ?? 0;
      i += n;
    }
    return sums;
  }

  /**
   * Reads in the pool; `valid[validStart + i]` becomes 1 where block i matches its checksum. The
   * caller keeps writes of the range away meanwhile, so sums read here belong to the data.
   * `storedSums`: the checksums are read from their file, where they too may have rotted.
   */
  async read(
    { linear, count }: Pick<Run, 'linear' | 'count'>,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    validStart: number,
    storedSums: boolean,
  ): Promise<void> {
    const length = count * blockBytes;
    const isAtHand = !storedSums && this.#areSumsAtHand(linear, count);
    const read = new Uint32Array(isAtHand ? 0 : count);
    const firstSlot = Math.floor(linear / blocksPerChunk);
    const lastSlot = Math.floor((linear + count - 1) / blocksPerChunk);
    if (!isAtHand) this.#sumsFile.settle(firstSlot, lastSlot);
    const reads = [this.#pool.read(this.data, target, start, length, linear * blockBytes)];
    if (!isAtHand) {
      const readBytes = new Uint8Array(read.buffer);
      reads.push(this.#pool.read(this.sums, readBytes, 0, readBytes.length, linear * sumBytes));
    }
    // settled, not raced: no read may still be writing to the target when the call is answered
    const results = await Promise.allSettled(reads);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    const sums = isAtHand ? this.#sumsAtHand(linear, count) : read;
    const isWhole = crc32(target.subarray(start, start + length)) === joinedCrc(sums, 0, count);
    if (isWhole) valid.fill(1, validStart, validStart + count);
    else this.#judgeBlocks(target, start, sums, valid, validStart);
    this.#setWarm(
      Math.floor(firstSlot / slotsPerSumsPage),
      Math.floor(lastSlot / slotsPerSumsPage),
    );
  }

  /** Finds the bad ones in a run that does not match. */
  #judgeBlocks(
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    valid: Uint8Array,
    validStart: number,
  ): void {
    for (const [i, stored] of sums.entries()) {
      const at = start + i * blockBytes;
      const sum = crc32(bytes.subarray(at, at + blockBytes)) ^ zeroBlockCrc;
      valid[validStart + i] = sum >>> 0 === stored ? 1 : 0;
    }
  }

  /**
   * Reads blocks of one slot in the pool; false, and nothing is read, when their checksums are not at
   * hand. What was read is to be judged by `matches`, in the turn in which `done` comes.
   */
  readSmall(
    linear: number,
    count: number,
    target: Uint8Array,
    start: number,
    done: FileDone,
  ): boolean {
    if (!this.#areSumsAtHand(linear, count)) return false;
    const position = linear * blockBytes;
    this.#pool.readSmall(this.data, target, start, count * blockBytes, position, done);
    return true;
  }

  /** Blocks of one slot are what their checksums say. */
  matches(linear: number, count: number, target: Uint8Array, start: number): boolean {
    const line = this.#sumsFile.load(Math.floor(linear / blocksPerChunk));
    const first = line + (linear % blocksPerChunk);
    const sum = crc32(partOf(target, start, count * blockBytes));
    return sum === joinedCrc(this.#cache.sums, first, count);
  }

  /** A whole slot as it lies there: bytes and stored checksums, not judged. */
  async readSlot(slot: number): Promise<{ bytes: Uint8Array; stored: Uint32Array }> {
    const bytes = new Uint8Array(slotBytes);
    const stored = new Uint32Array(blocksPerChunk);
    const sums = new Uint8Array(stored.buffer);
    this.#sumsFile.settle(slot, slot);
    const results = await Promise.allSettled([
      this.#pool.read(this.data, bytes, 0, slotBytes, slot * slotBytes),
      this.#pool.read(this.sums, sums, 0, slotSumsBytes, slot * slotSumsBytes),
    ]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return { bytes, stored };
  }

  /** As `readSlot`, block by block; one that cannot be read gets a checksum that does not fit. */
  async readDamagedSlot(slot: number): Promise<{ bytes: Uint8Array; stored: Uint32Array }> {
    const bytes = new Uint8Array(slotBytes);
    const stored = new Uint32Array(blocksPerChunk);
    const sums = new Uint8Array(stored.buffer);
    this.#sumsFile.settle(slot, slot);
    for (let block = 0; block < blocksPerChunk; block++) {
      const linear = slot * blocksPerChunk + block;
      const at = block * blockBytes;
      const results = await Promise.allSettled([
        this.#pool.read(this.data, bytes, at, blockBytes, linear * blockBytes),
        this.#pool.read(this.sums, sums, block * sumBytes, sumBytes, linear * sumBytes),
      ]);
      if (results.every((result) => result.status === 'fulfilled')) continue;
      bytes.fill(0, at, at + blockBytes);
      stored[block] = unreadableSum;
    }
    return { bytes, stored };
  }

  /** Writes a whole slot with checksums as they are stored. */
  async writeSlot(slot: number, bytes: Uint8Array, stored: Uint32Array): Promise<void> {
    this.dirty = true;
    await this.#pool.write(this.data, bytes, 0, slotBytes, slot * slotBytes);
    this.dirty = true;
    this.#sumsFile.scratch(blocksPerChunk).set(stored);
    this.#sumsFile.put(slot * blocksPerChunk, blocksPerChunk);
  }

  /** Freed slots can be given back to the file system. */
  get canPunch(): boolean {
    return this.data.punch !== undefined && !this.#cannotPunch;
  }

  /**
   * Gives the slots (ascending) back to the file system; they read as zeros. False where that cannot
   * be done: then nothing is known of them, and they are to be zeroed.
   */
  async punch(slots: readonly number[]): Promise<boolean> {
    if (!this.canPunch) return false;
    const ranges: { offset: number; length: number }[] = [];
    for (const slot of slots) {
      const last = ranges.at(-1);
      const offset = slot * slotBytes;
      if (last && last.offset + last.length === offset) last.length += slotBytes;
      else ranges.push({ offset, length: slotBytes });
    }
    const punched = await new Promise<boolean>((resolve) => {
      this.data.punch?.(ranges, (error) => {
        resolve(error === null);
      });
    });
    this.dirty = true;
    if (!punched) {
      this.#cannotPunch = true;
      return false;
    }
    for (const slot of slots) {
      this.#sumsFile.scratch(blocksPerChunk).fill(0, 0, blocksPerChunk);
      this.#sumsFile.put(slot * blocksPerChunk, blocksPerChunk);
    }
    return true;
  }

  /** Makes all bytes written before durable, also those that another sync under way has begun with. */
  async sync(): Promise<void> {
    while (this.#syncing) await this.#syncing;
    if (!this.dirty) return;
    this.dirty = false;
    this.#syncing = this.#sync((file) => file.sync());
    try {
      await this.#syncing;
    } catch (error) {
      // what it did not make durable is not durable for the next one either
      this.dirty = true;
      throw error;
    } finally {
      this.#syncing = null;
    }
  }

  /** As `sync`, whatever another sync under way may have covered; for work that nobody is told of. */
  syncNow(): Promise<void> {
    return this.#sync((file) => file.syncOwn());
  }

  async #sync(sync: (file: FileSync) => Promise<void>): Promise<void> {
    this.#sumsFile.settleAll();
    const results = await Promise.allSettled(this.#syncs.map(sync));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  close(): void {
    this.data.close();
    this.#sumsFile.close();
  }
}
