import path from 'node:path';
import { StorError } from '@stor/protocol';
import { crc32, type Files, type OpenFile, preallocate } from '@stor/runtime';
import { isZero, unitBytes } from '../core/store/format.ts';
import type { ReplicaImage } from '../core/store/image.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import { pageCopies, pageLsn, pagePairBytes, type TableKind } from '../core/store/table-page.ts';
import type { IoPool } from './io-pool.ts';

export const tableKinds: readonly TableKind[] = ['map', 'regions'];
/** Pages read, or made and written, at once: what the event loop does in well under 1 ms. */
const batchPages = 128;

/** The files of a replica's two tables. */
export class TableFiles {
  readonly #files: Record<TableKind, OpenFile>;

  constructor(files: Record<TableKind, OpenFile>) {
    this.#files = files;
  }

  static open(files: Files, directory: string): TableFiles {
    const map = files.open(path.join(directory, 'map'));
    const regions = files.open(path.join(directory, 'regions'));
    // a killed process may have left one copy of a page in the page cache only
    for (const file of [map, regions]) file.datasyncSync();
    return new TableFiles({ map, regions });
  }

  /** Both tables at full size, so that their pages never need new space. */
  static create(files: Files, directory: string, tables: ReplicaTables): void {
    for (const kind of tableKinds) {
      const file = files.create(path.join(directory, kind));
      try {
        preallocate(file, 0, tables.pages[kind].dirty.length * pagePairBytes);
        file.datasyncSync();
      } finally {
        file.close();
      }
    }
  }

  /**
   * Fills the tables from disk. A page with one bad copy is taken from the other and rewritten at
   * the next checkpoint. Throws DISK_FAILED when both are bad or a page that was there is missing.
   */
  load(tables: ReplicaTables, image: ReplicaImage): void {
    for (const kind of tableKinds) {
      const found = this.#loadTable(tables, kind);
      const expected = kind === 'map' ? image.mapPages : image.regionPages;
      if (found >= expected) continue;
      throw new StorError(
        'DISK_FAILED',
        `${this.#files[kind].path}: ${expected - found} of ${expected} pages are damaged in both copies`,
      );
    }
  }

  #loadTable(tables: ReplicaTables, kind: TableKind): number {
    const pages = tables.pages[kind].dirty.length;
    const buffer = new Uint8Array(batchPages * pagePairBytes);
    let found = 0;
    for (let first = 0; first < pages; first += batchPages) {
      const count = Math.min(batchPages, pages - first);
      this.#files[kind].readSync(buffer, 0, count * pagePairBytes, first * pagePairBytes);
      for (let i = 0; i < count; i++) {
        const pair = buffer.subarray(i * pagePairBytes, (i + 1) * pagePairBytes);
        if (this.#loadPage(tables, kind, first + i, pair)) found += 1;
      }
    }
    return found;
  }

  #loadPage(tables: ReplicaTables, kind: TableKind, page: number, pair: Uint8Array): boolean {
    const a = pair.subarray(0, unitBytes);
    const b = pair.subarray(unitBytes);
    if (isZero(a.subarray(0, 16)) && isZero(b.subarray(0, 16))) return false;
    const lsnA = pageLsn(a, kind, page, tables.number, crc32);
    const lsnB = pageLsn(b, kind, page, tables.number, crc32);
    if (lsnA === null && lsnB === null) {
      // the first write ever of a page may be torn: the journal has all of it, the count tells
      tables.pages[kind].dirty[page] = 1;
      return false;
    }
    tables.loadPage(kind, page, (lsnA ?? -1) >= (lsnB ?? -1) ? a : b);
    if (lsnA === null || lsnB === null) tables.pages[kind].dirty[page] = 1;
    return true;
  }

  /**
   * Writes all dirty pages, a batch at a time: first copies, sync, second copies, sync. Whatever
   * moment the power fails, one copy is whole, and the journal holds every change since.
   */
  async writeDirty(tables: ReplicaTables, lsn: number, pool: IoPool): Promise<void> {
    for (const kind of tableKinds) {
      const { dirty } = tables.pages[kind];
      let next = dirty.indexOf(1);
      while (next >= 0) {
        const batch: number[] = [];
        for (; next >= 0 && batch.length < batchPages; next = dirty.indexOf(1, next + 1)) {
          batch.push(next);
        }
        await this.#writeBatch(tables, kind, batch, lsn, pool);
      }
    }
  }

  async #writeBatch(
    tables: ReplicaTables,
    kind: TableKind,
    batch: readonly number[],
    lsn: number,
    pool: IoPool,
  ): Promise<void> {
    const { dirty, written } = tables.pages[kind];
    const pages = batch.map((page) => {
      dirty[page] = 0;
      return { page, bytes: tables.encodePage(kind, page, lsn, crc32) };
    });
    const file = this.#files[kind];
    for (let copy = 0; copy < pageCopies; copy++) {
      for (const { page, bytes } of pages) {
        await pool.write(file, bytes, 0, unitBytes, page * pagePairBytes + copy * unitBytes);
      }
      await pool.datasync(file);
    }
    for (const { page } of pages) written[page] = 1;
  }

  close(): void {
    for (const kind of tableKinds) this.#files[kind].close();
  }
}
