import t, { type Test } from 'tap';

import { request } from '@stor/replicator/testing';
import type { Extent, PrimaryVolume } from '../src/index.ts';
import { DiskCluster } from './disk-cluster.ts';
import { DiskScenario } from './disk-scenario.ts';
import { mib, read } from './store-fixture.ts';

/** Seeds of one run of the suite; set STOR_SEEDS to try more, STOR_FIRST_SEED to repeat one. */
const seeds = Number(process.env['STOR_SEEDS'] ?? 6);
const firstSeed = Number(process.env['STOR_FIRST_SEED'] ?? 1);

t.test('nothing acknowledged is lost on real stores under any faults', async (t) => {
  const problems: string[] = [];
  const counts: Record<string, number> = {};
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const scenario = new DiskScenario({ seed, diskless: seed % 3 === 0 });
    problems.push(...(await scenario.run()));
    for (const [what, n] of Object.entries(scenario.counts)) counts[what] = (counts[what] ?? 0) + n;
  }
  t.comment(JSON.stringify(counts));
  t.same(problems, []);
  t.ok((counts['write'] ?? 0) > seeds * 50, 'enough was written to mean something');
});

t.test('full disks refuse writes, lose nothing, and take their replicas back', async (t) => {
  const capacityBytes = 9_000_000;
  for (const seed of [5, 9]) {
    const scenario = new DiskScenario({ seed, capacityBytes, diskless: seed === 9 });
    t.same(await scenario.run(), []);
    t.ok((scenario.counts['write NO_SPACE'] ?? 0) > 10, 'the disks were full');
  }
});

t.test('a write that its last member got after a crash reaches those that come back', async (t) => {
  const cluster = new DiskCluster({ seed: 1, sizeBytes: 8 * mib, nodes: 3, replicas: 2 });
  await cluster.create();
  // its primary has no replica, and one member is left
  const volume = await cluster.wait(cluster.attach(2));
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 1, 20_000));
  t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
  t.equal(await cluster.wait(request(volume, 'write', 0, 4096, Buffer.alloc(4096))), null);
  cluster.network.block(cluster.node(2).id, cluster.node(0).id);
  const bytes = Buffer.alloc(4096, 0x5a);
  const written = request(volume, 'write', 5 * mib, bytes.length, bytes);
  cluster.kill(0);
  await cluster.wait(cluster.start(0));
  cluster.network.heal();
  t.equal(await cluster.wait(written), null);
  t.same(await extentsOf(volume, 5 * mib, mib), [
    { offset: 5 * mib, length: 262144, allocated: true },
    { offset: 5 * mib + 262144, length: mib - 262144, allocated: false },
  ]);

  await cluster.wait(cluster.start(1));
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  for (const index of [0, 1]) {
    const replica = cluster.replica(index);
    t.ok(replica);
    if (!replica) continue;
    const found = await cluster.wait(read(replica, 5 * mib, 4096));
    t.same(found, bytes, `replica ${index}`);
  }
  cluster.end();
});

/** Blocks whose checksums are in the memory of the replicas' processes alone: nothing has flushed them. */
async function writeLate(t: Test, cluster: DiskCluster, volume: PrimaryVolume): Promise<Buffer> {
  let bytes = Buffer.alloc(0);
  for (const value of [1, 2, 3, 4]) {
    bytes = Buffer.alloc(4096, value);
    t.equal(await cluster.wait(request(volume, 'write', 0, bytes.length, bytes)), null);
  }
  return bytes;
}

t.test('a killed member is compared wherever its checksums may be old', async (t) => {
  const cluster = new DiskCluster({ seed: 1, sizeBytes: 8 * mib, nodes: 3, replicas: 2 });
  await cluster.create();
  const volume = await cluster.wait(cluster.attach(2));
  const bytes = await writeLate(t, cluster, volume);
  // stopped first, so that it leaves the set long after these writes
  cluster.node(1).clock.pause();
  t.ok(await cluster.until(() => cluster.control.inSync.length === 1, 20_000));
  cluster.kill(1);
  await cluster.wait(cluster.start(1));
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  const replica = cluster.replica(1);
  t.ok(replica);
  if (replica) t.same(await cluster.wait(read(replica, 0, 4096)), bytes);
  cluster.end();
});

t.test('the only member is killed and returns: what it had acknowledged can be read', async (t) => {
  const cluster = new DiskCluster({ seed: 1, sizeBytes: 8 * mib, nodes: 2, replicas: 1 });
  await cluster.create();
  let volume = await cluster.wait(cluster.attach(1));
  const bytes = await writeLate(t, cluster, volume);
  let isOver = false;
  volume.onStopped(() => {
    isOver = true;
  });
  cluster.kill(0);
  await cluster.wait(cluster.start(0));
  const served = (): boolean => volume.status().segments[0]?.members[0]?.state === 'in-sync';
  t.ok(await cluster.until(() => isOver || served(), 20_000));
  if (isOver) volume = await cluster.wait(cluster.attach(1));
  const found = Buffer.alloc(4096);
  t.equal(await cluster.wait(request(volume, 'read', 0, found.length, found)), null);
  t.same(found, bytes);
  const replica = cluster.replica(0);
  t.ok(replica);
  if (replica) t.same(await cluster.wait(read(replica, 0, 4096)), bytes);
  cluster.end();
});

function extentsOf(volume: PrimaryVolume, offset: number, length: number): Promise<Extent[]> {
  return new Promise((resolve, reject) => {
    volume.extents(offset, length, 16, (error, extents) => {
      if (error) reject(error);
      else resolve(extents);
    });
  });
}

t.test('zeros that shall keep their space are refused when there is none', async (t) => {
  const capacityBytes = 6 * mib;
  const cluster = new DiskCluster({ seed: 1, sizeBytes: 16 * mib, capacityBytes });
  await cluster.create();
  const volume = await cluster.wait(cluster.attach(0));
  const zero = request(volume, 'writeZeroes', 0, 16 * mib, null, { noHole: true });
  t.equal((await cluster.wait(zero))?.code, 'NO_SPACE');
  t.same(cluster.control.inSync.length, 3, 'nothing was sent to anybody');
  t.equal(await cluster.wait(request(volume, 'writeZeroes', 0, 16 * mib, null)), null);
  t.equal(await cluster.wait(request(volume, 'write', 0, 4096, Buffer.alloc(4096, 1))), null);
  t.same(
    [0, 1, 2].map((index) => cluster.replica(index)?.failure),
    [null, null, null],
  );
  cluster.end();
});
