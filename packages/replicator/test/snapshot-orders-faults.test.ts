/** Orders about snapshots that meet a replica that is lost, away, or late: what is equal afterwards. */
import { StorError, blockBytes, chunkBytes, type SnapshotId } from '@stor/protocol';
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

/** Durable on every replica, and recorded as ready; nobody is told so. */
async function seal(
  cluster: SimCluster,
  volume: PrimaryVolume,
  n: number,
  beforeSeal: () => Promise<void> = async () => {},
): Promise<void> {
  const snapshotId = idOf(n);
  const { control } = cluster;
  control.snapshots ??= new Map();
  control.snapshots.set(snapshotId, 'creating');
  const token = `take ${n}`;
  await cluster.wait(volume.hold({ token, holdMs: 100 }));
  await cluster.wait(volume.prepareSnapshot({ token, snapshotId }));
  if (!volume.release(token).intact) throw new Error('the hold was broken');
  await beforeSeal();
  await cluster.wait(volume.sealSnapshot(snapshotId));
  control.snapshots.set(snapshotId, 'ready');
}

function equalReplicas(t: Test, cluster: SimCluster): void {
  const [first, ...others] = cluster.states;
  if (!first) return;
  const ids = first.snapshots.list().map(({ snapshotId }) => snapshotId);
  for (const other of others) {
    const name = other.identity.replicaId;
    t.ok(first.bytes.equals(other.bytes), `${name}: live`);
    t.same(
      other.snapshots.list().map(({ snapshotId, state }) => [snapshotId, state]),
      ids.map((id) => [id, 'ready']),
      `${name}: the same snapshots, all ready`,
    );
    for (const id of ids) {
      for (let at = 0; at < first.blocks; at += at % 64 < 2 ? 1 : 31) {
        const ours = first.snapshots.block(id, at);
        const theirs = other.snapshots.block(id, at);
        if (ours && theirs && ours.bytes.equals(theirs.bytes) && ours.sum === theirs.sum) continue;
        t.fail(`${name}: block ${at} of ${id} differs`);
        break;
      }
    }
  }
}

async function inSync(cluster: SimCluster, count: number): Promise<boolean> {
  const held = await cluster.until(() => cluster.control.inSync.length === count, 60_000);
  await cluster.run(100);
  return held;
}

async function failureOf(promise: Promise<unknown>): Promise<string | null> {
  return promise.then(
    () => null,
    (error: unknown) => (error as StorError).code,
  );
}

