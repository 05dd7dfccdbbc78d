import type { WatchBatch, WatchedChange, WatchEvent, WatchPosition } from './watch.ts';

/**
 * What a watch knows: makes one history of events out of what nodes send, also when the objects come
 * all over again. Then only what differs is an event, so nobody hears of anything twice or not at all.
 */
export class WatchFold {
  readonly #known = new Map<string, { change: WatchedChange; text: string }>();
  /** objects of the list that is being read; null: none is */
  #listed: Set<string> | null = null;
  #position: WatchPosition | null = null;
  #isSynced = false;
  #isStale = false;

  /** Where to go on; null: nowhere yet. */
  get position(): WatchPosition | null {
    return this.#position;
  }

  /** True when the objects are to be sent all over again. */
  get needsList(): boolean {
    return this.#position === null || this.#isStale;
  }

  /** The position is no longer good. */
  expire(): void {
    this.#isStale = true;
  }

  /** A stream begins: a list that was cut off counts for nothing. */
  begin(): void {
    this.#listed = null;
  }

  apply(batch: WatchBatch): WatchEvent[] {
    const { revision, history } = batch;
    const events: WatchEvent[] = [];
    if (batch.listing) this.#listed ??= new Set();
    for (const change of batch.changes) {
      this.#listed?.add(keyOf(change));
      events.push(...this.#take(change, revision));
    }
    if (!batch.complete) return events;
    if (batch.listing) events.push(...this.#dropUnlisted(revision));
    this.#position = { history, revision };
    this.#isStale = false;
    if (!this.#isSynced) events.push({ type: 'SYNCED', revision });
    else if (events.length === 0) events.push({ type: 'BOOKMARK', revision });
    this.#isSynced = true;
    return events;
  }

  #take(change: WatchedChange, revision: number): WatchEvent[] {
    const key = keyOf(change);
    const known = this.#known.get(key);
    if (change.type === 'DELETED') {
      if (!known) return [];
      this.#known.delete(key);
      return [{ ...change, revision }];
    }
    const text = JSON.stringify(change.object);
    if (known?.text === text) return [];
    this.#known.set(key, { change, text });
    return [{ ...change, type: known ? 'MODIFIED' : 'ADDED', revision }];
  }

  #dropUnlisted(revision: number): WatchEvent[] {
    const listed = this.#listed ?? new Set<string>();
    this.#listed = null;
    const gone = [...this.#known].filter(([key]) => !listed.has(key));
    return gone.map(([key, { change }]) => {
      this.#known.delete(key);
      return { ...change, type: 'DELETED', revision };
    });
  }
}

function keyOf({ kind, id }: WatchedChange): string {
  return `${kind} ${id}`;
}
