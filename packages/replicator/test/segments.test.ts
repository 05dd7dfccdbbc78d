import { regionBytes } from '@stor/protocol';
import tap from 'tap';

import type { PrimaryVolume } from '../src/primary/primary-volume.ts';
import { SimCluster, request } from '../src/testing/sim-cluster.ts';

const segmentBytes = regionBytes;
const sizeBytes = 3 * segmentBytes + 64 * 1024;
/** around each boundary, and in the last, short segment */
const places = [0, segmentBytes - 6_000, 2 * segmentBytes - 4_096, 3 * segmentBytes - 100];

function clusterOf(seed: number, nodes = 4): SimCluster {
  return new SimCluster({ seed, sizeBytes, segmentBytes, nodes, replicaNodes: 3 });
}

function payload(fill: number): Buffer {
  return Buffer.alloc(12_000, fill);
}

async function writeAll(cluster: SimCluster, volume: PrimaryVolume, fill: number): Promise<void> {
  for (const [i, offset] of places.entries()) {
    const bytes = payload(fill + i);
    const error = await cluster.wait(request(volume, 'write', offset, bytes.length, bytes));
    if (error) throw error;
  }
}

async function check(
  t: { equal: typeof tap.equal; ok: typeof tap.ok },
  cluster: SimCluster,
  volume: PrimaryVolume,
  fill: number,
): Promise<void> {
  for (const [i, offset] of places.entries()) {
    const bytes = payload(0);
    const error = await cluster.wait(request(volume, 'read', offset, bytes.length, bytes));
    t.equal(error, null);
    t.ok(bytes.equals(payload(fill + i)), `the bytes at ${offset}`);
  }
}

tap.test('is written and read over its boundaries, on a node without all replicas', async (t) => {
  const cluster = clusterOf(1);
  for (const index of [0, 3]) {
    const volume = await cluster.wait(cluster.attach(index));
    t.equal(volume.sizeBytes, sizeBytes);
    t.same(
      volume.status().segments.map(({ index: at, inSync }) => [at, inSync.length]),
      [0, 1, 2, 3].map((at) => [at, 3]),
    );
    await writeAll(cluster, volume, 10 * (index + 1));
    await check(t, cluster, volume, 10 * (index + 1));
    t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
    await cluster.wait(volume.stop());
  }
});

tap.test('a node that dies leaves the sets of its segments alone', async (t) => {
  const cluster = clusterOf(2);
  const volume = await cluster.wait(cluster.attach(0));
  await writeAll(cluster, volume, 1);
  // replicas of segment 0 lie on nodes 0, 1, 2, of segment 1 on 1, 2, 3, and so on
  cluster.kill(1);
  await writeAll(cluster, volume, 50);
  await check(t, cluster, volume, 50);
  const sets = volume.status().segments.map(({ inSync }) => inSync.length);
  t.same(sets, [2, 2, 3, 2], 'segment 2 has nothing there');
  cluster.start(1);
  const isWhole = (): boolean =>
    volume.status().segments.every(({ inSync }) => inSync.length === 3);
  t.ok(await cluster.until(isWhole, 120_000), 'each is brought back by its own resync');
  for (const victim of [2, 3]) cluster.kill(victim);
  await check(t, cluster, volume, 50);
});

tap.test('what was flushed survives power cuts of all nodes, in every segment', async (t) => {
  for (let seed = 1; seed <= 10; seed++) {
    const cluster = clusterOf(seed);
    const volume = await cluster.wait(cluster.attach(0));
    await writeAll(cluster, volume, 1);
    if (seed % 2 === 0) await cluster.wait(request(volume, 'flush', 0, 0, null));
    else {
      // I1: FUA too is about all that was acknowledged before, on every segment
      const bytes = payload(1);
      const options = { fua: true };
      const last = request(volume, 'write', places[0] ?? 0, bytes.length, bytes, options);
      t.equal(await cluster.wait(last), null);
    }
    for (let i = 0; i < 4; i++) cluster.cutPower(i);
    for (let i = 0; i < 4; i++) cluster.start(i);
    const next = await cluster.wait(cluster.attach(seed % 4));
    await check(t, cluster, next, 1);
  }
});

tap.test('serves when all segments do, and no sooner', async (t) => {
  const cluster = clusterOf(3);
  // segments 1, 2 and 3 have replicas elsewhere, segment 0 has none but on these
  for (const index of [0, 1, 2]) cluster.kill(index);
  const refused = cluster.wait(cluster.attach(3), 60_000);
  await t.rejects(refused, { code: 'UNAVAILABLE' });
  for (const index of [0, 1, 2]) cluster.start(index);
  const volume = await cluster.wait(cluster.attach(3));
  await writeAll(cluster, volume, 7);
  await check(t, cluster, volume, 7);
  const reasons: string[] = [];
  volume.onStopped(({ code }) => reasons.push(code));
  const newer = await cluster.wait(cluster.attach(0));
  await check(t, cluster, newer, 7);
  t.ok(await cluster.until(() => reasons.length > 0, 10_000), 'the older one has ended');
  t.same(reasons, ['STALE_EPOCH']);
});