t.test('a replica that is lost while the others are rolled back follows them', async (t) => {
  const cluster = new SimCluster({ seed: 1, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  for (let at = 0; at < 8; at++) await write(cluster, volume, at * chunkBytes, 1);
  await seal(cluster, volume, 1);
  await cluster.wait(volume.confirmSnapshot(idOf(1)));
  for (let at = 0; at < 8; at++) await write(cluster, volume, at * chunkBytes, 2);
  await cluster.run(60_000);
  const store = cluster.store(0);
  const rollback = store.rollback.bind(store);
  // the order never reaches it, and that it is lost shows seconds later
  store.rollback = (id, done) => {
    cluster.network.block('n-0', 'n-1');
    rollback(id, done);
  };
  t.not(await failureOf(cluster.wait(volume.rollback(idOf(1)))), null);
  store.rollback = rollback;
  t.equal(cluster.states[1]?.bytes[0], 2, 'it is where it was');
  t.ok(await inSync(cluster, 2));
  cluster.network.heal();
  t.ok(await inSync(cluster, 3));
  t.equal(cluster.states[0]?.bytes[0], 1);
  equalReplicas(t, cluster);
});

t.test('only a replica that is equal is told that a snapshot is ready', async (t) => {
  const cluster = new SimCluster({ seed: 2, sizeBytes });
  const { control } = cluster;
  const volume = await cluster.wait(cluster.attach(0));
  await cluster.run(1_000);
  for (let at = 0; at < 20; at++) await write(cluster, volume, at * chunkBytes, 1);
  control.policy = { ...control.policy, rebuildPaused: true };
  cluster.push();
  await seal(cluster, volume, 1, async () => {
    // it has frozen the same image, and loses what it had not flushed of it
    cluster.cutPower(1);
    cluster.start(1);
    t.ok(await inSync(cluster, 2));
    await cluster.run(2_000);
  });
  const before = cluster.states[1]?.snapshots.stateOf(idOf(1));
  t.equal(before, 'prepared');
  await cluster.wait(volume.confirmSnapshot(idOf(1)));
  t.equal(cluster.states[1]?.snapshots.stateOf(idOf(1)), 'prepared', 'it waits to be filled');
  control.policy = { ...control.policy, rebuildPaused: false };
  cluster.push();
  t.ok(await inSync(cluster, 3));
  equalReplicas(t, cluster);
});

t.test('an older word of the record does not undo a snapshot that is ready', async (t) => {
  const cluster = new SimCluster({ seed: 3, sizeBytes });
  cluster.control.snapshots = new Map();
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  await seal(cluster, volume, 1);
  // one of them fails to note that it is ready ...
  const store = cluster.store(1);
  const confirm = store.confirmSnapshot.bind(store);
  let failures = 0;
  store.confirmSnapshot = (_id, done) => {
    failures += 1;
    done(new StorError('UNAVAILABLE', 'not now'));
  };
  t.equal(await failureOf(cluster.wait(volume.confirmSnapshot(idOf(1)))), 'UNAVAILABLE');
  // ... and the node of the primary hears what its copy of the records said before
  cluster.control.snapshots.set(idOf(1), 'creating');
  for (let times = 0; times < 3; times++) {
    cluster.push();
    await cluster.run(500);
  }
  t.ok(failures > 1, 'it is asked again');
  store.confirmSnapshot = confirm;
  cluster.control.snapshots.set(idOf(1), 'ready');
  cluster.push();
  await cluster.run(2_000);
  t.equal(cluster.states[1]?.snapshots.stateOf(idOf(1)), 'ready');
  equalReplicas(t, cluster);
});

t.test('an order to prepare that comes after it was given up leaves nothing behind', async (t) => {
  const cluster = new SimCluster({ seed: 4, sizeBytes });
  cluster.control.snapshots = new Map([[idOf(1), 'deleting']]);
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  await cluster.wait(volume.dropSnapshot(idOf(1)));
  // the record goes as soon as every replica has said that it has no such snapshot
  cluster.control.snapshots = new Map();
  cluster.push();
  await cluster.wait(volume.hold({ token: 'late', holdMs: 100 }));
  const late = volume.prepareSnapshot({ token: 'late', snapshotId: idOf(1) });
  t.equal(await failureOf(cluster.wait(late)), 'ALREADY_EXISTS');
  volume.release('late');
  cluster.push();
  await cluster.run(2_000);
  for (const state of cluster.states) t.same(state.snapshots.list(), []);
});

t.test('a rollback that one replica refuses is not called refused', async (t) => {
  const cluster = new SimCluster({ seed: 5, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  await seal(cluster, volume, 1);
  await cluster.wait(volume.confirmSnapshot(idOf(1)));
  await write(cluster, volume, 0, 2);
  // its node drops what is being deleted, at the same moment
  const store = cluster.store(1);
  const rollback = store.rollback.bind(store);
  store.rollback = (id, done) => {
    store.dropSnapshot(id, () => {
      rollback(id, done);
    });
  };
  t.equal(await failureOf(cluster.wait(volume.rollback(idOf(1)))), 'UNAVAILABLE');
  t.equal(cluster.states[0]?.bytes[0], 1, 'this one was rolled back');
  store.rollback = rollback;
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 60_000));
  t.ok(await inSync(cluster, 3));
  t.equal(cluster.states[1]?.bytes[0], 1);
  equalReplicas(t, cluster);
});

t.test(
  'a primary that is handed over in a rollback does not call its replicas equal',
  async (t) => {
    const cluster = new SimCluster({ seed: 8, sizeBytes });
    cluster.control.snapshots = new Map();
    const volume = await cluster.wait(cluster.attach(0));
    await write(cluster, volume, 0, 1);
    await seal(cluster, volume, 1);
    await cluster.wait(volume.confirmSnapshot(idOf(1)));
    await write(cluster, volume, 0, 2);
    // one of them cannot, which is known too late
    const store = cluster.store(1);
    const rollback = store.rollback.bind(store);
    store.rollback = (_id, done) => {
      cluster.scheduler.at(50, () => {
        done(new StorError('NO_SPACE', 'no room for another layer'));
      });
    };
    const rolledBack = failureOf(cluster.wait(volume.rollback(idOf(1))));
    await cluster.until(() => cluster.states[0]?.bytes[0] === 1, 1_000);
    await cluster.wait(volume.stop({ checkpoint: false }));
    t.equal(await rolledBack, 'UNAVAILABLE');
    await cluster.run(1_000);
    store.rollback = rollback;
    t.equal(cluster.states[1]?.bytes[0], 2);
    await cluster.wait(cluster.attach(2));
    t.ok(await inSync(cluster, 3));
    await cluster.run(10_000);
    equalReplicas(t, cluster);
  },
);

t.test('a rollback stands when the control plane is restored from a backup', async (t) => {
  // what the record is put back to: a set before all, or the one that the stale replica remembers
  for (const backup of [1, 2]) {
    const cluster = new SimCluster({ seed: 9, sizeBytes, nodes: 3, replicaNodes: 2 });
    const { control } = cluster;
    const volume = await cluster.wait(cluster.attach(2));
    await write(cluster, volume, 0, 1);
    await seal(cluster, volume, 1);
    await cluster.wait(volume.confirmSnapshot(idOf(1)));
    cluster.kill(1);
    await write(cluster, volume, 0, 2);
    cluster.start(1);
    // killed before it can note the set of both
    t.ok(await cluster.until(() => control.inSync.length === 2, 20_000));
    cluster.kill(0);
    t.ok(await inSync(cluster, 1));
    await cluster.wait(volume.rollback(idOf(1)));
    cluster.kill(1);
    cluster.kill(2);
    t.equal(cluster.states[0]?.bytes[0], 2, 'this one has missed it');
    t.same(cluster.states[0]?.setView?.members, ['r-0'], 'and remembers that it was alone');
    control.inSync = backup === 1 ? ['r-0', 'r-1'] : ['r-0'];
    control.setRevision = backup;
    control.epoch += 100;
    control.cleanRelease = false;
    for (const node of [0, 1, 2]) cluster.start(node);
    const later = await cluster.wait(cluster.attach(0));
    const found = Buffer.alloc(blockBytes);
    t.equal(await cluster.wait(request(later, 'read', 0, blockBytes, found)), null);
    t.equal(found[0], 1, `backup ${backup}`);
    t.ok(await inSync(cluster, 2));
    equalReplicas(t, cluster);
  }
});

t.test('a snapshot of before a growth that a replica gets again leaves what grew', async (t) => {
  const cluster = new SimCluster({ seed: 10, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  await seal(cluster, volume, 1);
  await cluster.wait(volume.confirmSnapshot(idOf(1)));
  const larger = sizeBytes + 4 * chunkBytes;
  await cluster.wait(volume.resize(larger));
  cluster.recordSize(larger);
  cluster.push();
  await cluster.run(1_000);
  for (let at = sizeBytes; at < larger; at += chunkBytes) await write(cluster, volume, at, 2);
  await cluster.run(60_000);
  // its node has dropped the snapshot, the others still have it
  cluster.store(1).dropSnapshot(idOf(1), () => {});
  await cluster.run(100);
  cluster.kill(1);
  await write(cluster, volume, 0, 3);
  t.ok(await inSync(cluster, 2));
  cluster.start(1);
  t.ok(await inSync(cluster, 3));
  t.equal(cluster.states[1]?.bytes[sizeBytes], 2);
  equalReplicas(t, cluster);
});

t.test('a rollback that one segment refuses is not called refused', async (t) => {
  const segmentBytes = 4 * 1024 * 1024;
  const cluster = new SimCluster({ seed: 6, sizeBytes, segmentBytes });
  cluster.control.snapshots = new Map();
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  await write(cluster, volume, segmentBytes, 1);
  await seal(cluster, volume, 1);
  await cluster.wait(volume.confirmSnapshot(idOf(1)));
  await write(cluster, volume, 0, 2);
  t.equal(await failureOf(cluster.wait(volume.rollback(idOf(9)))), 'NOT_FOUND', 'nothing was done');
  // the second segment does not have it any more
  for (const [at, state] of cluster.states.entries()) {
    if (state.identity.segment !== 1) continue;
    const replicas = cluster.node(cluster.places[at] ?? 0).disk?.replicas() ?? [];
    const store = replicas.find(({ segment }) => segment === 1);
    store?.dropSnapshot(idOf(1), () => {});
  }
  t.equal(await failureOf(cluster.wait(volume.rollback(idOf(1)))), 'UNAVAILABLE');
  t.equal(cluster.states[0]?.bytes[0], 1, 'the first one was rolled back');
});

t.test(
  'a new replica of a volume that was rolled back has nothing of what was undone',
  async (t) => {
    for (const primary of [0, 1, 3]) {
      const cluster = new SimCluster({ seed: 7, sizeBytes, nodes: 4, replicaNodes: 3 });
      const volume = await cluster.wait(cluster.attach(primary));
      await write(cluster, volume, 0, 1);
      await seal(cluster, volume, 1);
      await cluster.wait(volume.confirmSnapshot(idOf(1)));
      await write(cluster, volume, 5 * chunkBytes, 2);
      await seal(cluster, volume, 2);
      await cluster.wait(volume.confirmSnapshot(idOf(2)));
      await cluster.wait(volume.rollback(idOf(1)));
      cluster.kill(2);
      t.ok(await inSync(cluster, 2));
      const identity = { replicaId: 'r-2', volumeId: 'v-1', segment: 0, sizeBytes };
      cluster.states[2] = new MemoryReplicaState(identity);
      cluster.start(2);
      t.ok(await inSync(cluster, 3));
      equalReplicas(t, cluster);
    }
  },
);
