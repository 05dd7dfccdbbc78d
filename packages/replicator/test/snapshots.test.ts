/** Snapshots of one segment on all its replicas: how they are taken, and who has what afterwards. */
import {
  blockBytes,
  chunkBytes,
  regionBytes,
  type SnapshotId,
  type StorError,
} from '@stor/protocol';
import t, { type Test } from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { MemoryReplicaState, SimCluster, request } from '@stor/replicator/testing';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);
const idOf = (n: number): SnapshotId => `s-${n.toString(16).padStart(16, '0')}`;

async function write(cluster: SimCluster, volume: PrimaryVolume, at: number, fill: number) {
  const error = await cluster.wait(request(volume, 'write', at, blockBytes, block(fill)));
  if (error) throw error;
}

async function read(cluster: SimCluster, volume: PrimaryVolume, at: number): Promise<number> {
  const bytes = Buffer.alloc(blockBytes, 0xcc);
  const error = await cluster.wait(request(volume, 'read', at, blockBytes, bytes));
  if (error) throw error;
  return bytes[0] ?? -1;
}

/** As the control plane does it; the snapshot is ready in the record afterwards. */
async function take(cluster: SimCluster, volume: PrimaryVolume, n: number): Promise<void> {
  const snapshotId = idOf(n);
  const { control } = cluster;
  control.snapshots ??= new Map();
  control.snapshots.set(snapshotId, 'creating');
  const token = `take ${n}`;
  await cluster.wait(volume.hold({ token, holdMs: 100 }));
  await cluster.wait(volume.prepareSnapshot({ token, snapshotId }));
  const { intact } = volume.release(token);
  if (!intact) throw new Error('the hold was broken');
  await cluster.wait(volume.sealSnapshot(snapshotId));
  control.snapshots.set(snapshotId, 'ready');
  await cluster.wait(volume.confirmSnapshot(snapshotId));
}

function stateOf(cluster: SimCluster, replica: number): MemoryReplicaState {
  const state = cluster.states[replica];
  if (!state) throw new Error('no such replica');
  return state;
}

/** First byte of a block of a snapshot at one replica; a word where there is none that verifies. */
function inSnapshot(cluster: SimCluster, replica: number, n: number, at: number): number | string {
  const { snapshots } = stateOf(cluster, replica);
  if (snapshots.stateOf(idOf(n)) !== 'ready') return snapshots.stateOf(idOf(n)) ?? 'none';
  const found = snapshots.block(idOf(n), at / blockBytes);
  return found?.bytes[0] ?? 'none';
}

/** What the replicas hold, live and in every snapshot, is the same. */
function equalReplicas(t: Test, cluster: SimCluster): void {
  const [first, ...others] = cluster.states;
  if (!first) return;
  const listed = first.snapshots.list();
  const ids = listed.map(({ snapshotId }) => snapshotId);
  for (const other of others) {
    const name = other.identity.replicaId;
    t.ok(first.bytes.equals(other.bytes), `${name}: live`);
    t.same(
      other.snapshots.list().map((each) => [each.snapshotId, each.state, each.sizeBytes]),
      listed.map((each) => [each.snapshotId, 'ready', each.sizeBytes]),
      `${name}: the same snapshots, all ready`,
    );
    for (const id of ids) {
      // a block here and there, and all that were written
      for (let at = 0; at < first.blocks; at += at % 64 < 2 ? 1 : 31) {
        const ours = first.snapshots.block(id, at);
        const theirs = other.snapshots.block(id, at);
        if (ours && theirs && ours.bytes.equals(theirs.bytes) && ours.sum === theirs.sum) continue;
        t.fail(`${name}: block ${at} of ${id} differs`);
        return;
      }
    }
  }
}

async function inSync(cluster: SimCluster, count: number, ms = 60_000): Promise<boolean> {
  const held = await cluster.until(() => cluster.control.inSync.length === count, ms);
  await cluster.run(100);
  return held;
}

async function failureOf(promise: Promise<unknown>): Promise<string | null> {
  return promise.then(
    () => null,
    (error: unknown) => (error as StorError).code,
  );
}

