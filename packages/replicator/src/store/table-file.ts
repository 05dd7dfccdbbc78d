import { StorError } from '@stor/protocol';
import { crc32, type Files, type OpenFile, preallocate } from '@stor/runtime';
import { isZero, unitBytes } from '../core/store/format.ts';
import { pageCopies, pageLsn, pagePairBytes, type PagedTable } from '../core/store/table-page.ts';
import type { IoPool } from './io-pool.ts';
import { type FailedStep, isLackOfSpace } from './replica-failure.ts';

/** Pages read, or made and written, at once: what the event loop does in well under 1 ms. */
const batchPages = 128;
/** Most pages that a table grows by at a time: 2 MiB. */
const maxGrowPages = 256;

/** The file of one table. */
export class TableFile {
  readonly #file: OpenFile;
  #pages: number;
  #growing: Promise<void> | null = null;

  private constructor(file: OpenFile) {
    this.#file = file;
    this.#pages = Math.floor(file.size().sizeBytes / pagePairBytes);
  }

  /** A killed process may have left one copy of a page in the page cache only: it is synced first. */
  static open(files: Files, path: string): TableFile {
    const file = files.open(path);
    try {
      file.datasyncSync();
      return new TableFile(file);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Makes the file with room for so many pages, so that writing one never needs new space. */
  static create(files: Files, path: string, pages: number): void {
    const file = files.create(path);
    try {
      preallocate(file, 0, pages * pagePairBytes);
      file.datasyncSync();
    } finally {
      file.close();
    }
  }

  /** As `create`, and synced in the pool: a lane serves clients meanwhile. */
  static async createInPool(
    files: Files,
    path: string,
    pages: number,
    pool: IoPool,
  ): Promise<void> {
    const file = files.create(path);
    try {
      preallocate(file, 0, pages * pagePairBytes);
      await pool.datasync(file);
    } finally {
      file.close();
    }
  }

  /** pages that there is room for */
  get pages(): number {
    return this.#pages;
  }

  /**
   * Makes room for the pages below `pages`, durably, before any record that needs them. `failed` hears
   * of a write or sync that failed, before anything else (I7): a sync may have lost pages of others, and
   * a later one would not say so. Lack of space in a write loses nothing, and is only thrown.
   */
  async ensure(
    pages: number,
    pool: IoPool,
    failed: (cause: unknown, step: FailedStep) => void = () => {},
  ): Promise<void> {
    while (this.#pages < pages) {
      this.#growing ??= this.#grow(pages, pool, failed).finally(() => {
        this.#growing = null;
      });
      await this.#growing;
    }
  }

  async #grow(
    pages: number,
    pool: IoPool,
    failed: (cause: unknown, step: FailedStep) => void,
  ): Promise<void> {
    const wanted = Math.max(pages, this.#pages + Math.min(this.#pages, maxGrowPages));
    const zeros = new Uint8Array(Math.min(64, wanted - this.#pages) * pagePairBytes);
    const end = wanted * pagePairBytes;
    let step: FailedStep = 'write';
    try {
      for (let at = this.#pages * pagePairBytes; at < end; at += zeros.length) {
        await pool.write(this.#file, zeros, 0, Math.min(zeros.length, end - at), at);
      }
      step = 'sync';
      await pool.datasync(this.#file);
    } catch (cause) {
      if (step === 'sync' || !isLackOfSpace(cause)) failed(cause, step);
      throw cause;
    }
    this.#pages = wanted;
  }

  /**
   * Fills the table from disk. A page with one bad copy is taken from the other and rewritten at
   * the next checkpoint. Throws DISK_FAILED when both are bad or a page that was there is missing.
   */
  load(table: PagedTable, expected: number): void {
    const found = this.#loadPages(table);
    if (found >= expected) return;
    throw new StorError(
      'DISK_FAILED',
      `${this.#file.path}: ${expected - found} of ${expected} pages are damaged in both copies`,
    );
  }

  #loadPages(table: PagedTable): number {
    const buffer = new Uint8Array(Math.min(batchPages, this.#pages) * pagePairBytes);
    let found = 0;
    for (let first = 0; first < this.#pages; first += batchPages) {
      const count = Math.min(batchPages, this.#pages - first);
      this.#file.readSync(buffer, 0, count * pagePairBytes, first * pagePairBytes);
      for (let i = 0; i < count; i++) {
        const pair = buffer.subarray(i * pagePairBytes, (i + 1) * pagePairBytes);
        if (loadPage(table, first + i, pair)) found += 1;
      }
    }
    return found;
  }

  /**
   * Writes all dirty pages, a batch at a time: first copies, sync, second copies, sync. Whatever
   * moment the power fails, one copy is whole, and the journal holds every change since.
   */
  async writeDirty(table: PagedTable, lsn: number, pool: IoPool): Promise<void> {
    let next = table.pages.dirty.indexOf(1);
    while (next >= 0) {
      const batch: number[] = [];
      for (
        ;
        next >= 0 && batch.length < batchPages;
        next = table.pages.dirty.indexOf(1, next + 1)
      ) {
        batch.push(next);
      }
      await this.#writeBatch(table, batch, lsn, pool);
    }
  }

  async #writeBatch(
    table: PagedTable,
    batch: readonly number[],
    lsn: number,
    pool: IoPool,
  ): Promise<void> {
    const pages = batch.map((page) => {
      table.pages.dirty[page] = 0;
      return { page, bytes: table.encodePage(page, lsn, crc32) };
    });
    for (let copy = 0; copy < pageCopies; copy++) {
      for (const { page, bytes } of pages) {
        const at = page * pagePairBytes + copy * unitBytes;
        await pool.write(this.#file, bytes, 0, unitBytes, at);
      }
      await pool.datasync(this.#file);
    }
    for (const { page } of pages) table.pages.written[page] = 1;
  }

  close(): void {
    this.#file.close();
  }
}

function loadPage(table: PagedTable, page: number, pair: Uint8Array): boolean {
  const a = pair.subarray(0, unitBytes);
  const b = pair.subarray(unitBytes);
  if (isZero(a.subarray(0, 16)) && isZero(b.subarray(0, 16))) return false;
  const lsnA = pageLsn(a, table.kind, page, table.owner, crc32);
  const lsnB = pageLsn(b, table.kind, page, table.owner, crc32);
  if (lsnA === null && lsnB === null) {
    // the first write ever of a page may be torn: the journal has all of it, the count tells
    table.pages.touch(page);
    return false;
  }
  table.loadPage(page, (lsnA ?? -1) >= (lsnB ?? -1) ? a : b);
  if (lsnA === null || lsnB === null) table.pages.touch(page);
  return true;
}
