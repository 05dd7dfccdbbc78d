/** What checkpoints and resyncs rest on: flushed before marks go, and nothing under way forgotten. */
import { blockBytes, chunkBytes, regionBytes, StorError } from '@stor/protocol';
import { FakeClock, FaultyFiles, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';

import {
  MemoryReplicaState,
  MemoryReplicaStore,
  ProcessClock,
  request,
  SimCluster,
  SimScheduler,
} from '@stor/replicator/testing';
import type { ReplicaStore } from '../src/index.ts';
import { call, identity, openStore, write as writeStore } from './store-fixture.ts';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

interface Opened {
  replica: ReplicaStore;
  /** runs until the promise is over */
  wait: <T>(promise: Promise<T>) => Promise<T>;
}

const stores: Record<string, () => Promise<Opened>> = {
  'in memory': async () => {
    const scheduler = new SimScheduler();
    const state = new MemoryReplicaState({ ...identity, sizeBytes });
    const clock = new ProcessClock(scheduler);
    const replica = new MemoryReplicaStore(state, 'd-1', clock, new SeededRandom(1));
    const wait = async <T>(promise: Promise<T>): Promise<T> => {
      while (scheduler.step(scheduler.nowMs + 1_000));
      return promise;
    };
    return { replica, wait };
  },
  'on disk': async () => {
    const store = await openStore('/disk', new FaultyFiles({ seed: 1 }).process(), {
      clock: new FakeClock(),
    });
    const replica = await store.createReplica({ ...identity, sizeBytes });
    return { replica, wait: (promise) => promise };
  },
};

for (const [name, openOne] of Object.entries(stores)) {
  t.test(`a retire leaves the marks that were used since the cut: ${name}`, async (t) => {
    const { replica, wait } = await openOne();
    const retire = (n: number): Promise<void> =>
      wait(
        call((done) => {
          replica.retireMarks({ epoch: 1, n }, done);
        }),
      );
    for (const region of [0, 1, 2]) {
      await wait(writeStore(replica, region * regionBytes, blockBytes, 1));
    }
    await retire(1);
    t.same(replica.marks(), [0, 1, 2], 'none was at rest for a whole checkpoint');
    replica.cutMarks();
    await wait(writeStore(replica, regionBytes, blockBytes, 2));
    await retire(2);
    t.same(replica.marks(), [1]);
    t.same(replica.regionsChangedSince({ epoch: 1, n: 2 }), [1]);
    replica.cutMarks();
    await retire(3);
    t.same(replica.marks(), []);
  });
}

t.test('a checkpoint clears no mark before every member has flushed', async (t) => {
  for (const stuck of [0, 1]) {
    const cluster = new SimCluster({ seed: 30 + stuck, sizeBytes });
    const volume = await cluster.wait(cluster.attach(2));
    const written = request(volume, 'write', 0, blockBytes, block(1));
    t.equal(await cluster.wait(written), null);
    await cluster.run(60_000);
    for (const state of cluster.states) t.equal(state.marks.size, 0, 'checkpoints went by');
    const before = cluster.states.map(({ generation }) => generation.n);
    t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(2))), null);
    cluster.store(stuck).stuck = true;
    // it is slow, not gone: no checkpoint may go on without it
    await cluster.run(9_000);
    cluster.network.cut('n-2', `n-${stuck}`);
    await cluster.run(60_000);
    t.equal(cluster.control.inSync.length, 2);
    const state = cluster.states[stuck];
    t.same(state?.generation.n, before[stuck], 'the one that left keeps its generation');
    t.ok(state?.marks.has(0), 'and its mark');
    for (const { retiredEarly } of cluster.states) t.equal(retiredEarly.size, 0);
  }
});

t.test('a write under way reaches a member that comes back meanwhile', async (t) => {
  const cluster = new SimCluster({ seed: 33, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  for (let chunk = 0; chunk < 48; chunk++) {
    const bytes = block(chunk + 1);
    await cluster.wait(request(volume, 'write', chunk * chunkBytes, blockBytes, bytes));
  }
  await cluster.run(60_000);
  t.equal(cluster.states[0]?.marks.size, 0);
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  await cluster.run(1_000);
  // what the local replica marks of it is not there before its disk goes on
  const local = cluster.store(0);
  local.stuck = true;
  const written = request(volume, 'write', 2 * regionBytes, blockBytes, block(200));
  await cluster.run(100);
  t.same(local.marks(), []);
  cluster.start(1);
  const isFilling = (): boolean => cluster.store(1).highestEpoch === local.highestEpoch;
  t.ok(await cluster.until(isFilling, 10_000));
  await cluster.run(3_000);
  t.notOk(cluster.control.inSync.includes('r-1'), 'not before it has that write');
  local.stuck = false;
  local.flush(() => {});
  t.equal(await cluster.wait(written), null);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
  await cluster.run(100);
  for (const state of cluster.states) {
    t.equal(state.bytes[2 * regionBytes], 200, state.identity.replicaId);
  }
});

t.test('nothing is acknowledged while a member still applies it', async (t) => {
  for (const kind of ['write', 'writeZeroes'] as const) {
    const cluster = new SimCluster({ seed: 34, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
    const slow = cluster.store(1);
    slow.stuck = true;
    let answered = false;
    const bytes = kind === 'write' ? block(2) : null;
    const changed = request(volume, kind, chunkBytes * 20, blockBytes, bytes).then((error) => {
      answered = true;
      return error;
    });
    await cluster.run(5_000);
    t.notOk(answered, kind);
    t.equal(cluster.control.inSync.length, 3);
    slow.stuck = false;
    slow.flush(() => {});
    t.equal(await cluster.wait(changed), null);
    t.equal(cluster.control.inSync.length, 3);
  }
});

t.test('a member whose flush failed is not told that the checkpoint is complete', async (t) => {
  const checkpointPace = { everyMs: 1_000, restSeconds: 1, minMs: 250 };
  const cluster = new SimCluster({ seed: 35, sizeBytes, checkpointPace });
  const volume = await cluster.wait(cluster.attach(2));
  const store = cluster.store(0);
  const slow = cluster.store(1);
  const goOn = (): void => {
    slow.stuck = false;
    slow.flush(() => {});
  };
  let flushes = 0;
  let refused = 0;
  let refuses = false;
  const flush = store.flush.bind(store);
  store.flush = (done) => {
    if (!refuses) {
      flushes += 1;
      flush(done);
      return;
    }
    refused += 1;
    done(new StorError('UNAVAILABLE', 'not now'));
  };
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
  slow.stuck = true;
  t.ok(await cluster.until(() => flushes === 1, 10_000));
  await cluster.run(50);
  // after the flush of this checkpoint and before its cut: the next one clears its mark
  const written = request(volume, 'write', regionBytes, blockBytes, block(2));
  await cluster.run(50);
  goOn();
  t.equal(await cluster.wait(written), null);
  // by both: one that is stuck before it has completed this one keeps the next from beginning
  const isComplete = (): boolean => store.generation.n === 1 && slow.generation.n === 1;
  t.ok(await cluster.until(isComplete, 1_000));

  slow.stuck = true;
  refuses = true;
  t.ok(await cluster.until(() => refused === 1, 10_000));
  await cluster.run(3_000);
  t.equal(cluster.states[0]?.unflushed.size, 1, 'it was not flushed there');
  goOn();
  await cluster.run(200);
  t.equal(store.generation.n, 1);
  for (const { retiredEarly } of cluster.states) t.equal(retiredEarly.size, 0);
  refuses = false;
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
});