t.test('a snapshot keeps what was written before it, on every replica', async (t) => {
  for (const primary of [0, 3]) {
    const cluster = new SimCluster({ seed: 1, sizeBytes, nodes: 4, replicaNodes: 3 });
    const volume = await cluster.wait(cluster.attach(primary));
    await write(cluster, volume, 0, 1);
    await write(cluster, volume, 5 * chunkBytes, 1);
    await take(cluster, volume, 1);
    await write(cluster, volume, 0, 2);
    await write(cluster, volume, 2 * regionBytes, 2);
    await take(cluster, volume, 2);
    const trimmed = request(volume, 'trim', 5 * chunkBytes, chunkBytes, null);
    t.equal(await cluster.wait(trimmed), null);
    for (const replica of [0, 1, 2]) {
      t.equal(inSnapshot(cluster, replica, 1, 0), 1);
      t.equal(inSnapshot(cluster, replica, 2, 0), 2);
      t.equal(inSnapshot(cluster, replica, 1, 2 * regionBytes), 0);
      t.equal(inSnapshot(cluster, replica, 2, 5 * chunkBytes), 1);
    }
    t.equal(await read(cluster, volume, 5 * chunkBytes), 0);
    t.same(await cluster.wait(volume.changedExtents(idOf(1), idOf(2))), [
      { offset: 0, length: chunkBytes },
      { offset: 2 * regionBytes, length: chunkBytes },
    ]);
    t.same(await cluster.wait(volume.changedExtents(idOf(2), null)), [
      { offset: 5 * chunkBytes, length: chunkBytes },
    ]);
    t.equal(await failureOf(cluster.wait(volume.changedExtents(idOf(9), null))), 'NOT_FOUND');
    equalReplicas(t, cluster);

    await cluster.wait(volume.dropSnapshot(idOf(1)));
    await cluster.wait(volume.dropSnapshot(idOf(1)));
    t.equal(inSnapshot(cluster, 1, 1, 0), 'none');
    t.equal(inSnapshot(cluster, 1, 2, 0), 2, 'the other one stays as it was');
    equalReplicas(t, cluster);
  }
});

