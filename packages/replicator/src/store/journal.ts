import type { StorError } from '@stor/protocol';
import { crc32, type OpenFile } from '@stor/runtime';
import { unitBytes } from '../core/store/format.ts';
import {
  encodeFrame,
  encodeJournalHeader,
  maxFrameBytes,
  recordsThatFit,
} from '../core/store/journal-frame.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import type { StoreDone } from '../replica-store.ts';

export interface JournalStart {
  files: [OpenFile, OpenFile];
  /** size of each file */
  fileBytes: number;
  generation: number;
  nextLsn: number;
  /** Called for each record, in order, when its commit is durable. */
  apply(record: JournalRecord): void;
  /** A write or sync of the journal failed: must record it at once; returns what callers get. */
  fail(cause: unknown): StorError;
  /** The active file was left full: a checkpoint is wanted, so that it may be used again. */
  filled(): void;
}

/**
 * The write-ahead journal with group commit: what is appended while one commit is under way leaves
 * in the next, as one frame with one fdatasync. A frame is written only when the one before is
 * durable; recovery relies on that to tell a torn tail from damage.
 */
export class Journal {
  readonly #start: JournalStart;
  readonly #maxFrameBytes: number;
  #active = 0;
  #generation: number;
  #offset = unitBytes;
  #lastLsn: number;
  #durableLsn: number;
  /** last LSN in the file that is not active; null: that file may be used again */
  #otherLastLsn: number | null = null;
  #pending: JournalRecord[] = [];
  #waiters: { lsn: number; done: StoreDone }[] = [];
  #committing = false;
  #scheduled = false;
  #failure: StorError | null = null;

  /** The active file's header must be durable already. */
  constructor(start: JournalStart) {
    this.#start = start;
    this.#generation = start.generation;
    this.#lastLsn = start.nextLsn - 1;
    this.#durableLsn = this.#lastLsn;
    this.#maxFrameBytes = maxFrameBytesOf(start.fileBytes);
  }

  /** Begins the first file anew and makes that durable. */
  static prepare(file: OpenFile, generation: number, firstLsn: number): void {
    file.writeSync(encodeJournalHeader({ generation, firstLsn }, crc32), 0, unitBytes, 0);
    file.datasyncSync();
  }

  get lastLsn(): number {
    return this.#lastLsn;
  }

  get durableLsn(): number {
    return this.#durableLsn;
  }

  get generation(): number {
    return this.#generation;
  }

  /** Returns the record's LSN; it is committed by itself at the end of this turn. */
  append(record: JournalRecord): number {
    this.#lastLsn += 1;
    this.#pending.push(record);
    this.#schedule();
    return this.#lastLsn;
  }

  /** `done` comes in a later turn, or at once in a microtask when the record is durable already. */
  whenDurable(lsn: number, done: StoreDone): void {
    if (this.#failure || lsn <= this.#durableLsn) {
      const failure = this.#failure;
      queueMicrotask(() => {
        done(failure);
      });
      return;
    }
    this.#waiters.push({ lsn, done });
  }

  durable(lsn: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.whenDurable(lsn, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  /** Everything up to `lsn` is in tables and image. Returns false if the full file still holds more. */
  release(lsn: number): boolean {
    if (this.#otherLastLsn !== null && this.#otherLastLsn > lsn) return false;
    this.#otherLastLsn = null;
    this.#schedule();
    return true;
  }

  /** Callers from now on get the error; used when the disk fails elsewhere. */
  abandon(failure: StorError): void {
    this.#failure ??= failure;
    const waiters = this.#waiters;
    this.#waiters = [];
    this.#pending = [];
    for (const waiter of waiters) waiter.done(failure);
  }

  /** All records of one turn go into one frame: the commit begins when the turn's code is done. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  #pump(): void {
    if (this.#committing || this.#failure || this.#pending.length === 0) return;
    const count = recordsThatFit(this.#pending, this.#maxFrameBytes);
    const records = this.#pending.slice(0, count);
    const firstLsn = this.#lastLsn - this.#pending.length + 1;
    const frame = encodeFrame(this.#generation, firstLsn, records, crc32);
    if (this.#offset + frame.length > this.#start.fileBytes) {
      this.#switch(firstLsn);
      return;
    }
    this.#committing = true;
    this.#pending.splice(0, count);
    try {
      this.#file.writeSync(frame, 0, frame.length, this.#offset);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#offset += frame.length;
    this.#file.datasync((error) => {
      this.#committing = false;
      if (error) this.#fail(error);
      else this.#committed(firstLsn + count - 1, records);
    });
  }

  get #file(): OpenFile {
    return this.#active === 0 ? this.#start.files[0] : this.#start.files[1];
  }

  #committed(lsn: number, records: JournalRecord[]): void {
    if (this.#failure) return;
    this.#durableLsn = lsn;
    for (const record of records) this.#start.apply(record);
    const ready = this.#waiters.filter((waiter) => waiter.lsn <= lsn);
    this.#waiters = this.#waiters.filter((waiter) => waiter.lsn > lsn);
    for (const waiter of ready) waiter.done(null);
    this.#schedule();
  }

  /**
   * Goes on in the other file, once a checkpoint has emptied it; until then metadata changes wait.
   * The header is durable before the first frame, so a torn header never hides a frame.
   */
  #switch(firstLsn: number): void {
    if (this.#otherLastLsn !== null) {
      this.#start.filled();
      return;
    }
    this.#committing = true;
    this.#otherLastLsn = firstLsn - 1;
    this.#active = 1 - this.#active;
    this.#generation += 1;
    this.#offset = unitBytes;
    const header = encodeJournalHeader({ generation: this.#generation, firstLsn }, crc32);
    try {
      this.#file.writeSync(header, 0, unitBytes, 0);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#file.datasync((error) => {
      this.#committing = false;
      if (error) {
        this.#fail(error);
        return;
      }
      this.#start.filled();
      this.#schedule();
    });
  }

  #fail(cause: unknown): void {
    if (this.#failure) return;
    this.abandon(this.#start.fail(cause));
  }
}

/** Two frames fit into a file of any allowed size. */
export function maxFrameBytesOf(fileBytes: number): number {
  const half = Math.floor((fileBytes - unitBytes) / 2 / unitBytes) * unitBytes;
  return Math.min(maxFrameBytes, half);
}

/** How many 4-byte numbers one record may carry, so that it fits into a frame with others. */
export function maxRecordNumbers(fileBytes: number): number {
  return Math.min(16_384, Math.floor(maxFrameBytesOf(fileBytes) / 16) * 2);
}
