import fc from 'fast-check';
import t from 'tap';
import {
  LevelRaftStorage,
  membershipOf,
  MemoryRaftStorage,
  type SaveBatch,
  type StoredState,
} from '../src/index.ts';
import { asRaftError } from '../src/level-log.ts';
import { reaches } from '../src/core/storage.ts';
import { MemoryKeyValueDisk, seededRandom } from '../src/testing/index.ts';
import { bytes, Cluster } from './cluster.ts';

/** Saves as a member makes them: entries are added, or replace an end in a later term. */
function batches(steps: { count: number; cut: number; isNewTerm: boolean }[]): SaveBatch[] {
  let term = 1;
  let last = 0;
  const made: SaveBatch[] = [
    {
      hardState: { term: 0, vote: null, commit: 0 },
      snapshot: {
        index: 0,
        term: 0,
        membership: membershipOf(['a', 'b']),
        sizeBytes: 0,
        checksum: 0,
      },
      log: { type: 'reset', position: { index: 0, term: 0 } },
      entries: [],
    },
  ];
  for (const { count, cut, isNewTerm } of steps) {
    if (isNewTerm) term++;
    const first = isNewTerm ? Math.max(1, last + 1 - cut) : last + 1;
    const entries = Array.from({ length: count }, (_, i) => {
      return {
        index: first + i,
        term,
        type: 'normal' as const,
        data: bytes(`${first + i}.${term}`),
      };
    });
    if (count > 0) last = first + count - 1;
    const hardState = { term, vote: term % 2 === 0 ? 'a' : 'b', commit: 0 };
    made.push({ hardState, snapshot: null, log: { type: 'keep' }, entries });
  }
  return made;
}

const step = fc.record({ count: fc.nat(3), cut: fc.nat(3), isNewTerm: fc.boolean() });

function lastOf({ start, entries }: StoredState): { index: number; term: number } {
  return entries.at(-1) ?? start;
}

t.test(
  'a store that fell back to any save before knows it, and never forgets a vote',
  async (t) => {
    let fellBack = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 1, maxLength: 8 }),
        fc.nat(),
        async (steps, to) => {
          const disk = new MemoryKeyValueDisk({ random: seededRandom(1) });
          const storage = await LevelRaftStorage.open('/raft', disk.open);
          await storage.load();
          const model = new MemoryRaftStorage();
          const copies = [];
          for (const batch of batches(steps)) {
            await storage.save(batch);
            await model.save(batch);
            copies.push(disk.copy('/raft'));
          }
          await storage.close();
          const at = to % copies.length;
          disk.rewind('/raft', copies[at] ?? new Map());
          const expected = await model.load();
          if (!expected) return false;
          const again = await LevelRaftStorage.open('/raft', disk.open);
          const found = await again.load();
          await again.close();
          if (!found) return false;
          if (found.hardState.term !== expected.hardState.term) return false;
          if (found.hardState.vote !== expected.hardState.vote) return false;
          if (at === copies.length - 1) return found.recoverTo === undefined;
          fellBack++;
          return found.recoverTo !== undefined && reaches(found.recoverTo, lastOf(expected));
        },
      ),
      { numRuns: 300 },
    );
    t.ok(fellBack > 100, 'it did fall back');
  },
);

t.test('one damaged or missing record is never taken for nothing', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 1, maxLength: 6 }),
      fc.nat(),
      fc.option(fc.nat()),
      async (steps, which, flip) => {
        const disk = new MemoryKeyValueDisk({ random: seededRandom(1) });
        const storage = await LevelRaftStorage.open('/raft', disk.open);
        await storage.load();
        for (const batch of batches(steps)) await storage.save(batch);
        const before = await storage.load();
        await storage.close();
        const records = [...disk.copy('/raft')];
        const [key, value] = records[which % records.length] ?? ['', new Uint8Array()];
        const damaged = Uint8Array.from(value);
        if (flip !== null)
          damaged[flip % damaged.length] = (damaged[flip % damaged.length] ?? 0) ^ 4;
        disk.damage('/raft', Buffer.from(key, 'latin1'), flip === null ? null : damaged);
        let found: StoredState | null;
        try {
          const again = await LevelRaftStorage.open('/raft', disk.open);
          found = await again.load();
        } catch {
          return true; // refused, by name
        }
        const isSame =
          JSON.stringify(found?.entries) === JSON.stringify(before?.entries) &&
          found?.hardState.term === before?.hardState.term &&
          found?.hardState.vote === before?.hardState.vote;
        return isSame || found?.recoverTo !== undefined;
      },
    ),
    { numRuns: 300 },
  );
});

