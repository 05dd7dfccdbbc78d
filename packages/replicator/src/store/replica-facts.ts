import { StorError } from '@stor/protocol';
import { stampsOf } from '../core/replication/generation-history.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import { regionPagesOf, type ReplicaTables } from '../core/store/replica-tables.ts';
import {
  compareGenerations,
  type Generation,
  type GenerationHistory,
  type SetView,
  type StoreDone,
} from '../replica-store.ts';

export interface FactsParts {
  tables: ReplicaTables;
  /** numbers in one journal record */
  maxRecordNumbers: number;
  /** Appends a record; `done` comes when it is durable. */
  append(record: JournalRecord, done: StoreDone | null): void;
  /** Makes room for so many pages of the table of regions, durably. */
  ensureRegions(pages: number): Promise<void>;
  /** Answers in a later turn. */
  answer(done: StoreDone, error: StorError): void;
  /** True while a writing call touches the region. */
  busy(region: number): boolean;
  /** Flushes unless a flush that began after the cut has succeeded. */
  flushCut(cut: number, done: StoreDone): void;
}

/**
 * What a replica durably knows about itself: epoch, set view, generation, marks. Compared with what
 * was appended, not with what is durable: two calls in one turn must not go back either.
 */
export class ReplicaFacts {
  readonly #parts: FactsParts;
  #epoch: number;
  #view: SetView | null;
  #generation: Generation;
  /** changes of the generation that are not in the journal yet, the first one under way */
  readonly #waiting: ((next: () => void) => void)[] = [];

  constructor(parts: FactsParts) {
    this.#parts = parts;
    this.#epoch = parts.tables.highestEpoch;
    this.#view = parts.tables.setView;
    this.#generation = parts.tables.generation;
  }

  fence(epoch: number, done: StoreDone): void {
    if (epoch < this.#epoch) {
      this.#parts.answer(done, this.#stale(`epoch ${epoch}`));
      return;
    }
    this.#epoch = epoch;
    this.#parts.append({ type: 'fence', replica: this.#number, epoch }, done);
  }

  recordSetView(view: SetView, done: StoreDone): void {
    const known = this.#view;
    const older =
      known !== null && view.epoch === known.epoch && view.setRevision < known.setRevision;
    if (older || view.epoch < this.#epoch) {
      const what = `set revision ${view.setRevision} of epoch ${view.epoch}`;
      this.#parts.answer(done, this.#stale(what));
      return;
    }
    this.#view = { ...view, members: [...view.members] };
    this.#epoch = view.epoch;
    this.#parts.append({ type: 'view', replica: this.#number, view: this.#view }, done);
  }

  /**
   * Makes sure itself that a flush began after the last cut, whatever the caller did: a mark that
   * is cleared while its region's writes are not durable would hide a difference for ever.
   */
  retireMarks(generation: Generation, done: StoreDone): void {
    if (compareGenerations(generation, this.#generation) < 0) {
      const { replicaId } = this.#parts.tables.identity;
      const message = `replica ${replicaId} has recorded a newer generation`;
      this.#parts.answer(done, new StorError('FAILED_PRECONDITION', message));
      return;
    }
    this.#generation = generation;
    // a cut that is taken while the flush is under way is the next retire's
    const { cut } = this.#parts.tables;
    this.#inOrder((next) => {
      this.#parts.flushCut(cut, (error) => {
        if (error) done(error);
        else this.#retire(generation, cut, done);
        next();
      });
    });
  }

  /**
   * Changes of the generation reach the journal in the order of the calls: a later one that needs no
   * flush would else be overtaken by the earlier, and the generation would go back. Callers
   * have one or two on their way.
   */
  #inOrder(append: (next: () => void) => void): void {
    this.#waiting.push(append);
    if (this.#waiting.length === 1) this.#appendFirst();
  }

  #appendFirst(): void {
    this.#waiting[0]?.(() => {
      this.#waiting.shift();
      this.#appendFirst();
    });
  }

  #retire(generation: Generation, cut: number, done: StoreDone): void {
    const parts = this.#parts;
    const regions = parts.tables.startRetire(cut, (region) => parts.busy(region));
    for (let i = 0; i < regions.length; i += parts.maxRecordNumbers) {
      const part = regions.slice(i, i + parts.maxRecordNumbers);
      parts.append({ type: 'retire', replica: this.#number, generation, regions: part }, null);
    }
    parts.append({ type: 'generation', replica: this.#number, generation }, done);
  }

  adoptGeneration(
    generation: Generation,
    history: GenerationHistory | null,
    done: StoreDone,
  ): void {
    this.#generation = generation;
    this.#inOrder((next) => {
      if (history) this.#takeOver(history);
      const after = history?.after ?? generation;
      this.#parts.append({ type: 'adopt', replica: this.#number, generation, after }, done);
      next();
    });
  }

  /** Stamps and marks come before the record that says that they are known. */
  #takeOver(history: GenerationHistory): void {
    const parts = this.#parts;
    const { maxRecordNumbers, tables } = parts;
    const replica = this.#number;
    const { marked, stamped } = stampsOf(history);
    const clean = marked.filter(
      (region) => region < tables.regionCount && !tables.isMarked(region),
    );
    for (let i = 0; i < clean.length; i += maxRecordNumbers) {
      const regions = Uint32Array.from(clean.slice(i, i + maxRecordNumbers));
      parts.append({ type: 'mark', replica, regions }, null);
    }
    for (const { generation, regions } of stamped) {
      for (let i = 0; i < regions.length; i += maxRecordNumbers) {
        const part = Uint32Array.from(regions.slice(i, i + maxRecordNumbers));
        parts.append({ type: 'stamp', replica, generation, regions: part }, null);
      }
    }
  }

  /** The table has room for the new regions before the record says that they are there. */
  async resize(sizeBytes: number): Promise<void> {
    await this.#parts.ensureRegions(regionPagesOf(sizeBytes));
    const { replicaId, sizeBytes: now } = this.#parts.tables.identity;
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < now) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `replica ${replicaId} has ${now} bytes and cannot be made ${sizeBytes}: it only grows`,
      );
    }
    await new Promise<void>((resolve, reject) => {
      this.#parts.append({ type: 'resize', replica: this.#number, sizeBytes }, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  get #number(): number {
    return this.#parts.tables.number;
  }

  #stale(what: string): StorError {
    return new StorError(
      'STALE_EPOCH',
      `replica ${this.#parts.tables.identity.replicaId} refuses ${what}: it has seen epoch ${this.#epoch}`,
      { details: { highestEpoch: String(this.#epoch) } },
    );
  }
}
