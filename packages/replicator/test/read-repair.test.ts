/** Blocks that rot: answered from another replica, rewritten, and never spread (I9). */
import { blockBytes, chunkBytes, StorError } from '@stor/protocol';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request } from '@stor/replicator/testing';
import { DiskCluster } from './disk-cluster.ts';
import { mib } from './store-fixture.ts';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

async function read(
  cluster: SimCluster,
  volume: PrimaryVolume,
  offset: number,
  length = blockBytes,
): Promise<Buffer> {
  const bytes = Buffer.alloc(length, 0xcc);
  const error = await cluster.wait(request(volume, 'read', offset, length, bytes));
  if (error) throw error;
  return bytes;
}

/** A primary with a replica, or without; the first replica that it reads from is on node 0. */
async function begin(seed: number, isDiskless: boolean) {
  const cluster = new SimCluster({ seed, sizeBytes, nodes: 4, replicaNodes: 3 });
  const volume = await cluster.wait(cluster.attach(isDiskless ? 3 : 0));
  const written = Buffer.alloc(2 * chunkBytes, 5);
  t.equal(await cluster.wait(request(volume, 'write', 0, written.length, written)), null);
  return { cluster, volume, written };
}

t.test('bad blocks are answered from another replica and repaired', async (t) => {
  for (const isDiskless of [false, true]) {
    const { cluster, volume, written } = await begin(1, isDiskless);
    const state = cluster.states[0];
    if (!state) throw new Error('no state');
    for (const at of [3, 60, 64 + 7]) state.bytes.fill(0x55, at * blockBytes, at * blockBytes + 9);
    t.same(await read(cluster, volume, 0, written.length), written);
    const counts = (): unknown => volume.status().segments[0]?.badBlocks;
    t.ok(await cluster.until(() => state.bytes.equals(cluster.states[1]?.bytes ?? written), 5_000));
    await cluster.run(100);
    t.same(counts(), { found: 3, repaired: 3 });
    for (const at of [3, 60, 64 + 7]) t.ok(state.isValid(at));
    t.equal(cluster.control.inSync.length, 3, 'nobody left for it');
    t.same(await read(cluster, volume, 0, written.length), written);
    t.same(counts(), { found: 3, repaired: 3 }, 'nothing is left to do');
  }
});

t.test('a repair never overwrites what was written meanwhile', async (t) => {
  for (let seed = 10; seed < 30; seed++) {
    const { cluster, volume } = await begin(seed, seed % 2 === 0);
    const state = cluster.states[0];
    if (!state) throw new Error('no state');
    state.bytes.fill(0x55, 0, 9);
    const first = request(volume, 'read', 0, blockBytes, Buffer.alloc(blockBytes));
    const writes = [6, 7, 8].map((fill) => request(volume, 'write', 0, blockBytes, block(fill)));
    for (const error of await cluster.wait(Promise.all([first, ...writes]))) t.equal(error, null);
    await cluster.run(1_000);
    for (const each of cluster.states) t.same(each.bytes.subarray(0, blockBytes), block(8));
  }
});

t.test('a disk that does not keep what is written fails', async (t) => {
  const { cluster, volume, written } = await begin(2, false);
  const state = cluster.states[0];
  if (!state) throw new Error('no state');
  const put = state.put.bind(state);
  state.put = (at, bytes, start, sum) => {
    put(at, bytes, start, at === 3 ? ~sum : sum);
  };
  state.bytes.fill(0x55, 3 * blockBytes, 3 * blockBytes + 9);
  t.same(await read(cluster, volume, 0, written.length), written);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 10_000));
  t.match(cluster.node(0).failures, [{ replicaId: 'r-0', reason: /cannot be repaired/ }]);
  await cluster.run(20_000);
  t.same(cluster.control.inSync, ['r-1', 'r-2'], 'and is not taken back');
  const member = volume.status().segments[0]?.members.find((each) => each.replicaId === 'r-0');
  t.equal(member?.state, 'failed');
});

t.test('a failed write of a repair fails the replica', async (t) => {
  for (const isDiskless of [false, true]) {
    const { cluster, volume, written } = await begin(3, isDiskless);
    cluster.states[0]?.bytes.fill(0x55, 0, 9);
    cluster.store(0).failNextWrite = true;
    t.same(await read(cluster, volume, 0, written.length), written);
    t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 10_000));
    t.same(cluster.control.inSync, ['r-1', 'r-2']);
  }
});

t.test('the last replica has nobody to be repaired from', async (t) => {
  const { cluster, volume } = await begin(4, false);
  cluster.kill(1);
  cluster.kill(2);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 1, 20_000));
  cluster.states[0]?.bytes.fill(0x55, 0, 9);
  const asked = request(volume, 'read', 0, blockBytes, Buffer.alloc(blockBytes));
  t.equal((await cluster.wait(asked))?.code, 'CHECKSUM_MISMATCH');
  await cluster.run(1_000);
  t.equal(cluster.states[0]?.bytes[0], 0x55, 'it is left as it is');
});

