/** Snapshots of a volume of several segments: one instant of all of them, whatever it becomes later. */
import { blockBytes, regionBytes, type SnapshotId } from '@stor/protocol';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request } from '@stor/replicator/testing';

const segmentBytes = regionBytes;
const sizeBytes = 3 * segmentBytes;
const idOf = (n: number): SnapshotId => `s-${n.toString(16).padStart(16, '0')}`;
const boundary = segmentBytes - blockBytes;

function clusterOf(seed: number): SimCluster {
  return new SimCluster({ seed, sizeBytes, segmentBytes, nodes: 4, replicaNodes: 3 });
}

async function write(cluster: SimCluster, volume: PrimaryVolume, at: number, fill: number) {
  const bytes = Buffer.alloc(2 * blockBytes, fill);
  const error = await cluster.wait(request(volume, 'write', at, bytes.length, bytes));
  if (error) throw error;
}

async function read(cluster: SimCluster, volume: PrimaryVolume, at: number): Promise<number[]> {
  const bytes = Buffer.alloc(2 * blockBytes, 0xcc);
  const error = await cluster.wait(request(volume, 'read', at, bytes.length, bytes));
  if (error) throw error;
  return [bytes[0] ?? -1, bytes[blockBytes] ?? -1];
}

async function take(cluster: SimCluster, volume: PrimaryVolume, n: number): Promise<void> {
  const snapshotId = idOf(n);
  const { control } = cluster;
  control.snapshots ??= new Map();
  control.snapshots.set(snapshotId, 'creating');
  const token = `take ${n}`;
  await cluster.wait(volume.hold({ token, holdMs: 100 }));
  await cluster.wait(volume.prepareSnapshot({ token, snapshotId }));
  if (!volume.release(token).intact) throw new Error('the hold was broken');
  await cluster.wait(volume.sealSnapshot(snapshotId));
  control.snapshots.set(snapshotId, 'ready');
  await cluster.wait(volume.confirmSnapshot(snapshotId));
}

t.test('a rollback takes all segments back, and a diff names what differs in each', async (t) => {
  const cluster = clusterOf(1);
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, boundary, 1);
  await write(cluster, volume, 2 * segmentBytes, 1);
  await take(cluster, volume, 1);
  await write(cluster, volume, boundary, 2);
  await take(cluster, volume, 2);
  await write(cluster, volume, 2 * segmentBytes, 3);
  const chunk = 256 * 1024;
  t.same(
    await cluster.wait(volume.changedExtents(idOf(1), idOf(2))),
    [{ offset: segmentBytes - chunk, length: 2 * chunk }],
    'joined over the boundary',
  );
  t.same(await cluster.wait(volume.changedExtents(idOf(2), null)), [
    { offset: 2 * segmentBytes, length: chunk },
  ]);
  await cluster.wait(volume.rollback(idOf(1)));
  t.same(await read(cluster, volume, boundary), [1, 1]);
  t.same(await read(cluster, volume, 2 * segmentBytes), [1, 1]);
  await cluster.wait(volume.rollback(idOf(2)));
  t.same(await read(cluster, volume, boundary), [2, 2]);
  t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
});

