import { regionBytes } from '@stor/protocol';
import t from 'tap';

import type { PrimaryVolume } from '../src/primary/primary-volume.ts';
import { SimCluster, request } from '../src/testing/sim-cluster.ts';

const segmentBytes = regionBytes;

function clusterOf(seed: number, segments = 1): SimCluster {
  const sizeBytes = segments * segmentBytes;
  return new SimCluster({ seed, sizeBytes, segmentBytes, nodes: 4, replicaNodes: 3 });
}

async function write(cluster: SimCluster, volume: PrimaryVolume, at: number, fill: number) {
  const bytes = Buffer.alloc(12_000, fill);
  return cluster.wait(request(volume, 'write', at, bytes.length, bytes));
}

async function read(cluster: SimCluster, volume: PrimaryVolume, at: number): Promise<number> {
  const bytes = Buffer.alloc(12_000);
  const error = await cluster.wait(request(volume, 'read', at, bytes.length, bytes));
  if (error) throw error;
  if (bytes.some((byte) => byte !== bytes[0])) throw new Error('torn');
  return bytes[0] ?? -1;
}

t.test('a volume gets more segments while it is written', async (t) => {
  const cluster = clusterOf(1);
  const volume = await cluster.wait(cluster.attach(0));
  t.equal(await write(cluster, volume, 0, 1), null);
  const running = Array.from({ length: 20 }, (_, i) =>
    request(volume, 'write', 64 * 1024 * (i + 1), 4096, Buffer.alloc(4096, 2)),
  );
  await cluster.wait(volume.resize(3 * segmentBytes));
  t.equal(volume.sizeBytes, segmentBytes, 'the record counts, and it has not changed yet');
  cluster.recordSize(3 * segmentBytes);
  cluster.push();
  t.ok(await cluster.until(() => volume.sizeBytes === 3 * segmentBytes, 10_000));
  t.same(await cluster.wait(Promise.all(running)), Array(20).fill(null));

  const boundary = segmentBytes - 6_000;
  t.equal(await write(cluster, volume, boundary, 3), null);
  t.equal(await read(cluster, volume, boundary), 3);
  t.equal(await read(cluster, volume, 0), 1);
  t.equal(await read(cluster, volume, 2 * segmentBytes + 4096), 0, 'what is new is empty');
  t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
  for (let i = 0; i < 4; i++) cluster.cutPower(i);
  for (let i = 0; i < 4; i++) cluster.start(i);
  const next = await cluster.wait(cluster.attach(1));
  t.equal(next.sizeBytes, 3 * segmentBytes);
  t.equal(await read(cluster, next, boundary), 3);
});

t.test('the device waits until all that is behind it is there', async (t) => {
  const cluster = clusterOf(2);
  const volume = await cluster.wait(cluster.attach(0));
  cluster.recordSize(2 * segmentBytes);
  // segment 1 lies on nodes 1, 2 and 3
  for (const node of [1, 2, 3]) cluster.kill(node);
  cluster.push();
  await cluster.run(60_000);
  t.equal(volume.sizeBytes, segmentBytes);
  t.equal(volume.status().state, 'serving', 'the volume as it was goes on');
  for (const node of [1, 2, 3]) cluster.start(node);
  cluster.push(1_000);
  t.ok(await cluster.until(() => volume.sizeBytes === 2 * segmentBytes, 30_000));
  t.equal(await write(cluster, volume, segmentBytes, 5), null);
  t.equal(await read(cluster, volume, segmentBytes), 5);
});

t.test('a primary that ends while it grows leaves nothing behind', async (t) => {
  for (const how of ['stop', 'newer', 'kill'] as const) {
    const cluster = clusterOf(3, 2);
    const volume = await cluster.wait(cluster.attach(0));
    t.equal(await write(cluster, volume, 0, 1), null);
    cluster.recordSize(4 * segmentBytes);
    cluster.push();
    await cluster.run(3);
    if (how === 'stop') await cluster.wait(volume.stop());
    if (how === 'kill') cluster.kill(0);
    const next = await cluster.wait(cluster.attach(1));
    t.equal(next.sizeBytes, 4 * segmentBytes);
    t.equal(await write(cluster, next, 3 * segmentBytes, 2), null);
    t.equal(await read(cluster, next, 3 * segmentBytes), 2);
    t.equal(await read(cluster, next, 0), 1);
    if (how !== 'newer') continue;
    t.ok(await cluster.until(() => volume.status().state === 'stopped', 10_000));
  }
});

t.test('grows within its last segment, in odd steps, with a member that is away', async (t) => {
  const first = segmentBytes + 300_000;
  const sizes = [first, first + 8_192, 2 * segmentBytes - 4_096, 2 * segmentBytes + 1_044_480];
  const sizeOf = (bytes: number): number => Math.ceil(bytes / 4_096) * 4_096;
  const [before = 0, ...later] = sizes.map(sizeOf);
  const cluster = new SimCluster({
    seed: 4,
    sizeBytes: before,
    segmentBytes,
    nodes: 4,
    replicaNodes: 3,
  });
  const volume = await cluster.wait(cluster.attach(0));
  t.equal(await write(cluster, volume, segmentBytes - 6_000, 1), null);
  for (const [step, size] of later.entries()) {
    // segment 1 lies on nodes 1, 2 and 3
    if (step === 1) cluster.kill(3);
    await cluster.run(10_000);
    await cluster.wait(volume.resize(size));
    cluster.recordSize(size);
    cluster.push();
    t.ok(await cluster.until(() => volume.sizeBytes === size, 20_000), `${size} bytes`);
    t.equal(await write(cluster, volume, size - 12_288, 10 + step), null);
    t.equal(await read(cluster, volume, size - 12_288), 10 + step);
    t.equal(await read(cluster, volume, segmentBytes - 6_000), 1);
  }
  cluster.start(3);
  const isWhole = (): boolean =>
    volume.status().segments.every(({ inSync }) => inSync.length === 3);
  t.ok(await cluster.until(isWhole, 120_000), 'the one that was away is as large and back');
  const end = later[2] ?? 0;
  for (const node of [0, 1, 2]) {
    cluster.kill(node);
    if (node < 2) await cluster.run(5_000);
  }
  for (const node of [0, 1, 2]) cluster.start(node);
  const next = await cluster.wait(cluster.attach(3));
  t.equal(next.sizeBytes, end);
  t.equal(await read(cluster, next, end - 12_288), 12);
  const settled = (): boolean =>
    next.status().segments.every(({ settleBytesRemaining }) => settleBytesRemaining === 0);
  t.ok(await cluster.until(settled, 60_000));
  await t.rejects(cluster.wait(next.resize(before)), { code: 'INVALID_ARGUMENT' });
});