t.test('a crash at any moment of the recovery leaves a member that recovers', async (t) => {
  for (let failAt = 0; failAt < 4; failAt++) {
    const disk = new MemoryKeyValueDisk({ random: () => 0.9 });
    const storage = await LevelRaftStorage.open('/raft', disk.open);
    await storage.load();
    const [first, ...rest] = batches([
      { count: 3, cut: 0, isNewTerm: false },
      { count: 2, cut: 0, isNewTerm: true },
    ]);
    if (first) await storage.save(first);
    const early = disk.copy('/raft');
    for (const batch of rest) await storage.save(batch);
    await storage.close();
    disk.rewind('/raft', early);
    const crashed = await LevelRaftStorage.open('/raft', disk.open);
    let writes = 0;
    disk.failWrite = () => (writes++ >= failAt ? 'EIO' : null);
    await crashed.load().catch(() => undefined);
    disk.failWrite = () => null;
    disk.kill();
    const again = await LevelRaftStorage.open('/raft', disk.open);
    const state = await again.load();
    t.same(state?.recoverTo, { index: 5, term: 2 }, `write ${failAt} failed`);
    t.match(state?.hardState, { term: 2, vote: 'a' });
  }
});

t.test('a member whose log fell back is brought back by the others', async (t) => {
  const disks = new Map<string, MemoryKeyValueDisk>();
  const storageOf = async (id: string) => {
    const disk = disks.get(id) ?? new MemoryKeyValueDisk({ random: seededRandom(1) });
    disks.set(id, disk);
    return LevelRaftStorage.open(`/${id}`, disk.open);
  };
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  for (const id of ['a', 'b', 'c']) await cluster.start(id, { storage: await storageOf(id) });
  const { node: leader } = await cluster.untilLeader();
  const id = ['a', 'b', 'c'].find((each) => each !== leader.id) ?? '';
  await leader.propose(bytes('one'));
  await cluster.until('all have it', () => cluster.get(id).machine.items.length === 1);
  const early = disks.get(id)?.copy(`/${id}`) ?? new Map<string, Uint8Array>();
  for (const item of ['two', 'three']) await leader.propose(bytes(item));
  await cluster.until('all have all', () => cluster.get(id).machine.items.length === 3);
  await cluster.stop(id);
  disks.get(id)?.rewind(`/${id}`, early);
  cluster.network.isolate(id);
  const back = await cluster.start(id, { storage: await storageOf(id) });
  t.equal(back.node.health().state, 'recovering');
  for (let i = 0; i < 100; i++) {
    cluster.clock.advance(100);
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.equal(back.node.status().role, 'follower', 'it does not stand');
  cluster.network.heal();
  await cluster.until('it has recovered', () => back.node.health().state === 'ok');
  await cluster.until('it has all', () => back.machine.items.length === 3);
  t.same(back.fatal, []);
});

t.test('alone, there is nobody who could bring it back', async (t) => {
  const disk = new MemoryKeyValueDisk({ random: seededRandom(1) });
  const cluster = new Cluster(['a'], null);
  t.teardown(() => cluster.stopAll());
  const { node } = await cluster.start('a', {
    storage: await LevelRaftStorage.open('/a', disk.open),
  });
  await cluster.untilLeader();
  await node.propose(bytes('one'));
  const early = disk.copy('/a');
  await node.propose(bytes('two'));
  await cluster.stop('a');
  disk.rewind('/a', early);
  const storage = await LevelRaftStorage.open('/a', disk.open);
  await t.rejects(cluster.start('a', { storage }), { code: 'CORRUPT', message: /only voter/ });
  await storage.close();
});

t.test('the system’s reason is told apart', async (t) => {
  const deep = new Error('batch failed', { cause: new Error('IO error: No space left on device') });
  t.equal(asRaftError(deep, 'x').code, 'DISK_FULL');
  t.equal(asRaftError(new Error('IO error: Input/output error'), 'x').code, 'STORAGE_FAILED');
  t.equal(asRaftError(Object.assign(new Error('x'), { code: 'ENOSPC' }), 'x').code, 'DISK_FULL');
});

t.test('no space stops the node, and tells it', async (t) => {
  const disk = new MemoryKeyValueDisk({ random: seededRandom(1) });
  const cluster = new Cluster(['a'], null);
  t.teardown(() => cluster.stopAll());
  const { node, fatal } = await cluster.start('a', {
    storage: await LevelRaftStorage.open('/a', disk.open),
  });
  await cluster.untilLeader();
  disk.failWrite = () => 'ENOSPC: No space left on device';
  await t.rejects(node.propose(bytes('x')), { code: 'OUTCOME_UNKNOWN' });
  t.match(fatal, [{ code: 'STORAGE_FAILED' }]);
  t.match(node.health(), { state: 'failed', error: { message: /No space left/ } });
});
