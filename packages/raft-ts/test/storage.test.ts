import { Level } from 'level';
import t from 'tap';
import {
  LevelRaftStorage,
  membershipOf,
  MemoryRaftStorage,
  type RaftStorage,
} from '../src/index.ts';
import { storageSuite } from '../src/testing/index.ts';

t.test('memory', async (t) => {
  for (const { name, run } of storageSuite) {
    await t.test(name, async () => {
      const storage = new MemoryRaftStorage();
      await run({ reopen: () => Promise.resolve(storage) });
    });
  }
});

t.test('LevelDB', async (t) => {
  for (const { name, run } of storageSuite) {
    await t.test(name, async (t) => {
      const path = t.testdir();
      let open: LevelRaftStorage | null = null;
      const reopen = async (): Promise<RaftStorage> => {
        await open?.close();
        return (open = await LevelRaftStorage.open(path));
      };
      try {
        await run({ reopen });
      } finally {
        await (open as LevelRaftStorage | null)?.close();
      }
    });
  }
});

/** entry keys below 128 are UTF-8 as they are */
const options = { keyEncoding: 'utf8', valueEncoding: 'view' } as const;
const data = (text: string) => new TextEncoder().encode(text);

/** A store with entries 1 to 4, of which 2 to 4 were replaced, changed from outside by `damage`. */
async function damaged(
  path: string,
  damage: (db: Level<string, Uint8Array>) => Promise<void>,
): Promise<LevelRaftStorage> {
  const storage = await LevelRaftStorage.open(path);
  await storage.load();
  await storage.save({
    hardState: { term: 1, vote: 'a', commit: 2 },
    snapshot: { index: 0, term: 0, membership: membershipOf(['a']), data: new Uint8Array() },
    log: { type: 'reset', position: { index: 0, term: 0 } },
    entries: [1, 2, 3, 4].map((index) => ({ index, term: 1, type: 'normal', data: data('x') })),
  });
  await raw(path, storage, damage);
  return LevelRaftStorage.open(path);
}

const entryKey = (index: number) => `e\0\0\0\0\0\0\0${String.fromCharCode(index)}`;

/** Closes the store and does something with the bare database. */
async function raw<T>(
  path: string,
  storage: LevelRaftStorage,
  work: (db: Level<string, Uint8Array>) => Promise<T>,
): Promise<T> {
  await storage.close();
  const db = new Level<string, Uint8Array>(path, options);
  try {
    return await work(db);
  } finally {
    await db.close();
  }
}

async function flip(db: Level<string, Uint8Array>, key: string, at: number): Promise<void> {
  const value = Uint8Array.from(await db.get(key));
  value[at] = (value[at] ?? 0) ^ 1;
  await db.put(key, value);
}

t.test('damage is named, never mended by forgetting', async (t) => {
  const cases: [string, RegExp, (db: Level<string, Uint8Array>) => Promise<void>][] = [
    [
      'a flipped bit in an entry',
      /stored entry 3 is damaged.*checksum/,
      (db) => flip(db, entryKey(3), 20),
    ],
    [
      'a flipped bit in a checksum',
      /stored entry 1 is damaged.*checksum/,
      (db) => flip(db, entryKey(1), 0),
    ],
    ['a flipped bit in the hard state', /stored hard state is damaged/, (db) => flip(db, 'h', 8)],
    ['a flipped bit in the snapshot', /stored snapshot is damaged/, (db) => flip(db, 's', 8)],
    [
      'a flipped bit in the beginning',
      /stored beginning of the log is damaged/,
      (db) => flip(db, 'b', 8),
    ],
    ['a missing entry', /entry 2 is missing, entry 3 follows/, (db) => db.del(entryKey(2))],
    [
      'an entry under another key',
      /stored entry 2 is damaged.*checksum/,
      async (db) => db.put(entryKey(2), await db.get(entryKey(3))),
    ],
    [
      'a lost end that was committed',
      /ends at entry 1, but entry 2 was committed/,
      (db) => db.batch([2, 3, 4].map((i) => ({ type: 'del', key: entryKey(i) }))),
    ],
    ['a missing hard state', /hard state, snapshot or beginning is missing/, (db) => db.del('h')],
    ['a missing format', /lost its format mark/, (db) => db.del('f')],
  ];
  for (const [name, message, damage] of cases) {
    await t.test(name, async (t) => {
      let storage: LevelRaftStorage | null = null;
      const read = async () => {
        storage = await damaged(t.testdir(), damage);
        await storage.load();
      };
      await t.rejects(read(), { code: 'CORRUPT', message });
      await (storage as LevelRaftStorage | null)?.close();
    });
  }
});

t.test('a replacement of the log’s end that LevelDB skipped is noticed by the terms', async (t) => {
  const path = t.testdir();
  const storage = await damaged(path, () => Promise.resolve());
  await storage.load();
  const stale = await raw(path, storage, (db) => db.getMany([entryKey(3), entryKey(4)]));
  const again = await LevelRaftStorage.open(path);
  await again.load();
  const keep = { snapshot: null, log: { type: 'keep' } } as const;
  const entry = (index: number) => ({ index, term: 2, type: 'normal', data: data('y') }) as const;
  const hardState = { term: 2, vote: null, commit: 2 };
  await again.save({ ...keep, hardState, entries: [entry(3), entry(4)] });
  await again.save({ ...keep, hardState: null, entries: [entry(5)] });
  // entries 3 and 4 as they were, each with a good checksum
  await raw(path, again, async (db) => {
    for (const i of [0, 1]) await db.put(entryKey(3 + i), stale[i] ?? data(''));
  });
  const last = await LevelRaftStorage.open(path);
  await t.rejects(last.load(), {
    code: 'CORRUPT',
    message: /stored entry 5 .* before it should be of term 2 and is of term 1/,
  });
  await last.close();
});

t.test('a store is open once', async (t) => {
  const path = t.testdir();
  const storage = await LevelRaftStorage.open(path);
  await t.rejects(LevelRaftStorage.open(path), { code: 'IN_USE' });
  await storage.close();
  await storage.close();
  await (await LevelRaftStorage.open(path)).close();
});

t.test('a newer format is refused', async (t) => {
  const opening = damaged(t.testdir(), (db) => db.put('f', data('2')));
  await t.rejects(opening, { code: 'UNSUPPORTED_FORMAT', message: /format '2'/ });
});

t.test('after a failed save no other is made', async (t) => {
  const storage = await LevelRaftStorage.open(t.testdir());
  const batch = {
    hardState: { term: 1, vote: null, commit: 0 },
    snapshot: null,
    log: { type: 'keep' as const },
    entries: [],
  };
  await t.rejects(storage.save(batch), { code: 'INTERNAL', message: /was not loaded/ });
  await storage.load();
  await t.rejects(storage.save(batch), { code: 'INTERNAL', message: /was not loaded/ });
  await storage.close();
});
