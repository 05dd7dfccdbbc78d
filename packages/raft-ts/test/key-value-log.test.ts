import fc from 'fast-check';
import t from 'tap';
import {
  LevelRaftStorage,
  membershipOf,
  openLevelLog,
  type KeyValueLog,
  type SaveBatch,
} from '../src/index.ts';
import {
  keyValueLogSuite,
  MemoryKeyValueDisk,
  seededRandom,
  storageSuite,
} from '../src/testing/index.ts';

t.test('LevelDB', async (t) => {
  for (const { name, run } of keyValueLogSuite) {
    await t.test(name, async (t) => {
      const path = t.testdir();
      await run(() => openLevelLog(path));
    });
  }
});

t.test('the model of LevelDB', async (t) => {
  for (const { name, run } of keyValueLogSuite) {
    await t.test(name, async () => {
      const disk = new MemoryKeyValueDisk({ random: seededRandom(1) });
      await run(() => disk.open('/raft'));
    });
  }
});

t.test('Raft storage on the model', async (t) => {
  for (const { name, run } of storageSuite) {
    await t.test(name, async () => {
      const disk = new MemoryKeyValueDisk({ random: seededRandom(2) });
      let open: LevelRaftStorage | null = null;
      await run({
        reopen: async () => {
          await open?.close();
          return (open = await LevelRaftStorage.open('/raft', disk.open));
        },
      });
    });
  }
});

const put = (i: number) =>
  ({ type: 'put', key: Uint8Array.of(i), value: Uint8Array.of(i) }) as const;

async function keysOf(log: KeyValueLog): Promise<number[]> {
  const keys: number[] = [];
  for await (const [key] of log.range({})) keys.push(key[0] ?? -1);
  return keys;
}

/** Gives all batches at once; the first `finished` end before the crash. */
async function crash(
  seed: number,
  syncs: boolean[],
  finished: number,
  kind: 'kill' | 'losePower',
): Promise<{ kept: number; lostBatches: number }> {
  const turns: (() => void)[] = [];
  const schedule = (run: () => void) => turns.push(run);
  const disk = new MemoryKeyValueDisk({ random: seededRandom(seed), schedule });
  const log = await disk.open('/raft');
  let answered = 0;
  syncs.forEach((sync, i) => {
    void log.batch([put(i)], { sync }).then(() => answered++);
  });
  for (const turn of turns.splice(0, finished)) turn();
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(answered, Math.min(finished, syncs.length));
  disk[kind]();
  for (const turn of turns) turn();
  const keys = await keysOf(await disk.open('/raft'));
  t.same(
    keys,
    keys.map((_, i) => i),
    'what is there is a prefix',
  );
  t.equal(answered, Math.min(finished, syncs.length), 'nobody is answered by a dead process');
  return { kept: keys.length, lostBatches: disk.lostBatches };
}

t.test('a crash of the model leaves what it may', async (t) => {
  let lost = 0;
  let extra = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.nat(),
      fc.array(fc.boolean(), { minLength: 1, maxLength: 8 }),
      fc.nat(8),
      async (seed, syncs, count) => {
        const finished = Math.min(count, syncs.length);
        const killed = await crash(seed, syncs, finished, 'kill');
        t.ok(killed.kept >= finished, 'a kill loses nothing that was answered');
        const cut = await crash(seed, syncs, finished, 'losePower');
        const synced = syncs.slice(0, finished).lastIndexOf(true) + 1;
        t.ok(cut.kept >= synced, 'a power cut loses nothing that was synced');
        if (cut.kept < finished) lost++;
        if (killed.kept > finished) extra++;
      },
    ),
    { numRuns: 200 },
  );
  t.ok(lost > 10, 'batches that were answered unsynced were lost at times');
  t.ok(extra > 10, 'batches under way were written at times');
});

t.test('a write of the model fails when told to, and stops the Raft storage', async (t) => {
  const disk = new MemoryKeyValueDisk({ random: seededRandom(3) });
  const storage = await LevelRaftStorage.open('/raft', disk.open);
  await storage.load();
  disk.failWrite = () => 'EIO';
  const batch: SaveBatch = {
    hardState: { term: 1, vote: 'a', commit: 0 },
    snapshot: { index: 0, term: 0, membership: membershipOf(['a']), sizeBytes: 0, checksum: 0 },
    log: { type: 'reset', position: { index: 0, term: 0 } },
    entries: [],
  };
  await t.rejects(storage.save(batch), { code: 'STORAGE_FAILED' });
  disk.failWrite = () => null;
  await t.rejects(storage.save(batch), { code: 'STORAGE_FAILED' });
});
