import type { WatchEvent } from '../../cluster-store.ts';

/** All changes of one revision. */
export interface ChangeBatch {
  revision: number;
  events: readonly WatchEvent[];
}

/**
 * The latest changes, for watches. Watches read from here at their own pace, so a slow one costs
 * no memory: it is told when it has fallen behind what is kept.
 */
export class ChangeHistory {
  #batches: ChangeBatch[] = [];
  /** batches before this place are dropped; the array is cut when they are half of it */
  #first = 0;
  #changes = 0;
  #bytes = 0;
  #droppedRevision: number;
  readonly #maxChanges: number;
  readonly #maxBytes: number;

  constructor(startRevision: number, limits: { maxChanges: number; maxBytes: number }) {
    this.#droppedRevision = startRevision;
    this.#maxChanges = limits.maxChanges;
    this.#maxBytes = limits.maxBytes;
  }

  /** Changes up to this revision are no longer kept. */
  get droppedRevision(): number {
    return this.#droppedRevision;
  }

  add(batch: ChangeBatch): void {
    this.#batches.push(batch);
    this.#changes += batch.events.length;
    this.#bytes += bytesOf(batch);
    while (this.#changes > this.#maxChanges || this.#bytes > this.#maxBytes) this.#dropOldest();
    if (this.#first > 64 && this.#first * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#first);
      this.#first = 0;
    }
  }

  /** The first batch after a revision that is not below `droppedRevision`. */
  nextAfter(revision: number): ChangeBatch | null {
    let low = this.#first;
    let high = this.#batches.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#batches[middle] as ChangeBatch).revision <= revision) low = middle + 1;
      else high = middle;
    }
    return this.#batches[low] ?? null;
  }

  #dropOldest(): void {
    const batch = this.#batches[this.#first] as ChangeBatch;
    this.#first++;
    this.#changes -= batch.events.length;
    this.#bytes -= bytesOf(batch);
    this.#droppedRevision = batch.revision;
  }
}

function bytesOf(batch: ChangeBatch): number {
  return batch.events.reduce(
    (sum, event) => sum + event.key.length + (event.value?.length ?? 0),
    0,
  );
}
