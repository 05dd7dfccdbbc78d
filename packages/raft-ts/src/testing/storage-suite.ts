import assert from 'node:assert/strict';
import { crc32 } from '../core/crc32.ts';
import { membershipOf } from '../core/membership.ts';
import type { RaftStorage, SaveBatch } from '../core/storage.ts';
import type { Entry, SnapshotPiece } from '../core/types.ts';
import { inOnePiece } from '../core/whole-snapshot.ts';
import { RaftError } from '../errors.ts';
import {
  applyBatch,
  readContent,
  reopened,
  storedOf,
  type MemoryState,
} from '../memory-storage.ts';

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

/** A snapshot and its content, as a batch has them. */
function snapshotAt(index: number, term: number, source: 'made' | 'arriving' = 'made') {
  const membership = membershipOf(['a', 'b', 'c']);
  return inOnePiece({ index, term, membership, data: bytes(`state ${index}`) }, source);
}

/** The content of that in pieces of so many bytes. */
function cutAt(index: number, term: number, source: 'made' | 'arriving', size: number) {
  const { snapshot, pieces } = snapshotAt(index, term, source);
  const data = pieces[0]?.data ?? new Uint8Array();
  const cut: SnapshotPiece[] = [];
  for (let offset = 0; offset < data.length; offset += size) {
    const end = Math.min(offset + size, data.length);
    const checksum = crc32(data.subarray(0, end));
    const totalBytes = source === 'made' ? null : data.length;
    const part = data.subarray(offset, end);
    cut.push({ source, index, term, totalBytes, offset, data: part, checksum });
  }
  return { snapshot, cut };
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
    sizeBytes: 0,
    checksum: 0,
  },
  log: { type: 'reset', position: { index: 0, term: 0 } },
});

/** Saves batches one after another and compares with the model after each reopening. */
async function savesLikeTheModel(store: StorageUnderTest, batches: SaveBatch[]): Promise<void> {
  let model: MemoryState | null = null;
  let storage = await store.reopen();
  assert.equal(await storage.load(), null, 'a new store is empty');
  for (const next of [creation, ...batches]) {
    await storage.save(next);
    model = applyBatch(model, next);
    await hasContent(storage, model);
    storage = await store.reopen();
    model = reopened(model);
    assert.deepEqual(await storage.load(), storedOf(model));
    await hasContent(storage, model);
  }
}

/** Every range of the newest snapshot, and of those that were kept. */
async function hasContent(storage: RaftStorage, model: MemoryState): Promise<void> {
  for (const position of [model.snapshot, ...(model.kept ?? []).map((each) => each.position)]) {
    const size = sizeOf(model, position);
    for (let offset = 0; offset <= size; offset++) {
      for (let length = 0; length <= size - offset; length++) {
        const read = await storage.readSnapshot(position, offset, length);
        const expected = readContent(model, position, offset, length);
        assert.deepEqual(read && Buffer.from(read.data), expected && Buffer.from(expected.data));
        if (length > 0) assert.equal(read?.checksum, expected?.checksum);
      }
    }
  }
  assert.equal(await storage.readSnapshot({ index: 999, term: 999 }, 0, 1), null);
}

