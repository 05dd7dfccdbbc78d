import { watchKinds } from '@stor/protocol';
import type {
  WatchBatch,
  WatchedChange,
  WatchKind,
  WatchPosition,
  WatchStart,
} from '@stor/protocol';
import type { WatchHistory } from './watch-history.ts';

/** Objects or changes in one message: some 100 KiB of volumes of one segment. */
const maxChangesInBatch = 100;

/** What one watcher is sent of a history, one message after the other. */
export class WatchCursor {
  readonly #history: WatchHistory;
  readonly #kinds: ReadonlySet<WatchKind>;
  readonly #name: string;
  readonly #maxChanges: number;
  /** the rest of what was begun: a list, or the changes of one revision */
  #pieces: WatchBatch[] = [];
  /** of the last entry that was begun */
  #seq: number;

  /** See `WatchHistory.resume` for the errors. */
  constructor(history: WatchHistory, start: WatchStart, maxChanges = maxChangesInBatch) {
    this.#history = history;
    this.#kinds = new Set(start.kinds);
    this.#name = start.name;
    this.#maxChanges = maxChanges;
    const seq = history.resume(start, this.#kinds);
    this.#seq = seq ?? history.lastSeq;
    if (seq === null) this.#cut(this.#objects(), history.position(this.#kinds), true);
  }

  /** The next message; null: there is nothing new. TOO_SLOW. */
  next(): WatchBatch | null {
    for (;;) {
      const piece = this.#pieces.shift();
      if (piece) return piece;
      const entry = this.#history.after(this.#seq);
      if (!entry) return null;
      this.#seq = entry.seq;
      const wanted = entry.changes.filter((change) => this.#wants(change));
      if (wanted.length > 0) this.#cut(wanted, this.#history.position(this.#kinds, entry), false);
    }
  }

  /** How far the watcher has come: only when `next` has just said that there is nothing new. */
  bookmark(): WatchBatch {
    const position = this.#history.position(this.#kinds);
    return { ...position, changes: [], complete: true, listing: false };
  }

  /** TOO_SLOW when something of what comes next is not kept any more. */
  check(): void {
    this.#history.after(this.#seq);
  }

  #objects(): WatchedChange[] {
    return watchKinds.flatMap((kind) =>
      Array.from(this.#history.objects(kind), ([id, object]) => {
        return { type: 'ADDED', kind, id, object } as WatchedChange;
      }).filter((change) => this.#wants(change)),
    );
  }

  #wants({ kind, id, object }: WatchedChange): boolean {
    if (!this.#kinds.has(kind)) return false;
    const { metadata } = object;
    return ['', id, metadata.id, metadata.name].includes(this.#name);
  }

  #cut(changes: WatchedChange[], position: WatchPosition, listing: boolean): void {
    const max = this.#maxChanges;
    for (let at = 0; at === 0 || at < changes.length; at += max) {
      const complete = at + max >= changes.length;
      this.#pieces.push({ ...position, changes: changes.slice(at, at + max), complete, listing });
    }
  }
}
