import type { SnapshotId } from '@stor/protocol';

import { Bitmap } from './bitmap.ts';

/** One image that is being made equal. */
export interface FillPass {
  /** null: the live one */
  readonly snapshotId: SnapshotId | null;
  /** what has changed since the replica was equal may differ */
  fromChanged: boolean;
  /** nothing is known of when it was equal */
  fromAll: boolean;
  /** chunks of writes that were under way when the replica began to get them */
  always: Bitmap | null;
}

/**
 * The images of a replica in the order in which they are made equal: snapshots, oldest first, then the
 * live one.
 *
 * Outside of what has changed since the replica was equal to the others, no image differs. And where
 * neither side's chunk is another one than in a parent that is equal on both, they do not differ
 * either; the shell takes those away (`bound` is what is left to look at). What an earlier pass has to
 * look at may change under the images that grew from it, so it counts for all that follow.
 *
 * A snapshot that is taken meanwhile gets what the live image still lacked, and the live image another
 * pass after it.
 */
export class FillPasses {
  readonly #chunks: number;
  #queue: FillPass[] = [];
  /** null: it is not known what has changed; everything may have */
  #changed: Bitmap | null = null;
  readonly #equal = new Set<SnapshotId>();
  /** the first image that was the live one when the replica began to get writes, if that is frozen */
  #firstCut: FillPass | null = null;
  /** what earlier passes had to look at */
  #carried: Bitmap;

  /** `fromAll` of a snapshot: it is not certain that it was taken after the replica was equal. */
  constructor(chunks: number, snapshots: readonly { snapshotId: SnapshotId; fromAll: boolean }[]) {
    this.#chunks = chunks;
    this.#carried = new Bitmap(chunks);
    for (const { snapshotId, fromAll } of snapshots) {
      this.#queue.push({ snapshotId, fromChanged: true, fromAll, always: null });
    }
    this.#queue.push({ snapshotId: null, fromChanged: true, fromAll: false, always: null });
  }

  get current(): FillPass | null {
    return this.#queue[0] ?? null;
  }
  isPending(snapshotId: SnapshotId): boolean {
    return this.#queue.some((pass) => pass.snapshotId === snapshotId);
  }

  /** It was looked at to the end, so it is the same on both sides. */
  isEqual(snapshotId: SnapshotId): boolean {
    return this.#equal.has(snapshotId);
  }

  /** What may differ: chunks, or null for all; and those of writes that were under way. */
  changed(chunks: Bitmap | null, pending: Bitmap): void {
    this.#changed = chunks ?? Bitmap.full(this.#chunks);
    const live = this.#queue.find(({ snapshotId }) => snapshotId === null);
    // a snapshot that was taken since has them in it
    const first = this.#firstCut ?? live;
    if (first) first.always = pending;
  }

  /** Everything that may differ in the image of the current pass. */
  bound(): Bitmap {
    const pass = this.current;
    const bound = this.#carried.copy();
    if (pass?.fromAll === true) return Bitmap.full(this.#chunks);
    if (pass?.fromChanged === true) bound.addAll(this.#changed ?? Bitmap.full(this.#chunks));
    return bound;
  }

  /** The current pass looks at these. */
  begun(chunks: Bitmap): void {
    this.#carried.addAll(chunks);
  }

  /** The current image is equal. */
  done(): void {
    const done = this.#queue.shift();
    if (done?.snapshotId) this.#equal.add(done.snapshotId);
    // all are equal: what comes later begins from there
    if (this.#queue.length === 0) this.#carried = new Bitmap(this.#chunks);
  }

  /**
   * The live image is frozen as this snapshot. `left`: what the live pass had still to look at, when it
   * had begun.
   */
  cut(snapshotId: SnapshotId, left: Bitmap | null): void {
    const before = this.#queue.pop();
    const pass: FillPass = {
      snapshotId,
      fromChanged: before?.fromChanged ?? false,
      fromAll: before?.fromAll ?? false,
      always: before?.always ?? null,
    };
    this.#firstCut ??= pass;
    if (left) this.#carried.addAll(left);
    this.#queue.push(pass);
    this.#queue.push({ snapshotId: null, fromChanged: false, fromAll: false, always: null });
  }

  /** Nobody needs its content any more; what grew from it may differ where it did. */
  dropped(snapshotId: SnapshotId): void {
    const at = this.#queue.findIndex((pass) => pass.snapshotId === snapshotId);
    const gone = this.#queue[at];
    const next = this.#queue[at + 1];
    if (!gone || !next) return;
    next.fromChanged ||= gone.fromChanged;
    next.fromAll ||= gone.fromAll;
    if (gone.always) {
      next.always ??= new Bitmap(this.#chunks);
      next.always.addAll(gone.always);
    }
    if (this.#firstCut === gone) this.#firstCut = next;
    this.#queue.splice(at, 1);
  }
}
