/** How a primary ends, and what that spares the next one. */
import { blockBytes, chunkBytes } from '@stor/protocol';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request } from '@stor/replicator/testing';
import type { ReplicaStore, StoreDone } from '../src/replica-store.ts';
import { ReplicaGate } from '../src/replication/replica-gate.ts';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

async function written(seed: number): Promise<{ cluster: SimCluster; volume: PrimaryVolume }> {
  const cluster = new SimCluster({ seed, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  for (let i = 0; i < 8; i++) {
    const bytes = block(i + 1);
    await cluster.wait(request(volume, 'write', i * chunkBytes, blockBytes, bytes));
  }
  return { cluster, volume };
}

/** Attaches elsewhere and says how much there was to settle before anything was asked for. */
async function settleBytes(cluster: SimCluster, index: number): Promise<number> {
  // the last words of the primary before reach the others
  await cluster.run(50);
  let asked = 0;
  for (let at = 0; at < cluster.states.length; at++) {
    const store = cluster.store(at);
    const { readUnverified } = store;
    store.readUnverified = (offset, length, target, start, valid, done) => {
      asked += length;
      readUnverified.call(store, offset, length, target, start, valid, done);
    };
  }
  const volume = await cluster.wait(cluster.attach(index));
  await cluster.until(() => volume.status().segments[0]?.settleBytesRemaining === 0, 30_000);
  return asked;
}

t.test('a stop without a checkpoint flushes nothing, and the next settles nothing', async (t) => {
  const { cluster, volume } = await written(500);
  const underWay = request(volume, 'write', 0, blockBytes, block(99));
  const began = cluster.scheduler.nowMs;
  await cluster.wait(volume.stop({ checkpoint: false }));
  t.equal(await cluster.wait(underWay), null, 'what was started is finished');
  t.ok(cluster.scheduler.nowMs - began < 100);
  cluster.control.released(volume.epoch);
  for (const state of cluster.states) {
    t.ok(state.marks.size > 0, 'marks stay: the writes are not durable');
    t.ok(state.unflushed.size > 0);
  }
  t.equal(await settleBytes(cluster, 1), 0);
});

t.test('with a checkpoint nothing stays marked', async (t) => {
  const { cluster, volume } = await written(501);
  await cluster.wait(volume.stop());
  for (const state of cluster.states) {
    t.equal(state.marks.size, 0);
    t.equal(state.unflushed.size, 0);
  }
});

t.test('the word of the last primary counts only while everything is as it left it', async (t) => {
  const spoilers: Record<string, (cluster: SimCluster) => void> = {
    'a process that was started anew': (cluster) => {
      cluster.kill(2);
      cluster.start(2);
    },
    'a host that lost power': (cluster) => {
      cluster.cutPower(2);
      cluster.start(2);
    },
  };
  for (const [name, spoil] of Object.entries(spoilers)) {
    const { cluster, volume } = await written(502);
    await cluster.wait(volume.stop({ checkpoint: false }));
    cluster.control.released(volume.epoch);
    spoil(cluster);
    t.ok((await settleBytes(cluster, 1)) > 0, name);
  }
  // a primary that was killed says nothing
  const { cluster } = await written(503);
  cluster.kill(0);
  cluster.start(0);
  t.ok((await settleBytes(cluster, 1)) > 0);
});

t.test('a primary that began and did not serve leaves nothing to trust', async (t) => {
  const { cluster, volume } = await written(504);
  await cluster.wait(volume.stop({ checkpoint: false }));
  cluster.control.released(volume.epoch);
  const abort = new AbortController();
  cluster.network.block('n-1', 'n-2');
  const attaching = cluster.attach(1, abort.signal).then(
    () => 'served',
    () => 'ended',
  );
  await cluster.run(30);
  abort.abort();
  t.equal(await cluster.wait(attaching), 'ended');
  cluster.network.heal();
  t.ok((await settleBytes(cluster, 0)) > 0);
});

t.test('a stop with a member that is away says nothing of the others', async (t) => {
  const { cluster, volume } = await written(505);
  cluster.node(0).controlReachable = false;
  cluster.kill(2);
  await cluster.run(100);
  const held = request(volume, 'write', 0, blockBytes, block(9));
  await cluster.wait(volume.stop({ checkpoint: false }));
  t.equal((await cluster.wait(held))?.code, 'ABORTED');
  cluster.start(2);
  t.ok((await settleBytes(cluster, 1)) > 0);
});

t.test('a fence waits for changes of the session before, not for its flushes', async (t) => {
  const gate = new ReplicaGate();
  const store = {
    highestEpoch: 0,
    fence: (_epoch: number, done: StoreDone) => {
      done(null);
    },
  } as unknown as ReplicaStore;
  const old = await gate.open(store, 1, 'n-1', () => {});
  const endFlush = old.tracked(() => {}, false);
  const endWrite = old.tracked(() => {});
  let isOpen = false;
  const opening = gate
    .open(store, 2, 'n-2', () => {})
    .then((session) => {
      isOpen = true;
      return session;
    });
  for (let i = 0; i < 20; i++) await Promise.resolve();
  t.notOk(isOpen);
  endWrite(null);
  const session = await opening;
  t.equal(session.drainedEpoch, null);
  let isDrained = false;
  const drained = old.drained().then(() => {
    isDrained = true;
  });
  await Promise.resolve();
  t.notOk(isDrained, 'who closes the disk waits for both');
  endFlush(null);
  await drained;
  gate.close(session, true);
  const next = await gate.open(store, 3, 'n-3', () => {});
  t.equal(next.drainedEpoch, 2);
  // displaced, so its word comes too late
  const last = await gate.open(store, 4, 'n-4', () => {});
  gate.close(next, true);
  gate.close(last);
  t.equal((await gate.open(store, 5, 'n-5', () => {})).drainedEpoch, null);
});
