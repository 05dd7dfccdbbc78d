/** A segment of a volume of 64 TiB costs what was written to it, not what could be. Counts, no timings. */
import { type SnapshotId, blockBytes, regionBytes } from '@stor/protocol';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import { MemoryReplicaStore, SimCluster, request } from '@stor/replicator/testing';
import t from 'tap';

import { allocatedBitmap, ownedBitmap, peerSpaceOf } from '../src/peer/peer-snapshots.ts';
import type { DiskReplica } from '../src/store/disk-replica.ts';
import { call, chunkBytes, flush, identity, openStore, write } from './store-fixture.ts';

const TiB = 2 ** 40;
/** of 64 TiB in 256 segments */
const segmentBytes = TiB / 4;
const places = [0, segmentBytes / 2, segmentBytes - chunkBytes];

t.test('few chunks of 256 GiB: what is kept, made and sent is for those', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const options = { bootId: files.bootId, clock: new FakeClock() };
  const store = await openStore('/disk', files.process(), options);
  const large = { ...identity, sizeBytes: segmentBytes };
  const replica = (await store.createReplica(large)) as DiskReplica;
  const costs = (): number[] => [
    replica.image.slotOf.pageCount,
    allocatedBitmap(replica).pageCount,
    ownedBitmap(replica).pageCount,
    replica.tables.knownPages,
  ];
  t.same(costs(), [0, 0, 0, 0], 'nothing is written');
  for (const at of places) await write(replica, at, blockBytes, 1);
  await flush(replica);
  t.same(costs(), [3, 3, 3, 3]);
  await call((done) => {
    replica.takeSnapshot('s-1', 1, 'prepared', done);
  });
  await write(replica, 0, blockBytes, 2);
  t.equal(replica.changedChunks('s-1', null)?.pageCount, 1);
  t.equal(replica.changedChunks(null, 's-1')?.pageCount, 3);
  t.same(
    replica.changedChunks(null, 's-1')?.list(),
    places.map((at) => at / chunkBytes),
  );
  const said = peerSpaceOf(replica, 0, true);
  t.ok(said.allocated.length + said.owned.length < 60, `${said.allocated} ${said.owned}`);
  await call((done) => {
    replica.resize(2 * segmentBytes, done);
  });
  t.same(costs(), [3, 3, 1, 3], 'to grow costs nothing');
  t.same(
    replica.marks(),
    places.map((at) => Math.floor(at / regionBytes)),
  );
  await store.close();
  const again = await openStore('/disk', files.process(), options);
  const found = again.replica(identity.replicaId) as DiskReplica;
  t.equal(found.image.slotOf.pageCount, 3);
  t.equal(found.tables.knownPages, 3);
  await again.close();
});

t.test('tries of a snapshot that are given up do not add up to questions', async (t) => {
  const sizeBytes = 2 * regionBytes;
  const cluster = new SimCluster({ seed: 3, sizeBytes, nodes: 3 });
  const volume = await cluster.wait(cluster.attach(0));
  const bytes = Buffer.alloc(blockBytes, 1);
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, bytes)), null);
  // once or twice for each question
  const { nextAllocated } = MemoryReplicaStore.prototype;
  const looks = t.capture(MemoryReplicaStore.prototype, 'nextAllocated', nextAllocated);
  for (let n = 1; n <= 6; n++) {
    const snapshotId: SnapshotId = `s-${n.toString(16).padStart(16, '0')}`;
    const token = `try ${n}`;
    await cluster.wait(volume.hold({ token, holdMs: 100 }));
    await cluster.wait(volume.prepareSnapshot({ token, snapshotId }));
    volume.release(token);
    await cluster.wait(volume.dropSnapshot(snapshotId));
  }
  const now = cluster.scheduler.nowMs;
  await cluster.until(() => cluster.scheduler.nowMs > now + 30_000, 60_000);
  const count = looks().filter(({ args }) => args[0] === 0).length;
  t.ok(count > 0, 'room that came back was asked for');
  t.ok(count <= 3 * 2 * 11, `three members were looked at ${count} times after six snapshots`);
});

t.test(
  'settling looks at chunks that a member has, not at all of the marked regions',
  async (t) => {
    const sizeBytes = 8 * regionBytes;
    const cluster = new SimCluster({ seed: 5, sizeBytes, nodes: 3 });
    const volume = await cluster.wait(cluster.attach(0));
    for (let region = 0; region < 8; region++) {
      const bytes = Buffer.alloc(blockBytes, 1 + region);
      const wrote = request(volume, 'write', region * regionBytes, blockBytes, bytes);
      t.equal(await cluster.wait(wrote), null);
    }
    cluster.kill(0);
    const { readUnverified } = MemoryReplicaStore.prototype;
    const reads = t.capture(MemoryReplicaStore.prototype, 'readUnverified', readUnverified);
    const next = await cluster.wait(cluster.attach(1));
    const left = (): number => next.status().segments[0]?.settleBytesRemaining ?? -1;
    t.ok(await cluster.until(() => left() === 0, 20_000));
    const chunks = new Set(reads().map(({ args: [offset] }) => offset / chunkBytes));
    const first = Array.from({ length: 8 }, (_, region) => (region * regionBytes) / chunkBytes);
    t.same(
      [...chunks].sort((a, b) => a - b),
      first,
    );
  },
);