t.test('a snapshot holds no write of one segment without those before it in others', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const cluster = clusterOf(seed);
    const volume = await cluster.wait(cluster.attach(seed % 4));
    // each write begins when the one before is acknowledged, in another segment
    let last = 0;
    let isOver = false;
    const writer = async (): Promise<void> => {
      for (let n = 1; n <= 250 && !isOver; n++) {
        const bytes = Buffer.alloc(blockBytes, n);
        const at = (n % 3) * segmentBytes + 8 * blockBytes;
        const error = await request(volume, 'write', at, blockBytes, bytes);
        if (error) throw error;
        last = n;
      }
    };
    const writing = writer();
    await cluster.until(() => last > 20 + seed, 60_000);
    let tries = 0;
    for (;;) {
      const failed = await take(cluster, volume, ++tries).then(
        () => false,
        () => true,
      );
      if (!failed || tries > 10) break;
    }
    isOver = true;
    await cluster.wait(writing);
    await cluster.wait(volume.rollback(idOf(tries)));
    const seen: number[] = [];
    for (const segment of [0, 1, 2]) {
      const bytes = Buffer.alloc(blockBytes);
      const at = segment * segmentBytes + 8 * blockBytes;
      t.equal(await cluster.wait(request(volume, 'read', at, blockBytes, bytes)), null);
      seen.push(bytes[0] ?? 0);
    }
    seen.sort((a, b) => a - b);
    const [first = 0, second = 0, third = 0] = seen;
    t.same([second, third], [first + 1, first + 2], `seed ${seed}: three in a row`);
  }
});

t.test('what one segment cannot do is undone at the others', async (t) => {
  const cluster = clusterOf(3);
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  // a node without which segment 0 must first change its set
  await cluster.wait(volume.hold({ token: 'a', holdMs: 1_000 }));
  cluster.kill(2);
  await cluster.run(5);
  const failed = await cluster.wait(
    volume.prepareSnapshot({ token: 'a', snapshotId: idOf(1) }).then(
      () => null,
      (error: unknown) => error,
    ),
  );
  t.not(failed, null);
  volume.release('a');
  cluster.start(2);
  const isWhole = (): boolean =>
    volume.status().segments.every(({ inSync }) => inSync.length === 3);
  t.ok(await cluster.until(isWhole, 120_000));
  await cluster.run(10_000);
  for (const { snapshots, identity } of cluster.states) {
    t.same(snapshots.list(), [], `nothing is left at ${identity.replicaId}`);
  }
  await take(cluster, volume, 2);
  t.ok(cluster.states.every(({ snapshots }) => snapshots.stateOf(idOf(2)) === 'ready'));
});

t.test('a snapshot from before a growth has no part in what was added', async (t) => {
  const cluster = clusterOf(4);
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, boundary, 1);
  await take(cluster, volume, 1);
  cluster.control.snapshotSizes.set(idOf(1), sizeBytes);
  await write(cluster, volume, boundary, 2);
  const larger = 5 * segmentBytes;
  await cluster.wait(volume.resize(larger));
  cluster.recordSize(larger);
  cluster.push();
  t.ok(await cluster.until(() => volume.sizeBytes === larger, 10_000));
  const added = 3 * segmentBytes - blockBytes;
  await write(cluster, volume, added, 7);
  await take(cluster, volume, 2);
  t.same(await cluster.wait(volume.changedExtents(idOf(1), idOf(2))), [
    { offset: segmentBytes - 256 * 1024, length: 512 * 1024 },
    { offset: 3 * segmentBytes - 256 * 1024, length: 512 * 1024 },
  ]);
  await cluster.wait(volume.rollback(idOf(1)));
  t.equal(volume.sizeBytes, larger, 'the size stays');
  t.same(await read(cluster, volume, boundary), [1, 1]);
  t.same(await read(cluster, volume, added), [0, 0], 'what was added is empty');
  await cluster.wait(volume.rollback(idOf(2)));
  t.same(await read(cluster, volume, added), [7, 7]);
  t.same(await read(cluster, volume, boundary), [2, 2]);
  // one that cannot be done takes nothing away
  for (const node of [0, 1, 2, 3]) {
    for (const replica of cluster.node(node).disk?.replicas() ?? []) {
      if (replica.segment < 3) replica.dropSnapshot(idOf(1), () => {});
    }
  }
  await cluster.run(1_000);
  await t.rejects(cluster.wait(volume.rollback(idOf(1))), { code: /NOT_FOUND|UNAVAILABLE/ });
  t.same(await read(cluster, volume, added), [7, 7]);
  t.same(await read(cluster, volume, boundary), [2, 2]);
});
