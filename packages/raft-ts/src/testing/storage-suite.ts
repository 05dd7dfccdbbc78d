import assert from 'node:assert/strict';
import { membershipOf } from '../core/membership.ts';
import type { RaftStorage, SaveBatch, StoredState } from '../core/storage.ts';
import type { Entry } from '../core/types.ts';
import { RaftError } from '../errors.ts';
import { applyBatch } from '../memory-storage.ts';

/**
 * What every RaftStorage does. `reopen` closes the store, if it is open, and opens what it left
 * behind; the first call of a test finds nothing.
 */
export interface StorageUnderTest {
  reopen(): Promise<RaftStorage>;
}

export interface StorageTest {
  name: string;
  run(store: StorageUnderTest): Promise<void>;
}

const bytes = (text: string) => new TextEncoder().encode(text);

function entries(first: number, ...terms: number[]): Entry[] {
  return terms.map((term, i) => {
    const index = first + i;
    return { index, term, type: 'normal', data: bytes(`${index}.${term}`) };
  });
}

function snapshotAt(index: number, term: number) {
  return { index, term, membership: membershipOf(['a', 'b', 'c']), data: bytes(`state ${index}`) };
}

function batch(changes: Partial<SaveBatch>): SaveBatch {
  return { hardState: null, snapshot: null, log: { type: 'keep' }, entries: [], ...changes };
}

const creation = batch({
  hardState: { term: 0, vote: null, commit: 0 },
  snapshot: {
    index: 0,
    term: 0,
    membership: membershipOf(['a', 'b', 'c']),
    data: new Uint8Array(),
  },
  log: { type: 'reset', position: { index: 0, term: 0 } },
});

/** Saves batches one after another and compares with the model after each reopening. */
async function savesLikeTheModel(store: StorageUnderTest, batches: SaveBatch[]): Promise<void> {
  let model: StoredState | null = null;
  let storage = await store.reopen();
  assert.equal(await storage.load(), null, 'a new store is empty');
  for (const next of [creation, ...batches]) {
    await storage.save(next);
    model = applyBatch(model, next);
    storage = await store.reopen();
    assert.deepEqual(await storage.load(), model);
  }
}

async function refuses(store: StorageUnderTest, refused: SaveBatch): Promise<void> {
  const storage = await store.reopen();
  await storage.load();
  await storage.save(creation);
  await storage.save(batch({ hardState: hard(1, 'a', 0), entries: entries(1, 1, 1, 1) }));
  await assert.rejects(storage.save(refused), (error) => {
    return error instanceof RaftError && error.code === 'INTERNAL';
  });
  const after = await (await store.reopen()).load();
  assert.deepEqual(after?.entries, entries(1, 1, 1, 1), 'nothing of it was saved');
}

function hard(term: number, vote: string | null, commit: number) {
  return { term, vote, commit };
}

const appended = batch({ hardState: hard(2, 'b', 1), entries: entries(1, 1, 1, 2, 2) });

export const storageSuite: StorageTest[] = [
  {
    name: 'is empty, then remembers voters and hard state',
    run: (store) =>
      savesLikeTheModel(store, [
        batch({ hardState: hard(1, null, 0) }),
        batch({ hardState: hard(2, 'b', 0) }),
      ]),
  },
  {
    name: 'appends, and a shorter end replaces a longer one',
    run: (store) =>
      savesLikeTheModel(store, [
        appended,
        batch({ entries: entries(5, 2) }),
        batch({ hardState: hard(3, null, 2), entries: entries(3, 3) }),
        batch({ entries: entries(4, 3, 3) }),
      ]),
  },
  {
    name: 'compacts behind its own snapshot and goes on',
    run: (store) =>
      savesLikeTheModel(store, [
        appended,
        batch({
          hardState: hard(2, 'b', 4),
          snapshot: snapshotAt(3, 2),
          log: { type: 'compact', position: { index: 2, term: 1 } },
          entries: entries(5, 2),
        }),
        batch({
          snapshot: snapshotAt(5, 2),
          log: { type: 'compact', position: { index: 5, term: 2 } },
        }),
        batch({ hardState: hard(4, null, 5), entries: entries(6, 4, 4) }),
      ]),
  },
  {
    name: 'compacts to where it begins already',
    run: (store) =>
      savesLikeTheModel(store, [
        appended,
        batch({
          hardState: hard(2, 'b', 4),
          snapshot: snapshotAt(3, 2),
          log: { type: 'compact', position: { index: 0, term: 0 } },
        }),
      ]),
  },
  {
    name: 'a leader’s snapshot replaces the log, also one that reaches beyond it',
    run: (store) =>
      savesLikeTheModel(store, [
        appended,
        batch({
          hardState: hard(3, null, 2),
          snapshot: snapshotAt(2, 3),
          log: { type: 'reset', position: { index: 2, term: 3 } },
        }),
        batch({ entries: entries(3, 3) }),
        batch({
          hardState: hard(3, null, 100),
          snapshot: snapshotAt(100, 3),
          log: { type: 'reset', position: { index: 100, term: 3 } },
          entries: entries(101, 3),
        }),
      ]),
  },
  {
    name: 'keeps large and empty data, and all types',
    run: (store) =>
      savesLikeTheModel(store, [
        batch({
          hardState: hard(1, null, 0),
          entries: [
            { index: 1, term: 1, type: 'empty', data: new Uint8Array() },
            { index: 2, term: 1, type: 'config', data: bytes('c') },
            { index: 3, term: 1, type: 'normal', data: new Uint8Array(3 << 20).fill(7) },
          ],
        }),
      ]),
  },
  {
    name: 'keeps entries in order of index where the number of digits changes',
    run: (store) =>
      savesLikeTheModel(store, [
        batch({ hardState: hard(1, null, 0), entries: entries(1, ...Array<number>(300).fill(1)) }),
      ]),
  },
  {
    name: 'refuses a gap after the log',
    run: (store) => refuses(store, batch({ entries: entries(5, 1) })),
  },
  {
    name: 'refuses a gap inside a batch',
    run: (store) => refuses(store, batch({ entries: [...entries(4, 1), ...entries(6, 1)] })),
  },
  {
    name: 'refuses to compact without a snapshot that covers it',
    run: (store) =>
      refuses(store, batch({ log: { type: 'compact', position: { index: 2, term: 1 } } })),
  },
  {
    name: 'refuses to compact beyond its snapshot',
    run: (store) =>
      refuses(
        store,
        batch({
          snapshot: snapshotAt(1, 1),
          log: { type: 'compact', position: { index: 2, term: 1 } },
        }),
      ),
  },
];