t.test('writes wait while they are held, in their order, and reads go on', async (t) => {
  const cluster = new SimCluster({ seed: 2, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  const before = request(volume, 'write', blockBytes, blockBytes, block(1));
  const held = volume.hold({ token: 'a', holdMs: 100 });
  const order: number[] = [];
  const after = [2, 3, 4].map((fill) =>
    request(volume, 'write', 0, blockBytes, block(fill)).then((error) => {
      t.equal(error, null);
      order.push(fill);
    }),
  );
  const flushed = request(volume, 'flush', 0, 0, null);
  await cluster.wait(held);
  t.equal(await before, null, 'what was started is finished first');
  t.equal(await cluster.wait(flushed), null);
  await cluster.run(50);
  t.same(order, []);
  t.equal(await read(cluster, volume, 2 * blockBytes), 0);
  t.equal(
    await failureOf(cluster.wait(volume.hold({ token: 'b', holdMs: 10 }))),
    'FAILED_PRECONDITION',
  );
  t.equal(volume.release('b').intact, false);
  const released = volume.release('a');
  t.ok(released.intact && released.heldMs >= 50 && released.heldMs <= 100);
  await cluster.wait(Promise.all(after));
  t.same(order, [2, 3, 4]);
  t.equal(await read(cluster, volume, 0), 4);
});

t.test('a hold that nobody ends is over by itself, and what was prepared is void', async (t) => {
  const cluster = new SimCluster({ seed: 3, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  const order = { token: 'a', snapshotId: idOf(1) };
  const early = volume.prepareSnapshot({ ...order, snapshotId: idOf(9) });
  t.equal(await failureOf(cluster.wait(early)), 'FAILED_PRECONDITION');
  await cluster.wait(volume.hold({ token: 'a', holdMs: 100 }));
  await cluster.wait(volume.prepareSnapshot(order));
  const waiting = request(volume, 'write', 0, blockBytes, block(7));
  t.equal(await cluster.wait(waiting), null, 'clients go on after 100 ms');
  await cluster.run(1_000);
  for (const state of cluster.states) t.same(state.snapshots.list(), [], 'whoever asks for it');
  t.same(volume.release('a'), { heldMs: 0, intact: false });
  t.equal(await failureOf(cluster.wait(volume.sealSnapshot(idOf(1)))), 'NOT_FOUND');
  await cluster.wait(volume.hold({ token: 'b', holdMs: 100 }));
  const again = volume.prepareSnapshot({ token: 'b', snapshotId: idOf(1) });
  t.equal(await failureOf(cluster.wait(again)), 'ALREADY_EXISTS', 'an id is used once');
  volume.release('b');

  // a disk that does not answer makes no client wait for longer
  cluster.store(1).stuck = true;
  await cluster.wait(volume.hold({ token: 'c', holdMs: 100 }));
  const slow = volume.prepareSnapshot({ token: 'c', snapshotId: idOf(2) });
  const failed = failureOf(slow);
  const startMs = cluster.scheduler.nowMs;
  cluster.store(0).stuck = false;
  await cluster.run(150);
  t.equal(volume.release('c').intact, false);
  cluster.store(1).stuck = false;
  cluster.store(1).flush(() => {});
  t.equal(await cluster.wait(failed), 'TIMEOUT');
  t.ok(cluster.scheduler.nowMs - startMs < 5_000);
  await cluster.run(1_000);
  for (const state of cluster.states) t.same(state.snapshots.list(), []);
});

t.test('a replica that is lost while a snapshot is prepared undoes it everywhere', async (t) => {
  const cluster = new SimCluster({ seed: 4, sizeBytes });
  cluster.control.snapshots = new Map();
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  await cluster.wait(volume.hold({ token: 'a', holdMs: 100 }));
  const prepared = volume.prepareSnapshot({ token: 'a', snapshotId: idOf(1) });
  cluster.kill(1);
  t.not(await failureOf(cluster.wait(prepared)), null);
  volume.release('a');
  t.ok(await inSync(cluster, 2));
  cluster.start(1);
  t.ok(await inSync(cluster, 3));
  for (const state of cluster.states) t.same(state.snapshots.list(), []);
  await write(cluster, volume, 0, 2);
  await take(cluster, volume, 2);
  equalReplicas(t, cluster);
});

t.test('a new primary drops what was not recorded and confirms what was', async (t) => {
  const cluster = new SimCluster({ seed: 5, sizeBytes });
  const { control } = cluster;
  control.snapshots = new Map([
    [idOf(1), 'creating'],
    [idOf(2), 'creating'],
    [idOf(3), 'creating'],
  ]);
  const volume = await cluster.wait(cluster.attach(0));
  for (const n of [1, 2, 3]) {
    await write(cluster, volume, 0, n);
    await cluster.wait(volume.hold({ token: 'a', holdMs: 100 }));
    await cluster.wait(volume.prepareSnapshot({ token: 'a', snapshotId: idOf(n) }));
    t.ok(volume.release('a').intact);
    await cluster.wait(volume.sealSnapshot(idOf(n)));
  }
  control.snapshots.set(idOf(1), 'ready');
  control.snapshots.delete(idOf(2));
  cluster.kill(0);
  cluster.start(0);
  await cluster.wait(cluster.attach(1));
  t.ok(await inSync(cluster, 3));
  await cluster.run(1_000);
  equalReplicas(t, cluster);
  t.same(
    stateOf(cluster, 2)
      .snapshots.list()
      .map((each) => each.snapshotId),
    [idOf(1)],
  );
  t.equal(inSnapshot(cluster, 0, 1, 0), 1);

  control.snapshots.set(idOf(1), 'deleting');
  cluster.push();
  await cluster.run(1_000);
  for (const state of cluster.states) t.same(state.snapshots.list(), [], 'deleted by its record');
});

t.test('all power is lost after the seal: the snapshot is whole', async (t) => {
  for (let seed = 0; seed < 8; seed++) {
    const cluster = new SimCluster({ seed, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    await write(cluster, volume, 0, 1);
    await write(cluster, volume, 9 * chunkBytes, 1);
    await take(cluster, volume, 1);
    await write(cluster, volume, 0, 2);
    for (const node of [0, 1, 2]) cluster.cutPower(node);
    for (const node of [0, 1, 2]) cluster.start(node);
    const next = await cluster.wait(cluster.attach(seed % 3));
    t.ok(await inSync(cluster, 3));
    for (const replica of [0, 1, 2]) {
      t.equal(inSnapshot(cluster, replica, 1, 0), 1);
      t.equal(inSnapshot(cluster, replica, 1, 9 * chunkBytes), 1);
    }
    t.ok([1, 2].includes(await read(cluster, next, 0)));
    equalReplicas(t, cluster);
  }
});

t.test('a replica that was away gets the snapshots that it missed', async (t) => {
  for (let seed = 10; seed < 22; seed++) {
    const isNew = seed % 3 === 0;
    const nodes = seed % 2 === 0 ? 4 : 3;
    const cluster = new SimCluster({ seed, sizeBytes, nodes, replicaNodes: 3 });
    const volume = await cluster.wait(cluster.attach(nodes - 1 === 3 ? 3 : 0));
    for (let at = 0; at < 8; at++) await write(cluster, volume, at * 5 * chunkBytes, 1);
    await take(cluster, volume, 1);
    await write(cluster, volume, 0, 2);
    await cluster.run(60_000);
    cluster.kill(1);
    t.ok(await inSync(cluster, 2));
    await write(cluster, volume, blockBytes, 3);
    await take(cluster, volume, 2);
    await write(cluster, volume, 0, 4);
    await write(cluster, volume, 7 * chunkBytes, 4);
    await take(cluster, volume, 3);
    await cluster.wait(volume.dropSnapshot(idOf(1)));
    cluster.control.snapshots?.delete(idOf(1));
    await write(cluster, volume, 7 * chunkBytes, 5);
    if (isNew) {
      const identity = { replicaId: 'r-1', volumeId: 'v-1', segment: 0, sizeBytes };
      cluster.states[1] = new MemoryReplicaState(identity);
    }
    cluster.start(1);
    t.ok(await inSync(cluster, 3), `seed ${seed}`);
    t.equal(inSnapshot(cluster, 1, 2, 0), 2);
    t.equal(inSnapshot(cluster, 1, 2, blockBytes), 3);
    t.equal(inSnapshot(cluster, 1, 3, 7 * chunkBytes), 4);
    equalReplicas(t, cluster);
  }
});

t.test('a snapshot that is taken while a replica is filled', async (t) => {
  for (let seed = 30; seed < 46; seed++) {
    const cluster = new SimCluster({ seed, sizeBytes, nodes: 4, replicaNodes: 3 });
    const volume = await cluster.wait(cluster.attach(seed % 2 === 0 ? 3 : 0));
    for (let at = 0; at < 47; at++) await write(cluster, volume, at * chunkBytes, 1);
    cluster.kill(1);
    t.ok(await inSync(cluster, 2));
    for (let at = 0; at < 47; at++) await write(cluster, volume, at * chunkBytes + blockBytes, 2);
    if (seed % 3 === 0) await take(cluster, volume, 1);
    cluster.start(1);
    const isFilling = (): boolean =>
      volume.status().segments[0]?.members.some(({ state }) => state === 'syncing') === true;
    t.ok(await cluster.until(isFilling, 20_000));
    await cluster.run((seed % 5) * 7);
    for (const n of [2, 3]) {
      await write(cluster, volume, n * 11 * chunkBytes, n);
      await take(cluster, volume, n);
      await write(cluster, volume, n * 11 * chunkBytes, 100 + n);
      await write(cluster, volume, 40 * chunkBytes, 100 + n);
    }
    if (seed % 4 === 0) {
      await cluster.wait(volume.dropSnapshot(idOf(2)));
      cluster.control.snapshots?.delete(idOf(2));
    }
    t.ok(await inSync(cluster, 3), `seed ${seed}`);
    t.equal(inSnapshot(cluster, 1, 3, 33 * chunkBytes), 3);
    equalReplicas(t, cluster);
  }
});

t.test('a volume is rolled back, and who was away follows', async (t) => {
  for (let seed = 50; seed < 60; seed++) {
    const cluster = new SimCluster({ seed, sizeBytes, nodes: 4, replicaNodes: 3 });
    const volume = await cluster.wait(cluster.attach(seed % 2 === 0 ? 3 : 0));
    for (let at = 0; at < 9; at++) await write(cluster, volume, at * 5 * chunkBytes, 1);
    await take(cluster, volume, 1);
    for (let at = 0; at < 5; at++) await write(cluster, volume, at * 7 * chunkBytes, 2);
    await take(cluster, volume, 2);
    await write(cluster, volume, 3 * chunkBytes, 3);
    await cluster.run(60_000);
    cluster.kill(1);
    t.ok(await inSync(cluster, 2));
    await cluster.wait(volume.rollback(idOf(1)));
    t.equal(await read(cluster, volume, 0), 1);
    t.equal(await read(cluster, volume, 7 * chunkBytes), 0);
    t.equal(await read(cluster, volume, 3 * chunkBytes), 0);
    if (seed % 3 === 0) {
      await write(cluster, volume, 11 * chunkBytes, 4);
      await take(cluster, volume, 3);
    }
    await write(cluster, volume, 2 * chunkBytes, 5);
    if (seed % 5 === 0) await cluster.wait(volume.rollback(idOf(2)));
    cluster.start(1);
    t.ok(await inSync(cluster, 3), `seed ${seed}`);
    equalReplicas(t, cluster);
    t.equal(await failureOf(cluster.wait(volume.rollback(idOf(9)))), 'NOT_FOUND');
  }
});

t.test('a volume grows, and who was away follows', async (t) => {
  const cluster = new SimCluster({ seed: 70, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  await take(cluster, volume, 1);
  cluster.kill(1);
  t.ok(await inSync(cluster, 2));
  await write(cluster, volume, 0, 2);
  await take(cluster, volume, 2);
  const larger = sizeBytes + 3 * chunkBytes + blockBytes;
  await cluster.wait(volume.resize(larger));
  await cluster.wait(volume.resize(larger));
  t.equal(await failureOf(cluster.wait(volume.resize(sizeBytes))), 'INVALID_ARGUMENT');
  t.equal(volume.sizeBytes, sizeBytes, 'until the record says so');
  cluster.control.sizeBytes = larger;
  cluster.push();
  t.ok(await cluster.until(() => volume.sizeBytes === larger, 1_000));
  await write(cluster, volume, larger - blockBytes, 3);
  await take(cluster, volume, 3);
  cluster.start(1);
  t.ok(await inSync(cluster, 3));
  t.equal(stateOf(cluster, 1).identity.sizeBytes, larger);
  t.same(
    stateOf(cluster, 1)
      .snapshots.list()
      .map((each) => each.sizeBytes),
    [sizeBytes, sizeBytes, larger],
  );
  t.equal(inSnapshot(cluster, 1, 3, larger - blockBytes), 3);
  await cluster.wait(volume.rollback(idOf(1)));
  t.equal(await read(cluster, volume, larger - blockBytes), 0, 'nothing is behind its end');
  equalReplicas(t, cluster);
});

t.test(
  'a snapshot from before a growth that is copied after it is as long as it was',
  async (t) => {
    const cluster = new SimCluster({ seed: 71, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    await write(cluster, volume, 0, 1);
    await take(cluster, volume, 1);
    const larger = sizeBytes + 3 * chunkBytes + blockBytes;
    await cluster.wait(volume.resize(larger));
    cluster.control.sizeBytes = larger;
    cluster.push();
    t.ok(await cluster.until(() => volume.sizeBytes === larger, 1_000));
    await write(cluster, volume, larger - blockBytes, 3);
    cluster.kill(1);
    t.ok(await inSync(cluster, 2));
    // what a power cut takes away of one that was not confirmed yet
    stateOf(cluster, 1).snapshots.drop(idOf(1));
    cluster.start(1);
    t.ok(await inSync(cluster, 3));
    t.same(
      cluster.states.map(({ snapshots }) => snapshots.sizeOf(idOf(1))),
      [sizeBytes, sizeBytes, sizeBytes],
    );
    equalReplicas(t, cluster);
    await cluster.wait(volume.rollback(idOf(1)));
    t.equal(await read(cluster, volume, larger - blockBytes), 0, 'nothing is behind its end');
    equalReplicas(t, cluster);
  },
);

t.test(
  'a write to what a snapshot holds needs room, and nobody is sent what has none',
  async (t) => {
    const cluster = new SimCluster({ seed: 80, sizeBytes });
    cluster.control.snapshots = new Map();
    const volume = await cluster.wait(cluster.attach(0));
    for (let at = 0; at < 4; at++) await write(cluster, volume, at * chunkBytes, 1);
    cluster.store(1).capacityChunks = 5;
    await cluster.run(1_000);
    await take(cluster, volume, 1);
    await write(cluster, volume, 0, 2);
    await cluster.run(1_000);
    const refused = request(volume, 'write', chunkBytes, blockBytes, block(2));
    t.equal((await cluster.wait(refused))?.code, 'NO_SPACE');
    const partly = request(volume, 'writeZeroes', 2 * chunkBytes, blockBytes, null);
    t.equal((await cluster.wait(partly))?.code, 'NO_SPACE');
    await write(cluster, volume, 0, 3);
    t.equal(await read(cluster, volume, chunkBytes), 1);
    t.equal(cluster.control.inSync.length, 3, 'and nobody leaves for it');
    const freed = request(volume, 'trim', 3 * chunkBytes, chunkBytes, null);
    t.equal(await cluster.wait(freed), null, 'a hole takes no room');
    await cluster.wait(volume.dropSnapshot(idOf(1)));
    await cluster.run(2_000);
    await write(cluster, volume, chunkBytes, 4);
    await write(cluster, volume, 7 * chunkBytes, 4);
    equalReplicas(t, cluster);
  },
);
