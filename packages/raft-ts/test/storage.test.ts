import { readdir, readFile, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { Level } from 'level';
import t from 'tap';
import { BytesWriter } from '../src/core/bytes.ts';
import { writeSnapshot } from '../src/core/codec.ts';
import {
  inOnePiece,
  LevelRaftStorage,
  membershipOf,
  MemoryRaftStorage,
  type RaftStorage,
  type SnapshotPiece,
} from '../src/index.ts';
import { MemoryKeyValueDisk, storageSuite } from '../src/testing/index.ts';
import { format2 } from './format-2.ts';

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
    snapshot: { index: 0, term: 0, membership: membershipOf(['a']), sizeBytes: 0, checksum: 0 },
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

t.test('what is damaged beyond recovery is named', async (t) => {
  const cases: [string, RegExp, (db: Level<string, Uint8Array>) => Promise<void>][] = [
    ['a flipped bit in the snapshot', /stored snapshot is damaged/, (db) => flip(db, 's', 8)],
    [
      'a flipped bit in the beginning',
      /stored beginning of the log is damaged/,
      (db) => flip(db, 'b', 8),
    ],
    ['a missing snapshot', /hard state, snapshot or beginning is missing/, (db) => db.del('s')],
    ['a missing format', /lost its format mark/, (db) => db.del('f')],
    ['an empty log', /is empty, but save 1 was acknowledged/, (db) => db.clear()],
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

t.test('lost entries that were acknowledged make a member that recovers', async (t) => {
  const acknowledged = { index: 4, term: 1 };
  const cases: [string, number, RegExp, (db: Level<string, Uint8Array>) => Promise<void>][] = [
    ['a flipped bit', 2, /stored entry 3 is damaged.*checksum/, (db) => flip(db, entryKey(3), 20)],
    ['a flipped checksum', 0, /stored entry 1 is damaged/, (db) => flip(db, entryKey(1), 0)],
    ['a missing entry', 1, /entry 2 is missing, entry 3 follows/, (db) => db.del(entryKey(2))],
    [
      'an entry under another key',
      1,
      /stored entry 2 is damaged.*checksum/,
      async (db) => db.put(entryKey(2), await db.get(entryKey(3))),
    ],
    [
      'a lost end',
      1,
      /ends at entry 1, but entry 4 was there/,
      (db) => db.batch([2, 3, 4].map((i) => ({ type: 'del', key: entryKey(i) }))),
    ],
    ['no number of the save', 4, /as of save 0, but save 1 was acknowledged/, (db) => db.del('q')],
  ];
  for (const [name, kept, reason, damage] of cases) {
    await t.test(name, async (t) => {
      const path = t.testdir();
      // the second time it is loaded from what the first has written
      let storage = await damaged(path, damage);
      for (let round = 0; round < 2; round++) {
        const state = await storage.load();
        t.equal(state?.entries.length, kept);
        t.same(state?.recoverTo, acknowledged);
        t.match(state?.hardState, { term: 1, vote: 'a' });
        if (round === 0) t.match(storage.lossReason, reason);
        else t.equal(storage.lossReason, null, 'and is remembered');
        await storage.close();
        storage = await LevelRaftStorage.open(path);
      }
      await storage.load();
      const rest = [1, 2, 3, 4].slice(kept);
      await storage.save({
        hardState: null,
        snapshot: null,
        log: { type: 'keep' },
        entries: rest.map((index) => ({ index, term: 1, type: 'normal', data: data('x') })),
        recovered: true,
      });
      await storage.close();
      storage = await LevelRaftStorage.open(path);
      const healed = await storage.load();
      t.notOk(healed?.recoverTo);
      t.equal(healed?.entries.length, 4);
      await storage.close();
    });
  }
});

t.test('a vote is known from the mark when the hard state is damaged', async (t) => {
  const storage = await damaged(t.testdir(), (db) => flip(db, 'h', 8));
  const state = await storage.load();
  t.same(state?.hardState, { term: 1, vote: 'a', commit: 0 });
  t.equal(state?.entries.length, 4);
  t.notOk(state?.recoverTo, 'no entry is lost');
  await storage.close();
});

t.test('without a mark nothing can be said', async (t) => {
  const path = t.testdir();
  await (await damaged(path, () => Promise.resolve())).close();
  await writeFile(`${path}/ACKNOWLEDGED`, new Uint8Array(1024));
  const storage = await LevelRaftStorage.open(path);
  await t.rejects(storage.load(), { code: 'CORRUPT', message: /the mark .* is lost/ });
  await storage.close();
});

t.test('LevelDB drops the end of its own log in silence: the mark knows', async (t) => {
  const path = t.testdir();
  const storage = await LevelRaftStorage.open(path);
  await storage.load();
  const entry = (index: number) => ({ index, term: 1, type: 'normal', data: data('x') }) as const;
  await storage.save({
    hardState: { term: 1, vote: 'a', commit: 0 },
    snapshot: {
      index: 0,
      term: 0,
      membership: membershipOf(['a', 'b', 'c']),
      sizeBytes: 0,
      checksum: 0,
    },
    log: { type: 'reset', position: { index: 0, term: 0 } },
    entries: [entry(1), entry(2)],
  });
  const keep = { snapshot: null, log: { type: 'keep' } } as const;
  await storage.save({ ...keep, hardState: null, entries: [entry(3)] });
  await storage.save({
    ...keep,
    hardState: { term: 2, vote: 'c', commit: 1 },
    entries: [entry(4)],
  });
  await storage.close();
  // the newest record of its newest log, of which nobody would ever hear
  const [log] = (await readdir(path))
    .filter((name) => name.endsWith('.log'))
    .sort()
    .reverse();
  const bytes = await readFile(`${path}/${log ?? ''}`);
  bytes[bytes.length - 3] = (bytes[bytes.length - 3] ?? 0) ^ 1;
  await writeFile(`${path}/${log ?? ''}`, bytes);
  const again = await LevelRaftStorage.open(path);
  const state = await again.load();
  t.same(state?.recoverTo, { index: 4, term: 1 });
  t.match(state?.hardState, { term: 2, vote: 'c' }, 'and the vote that was in it');
  t.match(
    state?.entries.map(({ index }) => index),
    [1, 2, 3],
  );
  t.match(again.lossReason, /as of save 2, but save 3 was acknowledged/);
  await again.close();
});

t.test('a store of format 1 is taken over when it is whole, and refused when not', async (t) => {
  for (const isWhole of [true, false]) {
    const path = t.testdir();
    const storage = await damaged(path, async (db) => {
      await db.del('q');
      await db.put('f', data('1'));
      await db.put('s', oldSnapshot(new Uint8Array(), 0, 0));
      if (!isWhole) await flip(db, entryKey(3), 20);
    });
    if (!isWhole) {
      await t.rejects(storage.load(), { code: 'CORRUPT', message: /stored entry 3 is damaged/ });
      await storage.close();
      continue;
    }
    t.equal((await storage.load())?.entries.length, 4);
    await storage.close();
    const again = await LevelRaftStorage.open(path);
    const state = await again.load();
    t.equal(state?.entries.length, 4);
    t.notOk(state?.recoverTo);
    await raw(path, again, async (db) => {
      t.same(await db.get('f'), data('3'));
    });
  }
});

/** As formats 1 and 2 have it: with its content in one record. */
function oldSnapshot(content: Uint8Array, index: number, term: number): Uint8Array {
  const writer = new BytesWriter();
  writer.u32(0);
  writeSnapshot(writer, { index, term, membership: membershipOf(['a']), data: content });
  const value = writer.finish();
  new DataView(value.buffer).setUint32(0, crc32(value.subarray(4), crc32(data('s'))));
  return value;
}

t.test('a store that an earlier program wrote is taken over as it is', async (t) => {
  const { records, marks } = format2;
  const path = t.testdir();
  const db = new Level<string, string>(path, { keyEncoding: 'hex', valueEncoding: 'hex' });
  await db.batch(records.map(([key, value]) => ({ type: 'put', key, value })));
  await db.close();
  await writeFile(`${path}/ACKNOWLEDGED`, Buffer.from(marks, 'base64'));
  for (let times = 0; times < 2; times++) {
    const storage = await LevelRaftStorage.open(path);
    const state = await storage.load();
    t.match(state, {
      hardState: { term: 2, vote: 'b', commit: 4 },
      start: { index: 3, term: 2 },
      snapshot: { index: 4, term: 2, membership: { voters: ['a', 'b', 'c'], learners: ['d'] } },
    });
    t.equal(storage.lossReason, null);
    t.notOk(state?.recoverTo);
    t.same(
      state?.entries.map((entry) => Buffer.from(entry.data).toString()),
      ['entry 4', 'entry 5'],
    );
    const position = { index: 4, term: 2 };
    const content = await storage.readSnapshot(position, 0, state?.snapshot.sizeBytes ?? 0);
    t.equal(Buffer.from(content?.data ?? []).toString(), 'the state after entry 4');
    await storage.close();
  }
});

t.test('a large log snapshot of format 2 is cut into pieces, or left as it is', async (t) => {
  const content = randomBytes(600_000);
  for (const crash of [true, false]) {
    const disk = new MemoryKeyValueDisk({ random: () => 0 });
    const storage = await LevelRaftStorage.open('log', disk.open);
    await storage.load();
    await storage.save({
      hardState: { term: 1, vote: 'a', commit: 5 },
      ...inOnePiece({ index: 5, term: 1, membership: membershipOf(['a']), data: data('new') }),
      log: { type: 'reset', position: { index: 5, term: 1 } },
      entries: [],
    });
    await storage.close();
    // what the earlier program would have written
    for (const key of disk.copy('log').keys()) {
      if (key.startsWith('c')) disk.damage('log', Buffer.from(key, 'latin1'), null);
    }
    disk.damage('log', data('s'), oldSnapshot(content, 5, 1));
    disk.damage('log', data('f'), data('2'));
    if (crash) {
      disk.failWrite = () => 'ENOSPC';
      const crashed = await LevelRaftStorage.open('log', disk.open);
      await t.rejects(crashed.load(), { code: 'STORAGE_FAILED' });
      disk.failWrite = () => null;
      disk.kill();
    }
    const again = await LevelRaftStorage.open('log', disk.open);
    t.equal((await again.load())?.snapshot.sizeBytes, 600_000);
    const read = await again.readSnapshot({ index: 5, term: 1 }, 200_000, 300_000);
    t.ok(content.subarray(200_000, 500_000).equals(read?.data ?? new Uint8Array()));
    const keys = [...disk.copy('log').keys()];
    t.equal(keys.filter((key) => key.startsWith('c')).length, 3);
    await again.close();
  }
});

t.test('a damaged or missing piece of the log snapshot is noticed at the start', async (t) => {
  for (const how of ['flipped', 'missing', 'swapped'] as const) {
    const disk = new MemoryKeyValueDisk({ random: () => 0 });
    const storage = await LevelRaftStorage.open('log', disk.open);
    await storage.load();
    const { snapshot, pieces } = inPieces(Buffer.from('0123456789'), 2);
    const log = { type: 'reset', position: { index: 5, term: 1 } } as const;
    const hardState = { term: 1, vote: 'a', commit: 5 };
    await storage.save({ hardState, pieces, snapshot, log, entries: [] });
    await storage.close();
    const content = disk.copy('log');
    const [first = '', second = ''] = [...content.keys()]
      .filter((key) => key.startsWith('c'))
      .sort();
    const value = Uint8Array.from(content.get(second) ?? []);
    value[value.length - 1] = (value.at(-1) ?? 0) ^ 1;
    const damage = { flipped: value, missing: null, swapped: content.get(first) ?? null };
    disk.damage('log', Buffer.from(second, 'latin1'), damage[how]);
    const again = await LevelRaftStorage.open('log', disk.open);
    await t.rejects(again.load(), { code: 'CORRUPT', message: /stored snapshot is damaged/ }, how);
    await again.close();
  }
});

t.test('of an arriving snapshot the undamaged beginning is kept', async (t) => {
  const disk = new MemoryKeyValueDisk({ random: () => 0 });
  const storage = await LevelRaftStorage.open('log', disk.open);
  await storage.load();
  const { snapshot, pieces } = inPieces(Buffer.from('0123456789'), 2, 'arriving');
  const empty = { index: 0, term: 0, membership: membershipOf(['a']), sizeBytes: 0, checksum: 0 };
  await storage.save({
    hardState: { term: 1, vote: 'a', commit: 0 },
    pieces: pieces.slice(0, 4),
    snapshot: empty,
    log: { type: 'reset', position: { index: 0, term: 0 } },
    entries: [],
  });
  await storage.close();
  const third = [...disk.copy('log').keys()].filter((key) => key.startsWith('c')).sort()[2] ?? '';
  disk.damage('log', Buffer.from(third, 'latin1'), new Uint8Array(3));
  const again = await LevelRaftStorage.open('log', disk.open);
  const state = await again.load();
  t.match(state?.arriving, { index: 5, term: 1, totalBytes: 10, bytes: 4 });
  t.notOk(state?.recoverTo, 'nothing is lost that cannot be sent again');
  const log = { type: 'reset', position: { index: 5, term: 1 } } as const;
  const hardState = { term: 1, vote: 'a', commit: 5 };
  await again.save({ hardState, pieces: pieces.slice(2), snapshot, log, entries: [] });
  const read = await again.readSnapshot({ index: 5, term: 1 }, 0, 10);
  t.equal(Buffer.from(read?.data ?? []).toString(), '0123456789');
  await again.close();
});

/** A snapshot at 5/1 in pieces of so many bytes. */
function inPieces(content: Uint8Array, size: number, source: 'made' | 'arriving' = 'made') {
  const whole = { index: 5, term: 1, membership: membershipOf(['a']), data: content };
  const { snapshot } = inOnePiece(whole);
  const pieces: SnapshotPiece[] = [];
  for (let offset = 0; offset < content.length; offset += size) {
    const part = content.subarray(offset, offset + size);
    const checksum = crc32(content.subarray(0, offset + part.length));
    const totalBytes = content.length;
    pieces.push({ source, index: 5, term: 1, totalBytes, offset, data: part, checksum });
  }
  return { snapshot, pieces };
}

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
  const state = await last.load();
  t.match(last.lossReason, /before entry 5 should be of term 2 and is of term 1/);
  t.same(state?.entries, [], 'how much is old cannot be seen');
  t.same(state?.recoverTo, { index: 5, term: 2 });
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
  const opening = damaged(t.testdir(), (db) => db.put('f', data('4')));
  await t.rejects(opening, { code: 'UNSUPPORTED_FORMAT', message: /format '4'/ });
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