function sizeOf(model: MemoryState, position: { index: number; term: number }): number {
  const kept = model.kept?.find((each) => each.position === position);
  return kept ? kept.content.length : model.snapshot.sizeBytes;
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
          ...snapshotAt(3, 2),
          log: { type: 'compact', position: { index: 2, term: 1 } },
          entries: entries(5, 2),
        }),
        batch({
          ...snapshotAt(5, 2),
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
          ...snapshotAt(3, 2),
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
          ...snapshotAt(2, 3, 'arriving'),
          log: { type: 'reset', position: { index: 2, term: 3 } },
        }),
        batch({ entries: entries(3, 3) }),
        batch({
          hardState: hard(3, null, 100),
          ...snapshotAt(100, 3, 'arriving'),
          log: { type: 'reset', position: { index: 100, term: 3 } },
          entries: entries(101, 3),
        }),
      ]),
  },
  {
    name: 'a snapshot that arrives piece by piece counts when it is whole, and outlives a restart',
    run: (store) => {
      const { snapshot, cut } = cutAt(100, 3, 'arriving', 3);
      return savesLikeTheModel(store, [
        appended,
        ...cut.slice(0, -1).map((piece) => batch({ pieces: [piece] })),
        batch({
          hardState: hard(3, null, 100),
          pieces: cut.slice(-1),
          snapshot,
          log: { type: 'reset', position: { index: 100, term: 3 } },
        }),
        batch({ entries: entries(101, 3) }),
      ]);
    },
  },
  {
    name: 'a newer snapshot, or the same with other bytes, takes the place of one that arrives',
    run: (store) => {
      const old = cutAt(50, 2, 'arriving', 4);
      const newer = cutAt(100, 3, 'arriving', 2);
      return savesLikeTheModel(store, [
        appended,
        batch({ pieces: old.cut.slice(0, 1) }),
        batch({ pieces: [...old.cut.slice(0, 1), ...newer.cut.slice(0, 2)] }),
        batch({ pieces: newer.cut.slice(2, 3) }),
        batch({
          hardState: hard(3, null, 100),
          pieces: newer.cut.slice(3),
          snapshot: newer.snapshot,
          log: { type: 'reset', position: { index: 100, term: 3 } },
        }),
      ]);
    },
  },
  {
    name: 'an own snapshot and one that arrives go side by side',
    run: async (store) => {
      const own = cutAt(3, 2, 'made', 3);
      const other = cutAt(100, 3, 'arriving', 4);
      const both = [
        batch({ pieces: [...own.cut.slice(0, 1), ...other.cut.slice(0, 1)] }),
        batch({
          pieces: [...other.cut.slice(1, 2), ...own.cut.slice(1)],
          snapshot: own.snapshot,
          log: { type: 'compact', position: { index: 2, term: 1 } },
        }),
        batch({
          hardState: hard(3, null, 100),
          pieces: other.cut.slice(2),
          snapshot: other.snapshot,
          log: { type: 'reset', position: { index: 100, term: 3 } },
        }),
      ];
      // without a restart between them, which would drop the own one
      const storage = await store.reopen();
      await storage.load();
      let model: MemoryState | null = null;
      for (const next of [creation, appended, ...both]) {
        await storage.save(next);
        model = applyBatch(model, next);
        await hasContent(storage, model);
      }
      const again = await store.reopen();
      assert.deepEqual(await again.load(), model && storedOf(reopened(model)));
    },
  },
  {
    name: 'a snapshot that is being read outlives the newer ones for which it is kept',
    run: async (store) => {
      const storage = await store.reopen();
      await storage.load();
      let model: MemoryState | null = null;
      const first = { index: 1, term: 1 };
      const steps = [1, 2, 3, 4].map((index) => {
        const term = index < 3 ? 1 : 2;
        const log = { type: 'compact', position: { index, term } } as const;
        const keep = index < 4 ? [first] : [];
        return batch({ ...snapshotAt(index, term), log, keep });
      });
      for (const next of [creation, appended, ...steps]) {
        await storage.save(next);
        model = applyBatch(model, next);
        await hasContent(storage, model);
      }
      assert.equal(await storage.readSnapshot(first, 0, 1), null, 'it is gone in the end');
    },
  },
  {
    name: 'refuses a snapshot that is not whole',
    run: (store) => {
      const { snapshot, cut } = cutAt(3, 1, 'made', 3);
      const log = { type: 'compact', position: { index: 3, term: 1 } } as const;
      return refuses(store, batch({ pieces: cut.slice(0, -1), snapshot, log }));
    },
  },
  {
    name: 'refuses a piece that leaves a gap',
    run: (store) => refuses(store, batch({ pieces: cutAt(3, 1, 'made', 3).cut.slice(1) })),
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
          ...snapshotAt(1, 1),
          log: { type: 'compact', position: { index: 2, term: 1 } },
        }),
      ),
  },
];