t.test('a block that the disk cannot read any more is rewritten', async (t) => {
  for (const at of [0, 2]) {
    const cluster = new DiskCluster({ seed: 5, sizeBytes: 8 * mib, nodes: 3, replicas: 2 });
    await cluster.create();
    const volume = await cluster.wait(cluster.attach(at));
    const bytes = Buffer.alloc(chunkBytes, 9);
    t.equal(await cluster.wait(request(volume, 'write', 0, bytes.length, bytes)), null);
    const { files, failures } = cluster.node(0);
    let reads = 0;
    let broken = true;
    files.hook = (operation, path) => {
      if (!path.endsWith('/data')) return null;
      if (operation === 'write') broken = false;
      if (operation !== 'read' || !broken) return null;
      reads += 1;
      return 'EIO';
    };
    const target = Buffer.alloc(chunkBytes);
    t.equal(await cluster.wait(request(volume, 'read', 0, chunkBytes, target)), null);
    t.same(target, bytes, 'another replica answered');
    const repaired = (): number => volume.status().segments[0]?.badBlocks?.repaired ?? 0;
    t.ok(await cluster.until(() => repaired() > 0, 10_000));
    await cluster.run(2_000);
    t.ok(reads > 0);
    t.equal(cluster.control.inSync.length, 2, 'the replica stays');
    t.same(failures.all, [], 'and has not failed');
    const again = Buffer.alloc(chunkBytes);
    t.equal(await cluster.wait(request(volume, 'read', 0, chunkBytes, again)), null);
    t.same(again, bytes);
    cluster.end();
  }
});

t.test('a block that no disk can read is not settled to zeros', async (t) => {
  const cluster = new DiskCluster({ seed: 8, sizeBytes: 8 * mib, nodes: 2, replicas: 1 });
  await cluster.create();
  const volume = await cluster.wait(cluster.attach(1));
  const bytes = Buffer.alloc(chunkBytes, 9);
  t.equal(await cluster.wait(request(volume, 'write', 0, bytes.length, bytes)), null);
  cluster.kill(1);
  const { files } = cluster.node(0);
  files.hook = (operation, path) => (operation === 'read' && path.endsWith('/data') ? 'EIO' : null);
  await cluster.wait(cluster.start(1));
  const next = await cluster.wait(cluster.attach(1));
  const settled = (): boolean => next.status().segments[0]?.settleBytesRemaining === 0;
  t.ok(await cluster.until(settled, 20_000));
  const target = Buffer.alloc(blockBytes);
  const failed = await cluster.wait(request(next, 'read', 0, blockBytes, target));
  t.equal(failed?.code, 'CHECKSUM_MISMATCH');
  files.hook = () => null;
  t.equal(await cluster.wait(request(next, 'read', 0, blockBytes, target)), null);
  t.same(target, block(9), 'what can be read again is there');
  cluster.end();
});

t.test('a member without room for what settling gives it leaves, after all else', async (t) => {
  const cluster = new SimCluster({ seed: 6, sizeBytes, nodes: 3, replicaNodes: 2 });
  const volume = await cluster.wait(cluster.attach(2));
  const [first, second] = cluster.states;
  if (!first || !second) throw new Error('no states');
  const late = 40 * chunkBytes;
  t.equal(await cluster.wait(request(volume, 'write', late, blockBytes, block(1))), null);
  cluster.store(1).stuck = true;
  cluster.store(1).crash = () => {};
  const chunks = [1, 2, 3, 4, 5, 6];
  for (const chunk of chunks) {
    void request(volume, 'write', chunk * chunkBytes, blockBytes, block(2));
  }
  const written = (): boolean => chunks.every((chunk) => first.allocated.has(chunk));
  t.ok(await cluster.until(written, 1_000));
  cluster.kill(2);
  cluster.kill(1);
  // torn at the one that stays: only the one that has to leave has the block
  first.bytes.fill(0x55, late, late + 9);
  cluster.start(1);
  cluster.store(1).capacityChunks = 1;
  cluster.start(2);
  const next = await cluster.wait(cluster.attach(2));
  const settled = (): boolean => next.status().segments[0]?.settleBytesRemaining === 0;
  t.ok(await cluster.until(settled, 20_000), 'it does not try for ever');
  t.same(cluster.control.inSync, ['r-0']);
  for (const chunk of chunks) t.same(await read(cluster, next, chunk * chunkBytes), block(2));
  t.same(await read(cluster, next, late), block(1), 'what it alone had was taken first');
  t.same(cluster.node(2).failures, [], 'a full disk is no broken one');
  cluster.store(1).capacityChunks = 10;
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 120_000));
  await cluster.run(100);
  t.ok(first.bytes.equals(second.bytes));
});

t.test('what no replica can give is an error, not a wait', async (t) => {
  const { cluster, volume } = await begin(7, false);
  for (const state of cluster.states) state.bytes.fill(0x55, 0, 9);
  const error = await cluster.wait(
    request(volume, 'read', 0, chunkBytes, Buffer.alloc(chunkBytes)),
  );
  t.ok(error instanceof StorError && error.code === 'CHECKSUM_MISMATCH');
  await cluster.run(1_000);
  t.match(volume.status().segments[0]?.badBlocks, { repaired: 0 });
  t.equal(cluster.control.inSync.length, 3);
});
