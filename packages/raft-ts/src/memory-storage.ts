import { applyToExtent } from './core/log-extent.ts';
import { membershipOf } from './core/membership.ts';
import {
  verifyStoredState,
  type RaftStorage,
  type SaveBatch,
  type StoredState,
} from './core/storage.ts';

/** A store that forgets all when the process ends: for tests, and for trying things out. */
export class MemoryRaftStorage implements RaftStorage {
  #state: StoredState | null;

  constructor(state: StoredState | null = null) {
    this.#state = state;
  }

  load(): Promise<StoredState | null> {
    if (this.#state) verifyStoredState(this.#state);
    return Promise.resolve(this.#state && { ...this.#state, entries: this.#state.entries.slice() });
  }

  async save(batch: SaveBatch): Promise<void> {
    this.#state = applyBatch(this.#state, batch);
  }
}

/** The state after a batch; the model of what every store does. */
export function applyBatch(state: StoredState | null, batch: SaveBatch): StoredState {
  const before: StoredState = state ?? {
    hardState: { term: 0, vote: null, commit: 0 },
    snapshot: { index: 0, term: 0, membership: membershipOf([]), data: new Uint8Array() },
    start: { index: 0, term: 0 },
    entries: [],
  };
  const last = before.start.index + before.entries.length;
  const change = applyToExtent(before.start, last, batch);
  const kept = before.entries.filter(
    ({ index }) => !change.deletions.some((d) => d.first <= index && index <= d.last),
  );
  const first = batch.entries[0];
  const head = first ? kept.filter((entry) => entry.index < first.index) : kept;
  return {
    hardState: batch.hardState ?? before.hardState,
    snapshot: batch.snapshot ?? before.snapshot,
    start: change.start,
    entries: [...head, ...batch.entries],
    ...(before.recoverTo && !batch.recovered ? { recoverTo: before.recoverTo } : {}),
  };
}
