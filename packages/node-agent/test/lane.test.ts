import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { silentLogger, systemClock } from '@stor/runtime';
import type { LaneOptions, MainMethods } from '../src/lane/lane-protocol.ts';
import { Lane } from '../src/lane/lane.ts';
import { ThreadLock } from '../src/lane/thread-lock.ts';
import type { ReplicaStore } from '@stor/replicator';

function openLane(dataDir: string): Lane {
  const options: LaneOptions = {
    lane: 0,
    lanes: 1,
    failureLock: ThreadLock.newMemory(),
    clusterId: 'c-0123456789abcdef',
    nodeId: 'n-0123456789abcdef',
    nodeName: 'n1',
    agentInstance: 'i',
    bootId: 'b',
    dataDir,
    host: '127.0.0.1',
    peersPort: 0,
    nbdPort: 0,
    nbdUnixPath: null,
    diskReserveBytes: 0,
    autoDetachMs: 30_000,
    logLevel: 'silent',
  };
  return new Lane(options, {} as MainMethods, systemClock, silentLogger);
}

const replica = { replicaId: 'r-1', volumeId: 'v-1', segment: 0, sizeBytes: 4096 };

/** Fails the disk for good: the name that a new replica is about to get is taken meanwhile. */
async function breakDisk(lane: Lane, diskPath: string): Promise<void> {
  const creating = lane.createReplica('d-2', { ...replica, replicaId: 'r-2' });
  creating.catch(() => {});
  const own = join(diskPath, 'replicas', 'r-2');
  for (let i = 0; i < 10_000 && !existsSync(`${own}.creating`); i++) await Promise.resolve();
  mkdirSync(own);
  writeFileSync(join(own, 'taken'), '');
  await creating.then(
    () => {
      throw new Error('the disk did not fail');
    },
    () => {},
  );
}

t.test('a failed disk is told as such, and hides no other one (I7)', async (t) => {
  const dataDir = t.testdir({ a: {}, b: {}, c: {} });
  const at = (name: string): string => join(dataDir, name);
  const lane = openLane(dataDir);
  t.teardown(() => lane.close());
  await lane.openDisk({ diskId: 'd-1', path: at('a'), tag: '', create: true });
  await lane.openDisk({ diskId: 'd-2', path: at('b'), tag: '', create: true });
  await lane.openDisk({ diskId: 'd-3', path: at('c'), tag: '', create: false });
  await lane.createReplica('d-1', replica);
  await lane.createReplica('d-2', { ...replica, replicaId: 'r-0' });
  await breakDisk(lane, at('b'));
  t.match(await lane.disks(), [
    { diskId: 'd-1', state: 'online' },
    { diskId: 'd-2', state: 'failed', isLost: true, message: /naming a replica failed/ },
    { diskId: 'd-3', state: 'failed', isLost: false, message: /is its file system mounted/ },
  ]);
  t.match(await lane.replicas(), [
    { replicaId: 'r-1', failure: undefined },
    { replicaId: 'r-0', failure: /naming a replica failed/ },
  ]);
  t.match((await lane.counters()).disks, [
    { diskId: 'd-1', errors: 0 },
    { diskId: 'd-2', errors: 2 },
  ]);
  await lane.close();

  const again = openLane(dataDir);
  t.teardown(() => again.close());
  await again.openDisk({ diskId: 'd-1', path: at('a'), tag: '', create: false });
  await again.openDisk({ diskId: 'd-2', path: at('b'), tag: '', create: false });
  t.match(
    await again.disks(),
    [
      { diskId: 'd-1', state: 'online' },
      { diskId: 'd-2', state: 'failed', isLost: true, message: /failed earlier/ },
    ],
    'and stays failed',
  );
  await t.rejects(again.createReplica('d-2', replica), { code: 'NOT_FOUND' });
});

t.test('snapshots of a replica that cannot be found are not called dropped', async (t) => {
  const dataDir = t.testdir({ a: {}, b: {} });
  const lane = openLane(dataDir);
  t.teardown(() => lane.close());
  await lane.openDisk({ diskId: 'd-1', path: join(dataDir, 'a'), tag: '', create: true });
  await lane.openDisk({ diskId: 'd-2', path: join(dataDir, 'b'), tag: '', create: false });
  await lane.createReplica('d-1', replica);
  const drops = [{ id: 's-0000000000000001', neverReady: false }];
  await lane.dropSnapshots('d-1', 'r-1', drops);
  const unknown = { code: 'NOT_FOUND', message: /no replica r-0 on disk d-1 of node n1/ };
  await t.rejects(lane.dropSnapshots('d-1', 'r-0', drops), unknown);
  const notOpen = { code: 'NOT_FOUND', message: /no disk d-2/ };
  await t.rejects(lane.dropSnapshots('d-2', 'r-2', drops), notOpen);
});

t.test('a snapshot that is ready is not dropped as one that never was', async (t) => {
  const dataDir = t.testdir({ a: {} });
  const lane = openLane(dataDir);
  t.teardown(() => lane.close());
  await lane.openDisk({ diskId: 'd-1', path: join(dataDir, 'a'), tag: '', create: true });
  await lane.createReplica('d-1', replica);
  const store = lane.stores[0]?.replica('r-1');
  if (!store) throw new Error('no replica');
  const asked = (step: (done: Parameters<ReplicaStore['dropSnapshot']>[1]) => void) =>
    new Promise<void>((resolve, reject) => {
      step((error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  const [first, second] = ['s-0000000000000001', 's-0000000000000002'];
  for (const id of [first, second])
    await asked((done) => {
      store.takeSnapshot(id, 1, 'prepared', done);
    });
  await asked((done) => {
    store.confirmSnapshot(first, done);
  });
  const drops = [first, second].map((id) => ({ id, neverReady: true }));
  t.same(await lane.dropSnapshots('d-1', 'r-1', drops), [first]);
  t.match(store.snapshots(), [{ snapshotId: first, state: 'ready' }]);
  t.same(await lane.dropSnapshots('d-1', 'r-1', [{ id: first, neverReady: false }]), []);
  t.same(store.snapshots(), []);
});
