/** How replicas come back: what is moved, in what order, and what they know afterwards. */
import { blockBytes, chunkBytes, regionBytes, type StorError } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import t, { type Test } from 'tap';

import type { PrimaryVolume, ResyncStatus } from '@stor/replicator';
import { MemoryReplicaState, SimCluster, request } from '@stor/replicator/testing';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

async function write(
  cluster: SimCluster,
  volume: PrimaryVolume,
  offset: number,
  bytes: Buffer,
): Promise<void> {
  const error = await cluster.wait(request(volume, 'write', offset, bytes.length, bytes));
  if (error) throw error;
}

async function read(
  cluster: SimCluster,
  volume: PrimaryVolume,
  offset: number,
  length = blockBytes,
): Promise<{ error: StorError | null; bytes: Buffer }> {
  const bytes = Buffer.alloc(length, 0xcc);
  const error = await cluster.wait(request(volume, 'read', offset, length, bytes));
  return { error, bytes };
}

function resyncOf(volume: PrimaryVolume, replicaId: string): ResyncStatus | undefined {
  const members = volume.status().segments[0]?.members ?? [];
  return members.find((member) => member.replicaId === replicaId)?.resync;
}

async function inSync(cluster: SimCluster, count: number, ms = 30_000): Promise<boolean> {
  const held = await cluster.until(() => cluster.control.inSync.length === count, ms);
  await cluster.run(100);
  return held;
}

function equalReplicas(t: Test, cluster: SimCluster, ids?: string[]): void {
  const states = cluster.states.filter((s) => !ids || ids.includes(s.identity.replicaId));
  const [first, ...others] = states;
  for (const other of others) t.ok(first?.bytes.equals(other.bytes), other.identity.replicaId);
}

/** Blocks that are written at a member from now on. */
function countWrites(cluster: SimCluster, index: number): () => number {
  let written = 0;
  const state = cluster.states[index];
  if (!state) throw new Error('no state');
  const put = state.put.bind(state);
  state.put = (...args) => {
    written += 1;
    put(...args);
  };
  return () => written;
}

t.test('an absence costs what has changed, on the sockets', async (t) => {
  const random = new SeededRandom(1);
  const cases: { name: string; writes: (n: number) => { offset: number; bytes: Buffer } }[] = [
    {
      name: 'whole chunks',
      writes: (n) => ({
        offset: n * chunkBytes,
        bytes: Buffer.from(
          Array.from({ length: chunkBytes }, () => Math.floor(random.next() * 256)),
        ),
      }),
    },
    {
      name: 'a block here and there',
      writes: (n) => ({ offset: n * 3 * chunkBytes, bytes: block(n + 1) }),
    },
  ];
  for (const { name, writes } of cases) {
    const cluster = new SimCluster({ seed: 3, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    for (let chunk = 0; chunk < 48; chunk++) {
      await write(cluster, volume, chunk * chunkBytes, block(200));
    }
    await cluster.run(60_000);
    cluster.kill(1);
    await cluster.run(1_000);
    const changed = new Set<number>();
    let writtenBytes = 0;
    for (let n = 0; n < 16; n++) {
      const { offset, bytes } = writes(n);
      await write(cluster, volume, offset, bytes);
      changed.add(Math.floor(offset / chunkBytes));
      writtenBytes += bytes.length;
    }
    await cluster.run(60_000);
    const before = cluster.network.sentBytes;
    cluster.start(1);
    t.ok(await inSync(cluster, 3));
    const moved = cluster.network.sentBytes - before;
    t.ok(moved <= 1.1 * changed.size * chunkBytes, `${name}: ${moved} bytes`);
    t.ok(moved <= 1.02 * writtenBytes + 100_000, `${name}: hashes and pings are little, ${moved}`);
    t.comment(`${name}: ${moved} bytes for ${changed.size} chunks, ${writtenBytes} written`);
    equalReplicas(t, cluster);
  }
});

t.test(
  'a replica back after a restart copies nothing and compares what it has marked',
  async (t) => {
    const cluster = new SimCluster({ seed: 4, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    for (let chunk = 0; chunk < 48; chunk++)
      await write(cluster, volume, chunk * chunkBytes, block(1));
    t.equal(cluster.states[0]?.marks.size, 3, 'all of it is in use and marked');
    await cluster.run(3_000);
    cluster.kill(1);
    await cluster.run(3_000);
    const written = countWrites(cluster, 1);
    const before = cluster.network.sentBytes;
    cluster.start(1);
    t.ok(await inSync(cluster, 3));
    t.equal(written(), 0);
    // hashes of 48 chunks: a process that was killed may have left old checksums
    const moved = cluster.network.sentBytes - before;
    t.ok(moved > 40_000 && moved < 100_000, `${moved} bytes`);

    // what was written meanwhile, and what was under way when it left, is compared
    const store = cluster.store(1);
    store.stuck = true;
    store.writeInline = () => false;
    store.crash = () => {};
    const underWay = request(volume, 'write', 0, blockBytes, block(2));
    await cluster.run(4_000);
    cluster.kill(1);
    t.equal(await cluster.wait(underWay), null);
    await cluster.run(2_500);
    await write(cluster, volume, regionBytes, block(3));
    cluster.start(1);
    t.ok(await inSync(cluster, 3));
    t.equal(written(), 2, 'two blocks, not their chunks');
    equalReplicas(t, cluster);
  },
);

t.test('a replica that lost its memory is compared where it is marked', async (t) => {
  const cluster = new SimCluster({ seed: 5, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  for (let chunk = 0; chunk < 48; chunk++)
    await write(cluster, volume, chunk * chunkBytes, block(1));
  await cluster.run(500);
  cluster.cutPower(1);
  await cluster.run(3_000);
  cluster.start(1);
  t.ok(await inSync(cluster, 3));
  equalReplicas(t, cluster);
});

t.test('the source dies in the middle, and another one goes on', async (t) => {
  for (let seed = 10; seed < 16; seed++) {
    // the primary has no replica: its sources are all remote
    const cluster = new SimCluster({ seed, sizeBytes, nodes: 4, replicaNodes: 3 });
    const volume = await cluster.wait(cluster.attach(3));
    cluster.kill(2);
    t.ok(await inSync(cluster, 2));
    for (let chunk = 0; chunk < 48; chunk++) {
      await write(cluster, volume, chunk * chunkBytes, block(chunk + 1));
    }
    cluster.start(2);
    const half = (): boolean => (resyncOf(volume, 'r-2')?.bytesCopied ?? 0) > 8 * blockBytes;
    t.ok(await cluster.until(half, 20_000));
    const source = resyncOf(volume, 'r-2')?.sourceReplicaId;
    t.ok(source === 'r-0' || source === 'r-1');
    cluster.kill(source === 'r-0' ? 0 : 1);
    await write(cluster, volume, 0, block(77));
    t.ok(await cluster.until(() => cluster.control.inSync.includes('r-2'), 60_000));
    await cluster.run(100);
    t.equal(cluster.control.inSync.length, 2);
    equalReplicas(t, cluster, cluster.control.inSync);
    const status = volume.status().segments[0]?.members.find((m) => m.replicaId === 'r-2');
    t.equal(status?.state, 'in-sync');
    t.equal(status?.resync, undefined);
  }
});

/**
 * Chunk x is empty; r-1 leaves; x is written; r-2 leaves; x is emptied. When r-1 comes back x is as
 * it left it. Then it is the only one left, and must know that x has changed since r-2 left.
 */
async function changedAndBack(
  t: Test,
  seed: number,
  options: { stampedBefore: boolean; isNew: boolean },
): Promise<void> {
  const at = regionBytes;
  const checkpointPace = { everyMs: 1_000, restSeconds: 1, minMs: 250 };
  const cluster = new SimCluster({ seed, sizeBytes, nodes: 4, replicaNodes: 3, checkpointPace });
  const volume = await cluster.wait(cluster.attach(3));
  await write(cluster, volume, 0, block(1));
  await cluster.run(10_000);
  cluster.kill(1);
  t.ok(await inSync(cluster, 2));
  await write(cluster, volume, at, block(9));
  await cluster.run(10_000);
  t.equal(cluster.states[2]?.marks.size, 0, 'a checkpoint cleared the mark of the write');
  cluster.kill(2);
  t.ok(await inSync(cluster, 1));
  const trimmed = request(volume, 'writeZeroes', at, chunkBytes, null);
  t.equal(await cluster.wait(trimmed), null);
  if (options.stampedBefore) await cluster.run(10_000);
  if (options.isNew) {
    const identity = { replicaId: 'r-1', volumeId: 'v-1', segment: 0, sizeBytes };
    cluster.states[1] = new MemoryReplicaState(identity);
  }
  cluster.start(1);
  t.ok(await inSync(cluster, 2));
  await cluster.run(20_000);
  cluster.kill(0);
  t.ok(await inSync(cluster, 1));
  t.same(cluster.control.inSync, ['r-1']);
  // a primary that saw nothing of all this
  cluster.kill(3);
  cluster.start(3);
  await cluster.wait(cluster.attach(3));
  cluster.start(2);
  t.ok(await cluster.until(() => cluster.control.inSync.includes('r-2'), 60_000));
  await cluster.run(100);
  t.equal(cluster.states[2]?.bytes[at], 0, 'r-2 heard of it');
  equalReplicas(t, cluster, ['r-1', 'r-2']);
}

t.test('what changed and changed back is known to who was away meanwhile', async (t) => {
  await changedAndBack(t, 20, { stampedBefore: true, isNew: false });
  await changedAndBack(t, 21, { stampedBefore: false, isNew: false });
  await changedAndBack(t, 22, { stampedBefore: true, isNew: true });
  await changedAndBack(t, 23, { stampedBefore: false, isNew: true });
});

t.test('a new member knows what changed although its primary dies at once', async (t) => {
  const at = regionBytes;
  const checkpointPace = { everyMs: 1_000, restSeconds: 1, minMs: 250 };
  const cluster = new SimCluster({
    seed: 24,
    sizeBytes,
    nodes: 4,
    replicaNodes: 3,
    checkpointPace,
  });
  const volume = await cluster.wait(cluster.attach(3));
  await write(cluster, volume, at, block(9));
  await cluster.run(10_000);
  cluster.kill(2);
  cluster.kill(1);
  t.ok(await inSync(cluster, 1));
  t.equal(await cluster.wait(request(volume, 'writeZeroes', at, chunkBytes, null)), null);
  await cluster.run(10_000);
  const identity = { replicaId: 'r-1', volumeId: 'v-1', segment: 0, sizeBytes };
  cluster.states[1] = new MemoryReplicaState(identity);
  cluster.start(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 30_000));
  cluster.kill(3);
  cluster.start(3);
  const next = await cluster.wait(cluster.attach(3));
  await write(cluster, next, 0, block(1));
  await cluster.run(10_000);
  t.ok((cluster.states[1]?.generation.epoch ?? 0) > 1, 'it took part in a checkpoint');
  cluster.kill(0);
  t.ok(await inSync(cluster, 1));
  cluster.start(2);
  t.ok(await cluster.until(() => cluster.control.inSync.includes('r-2'), 60_000));
  t.same((await read(cluster, next, at)).bytes, block(0));
  equalReplicas(t, cluster, ['r-1', 'r-2']);
});

t.test('a late copy never lies over a newer write', async (t) => {
  for (let seed = 40; seed < 48; seed++) {
    const isDiskless = seed % 2 === 0;
    const cluster = new SimCluster({ seed, sizeBytes, nodes: 4, replicaNodes: 3 });
    const random = new SeededRandom(seed);
    const volume = await cluster.wait(cluster.attach(isDiskless ? 3 : 0));
    cluster.kill(1);
    t.ok(await inSync(cluster, 2));
    const blocks = 6 * (chunkBytes / blockBytes);
    await write(cluster, volume, 0, Buffer.alloc(blocks * blockBytes, 1));
    cluster.start(1);
    let value = 1;
    const client = async (): Promise<void> => {
      while (!cluster.control.inSync.includes('r-1')) {
        const at = Math.floor(random.next() * blocks) * blockBytes;
        value = (value % 250) + 1;
        t.equal(await request(volume, 'write', at, blockBytes, block(value)), null);
      }
    };
    await cluster.wait(Promise.all([client(), client(), client(), client()]));
    await cluster.run(500);
    equalReplicas(t, cluster);
  }
});

t.test('several come back at once, the one that is most nearly complete first', async (t) => {
  const cluster = new SimCluster({ seed: 50, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  cluster.kill(1);
  t.ok(await inSync(cluster, 2));
  for (let chunk = 0; chunk < 48; chunk++)
    await write(cluster, volume, chunk * chunkBytes, block(1));
  // what it misses is known by the second
  await cluster.run(2_500);
  // its process lives: only what it misses is compared
  cluster.pause(2);
  t.ok(await inSync(cluster, 1));
  await cluster.run(2_500);
  for (let chunk = 0; chunk < 12; chunk++)
    await write(cluster, volume, chunk * chunkBytes, block(2));
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: true };
  cluster.push();
  cluster.start(1);
  cluster.resume(2);
  await cluster.run(10_000);
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: false };
  cluster.push();
  const both = (): boolean =>
    ['r-1', 'r-2'].every((id) => (resyncOf(volume, id)?.bytesCopied ?? 0) > 0);
  t.ok(await cluster.until(both, 5_000), 'at once');
  t.ok(await inSync(cluster, 3));
  t.same(cluster.control.history.at(-2)?.inSync, ['r-0', 'r-2'], 'r-2 had less to compare');
  equalReplicas(t, cluster);
});

t.test('a paused resync says so, and goes on where it was', async (t) => {
  const cluster = new SimCluster({ seed: 30, sizeBytes });
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: true };
  const volume = await cluster.wait(cluster.attach(0));
  cluster.kill(1);
  t.ok(await inSync(cluster, 2));
  for (let chunk = 0; chunk < 48; chunk++)
    await write(cluster, volume, chunk * chunkBytes, block(1));
  cluster.start(1);
  await cluster.run(20_000);
  t.equal(cluster.control.inSync.length, 2);
  t.match(resyncOf(volume, 'r-1'), { state: 'paused', message: /paused by its policy/ });
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: false };
  cluster.push();
  const begun = (): boolean => (resyncOf(volume, 'r-1')?.bytesCopied ?? 0) > 0;
  t.ok(await cluster.until(begun, 5_000));
  t.match(resyncOf(volume, 'r-1'), { state: 'running', message: '', sourceReplicaId: 'r-0' });
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: true };
  cluster.push();
  await cluster.run(500);
  const left = resyncOf(volume, 'r-1');
  t.match(left, { state: 'paused' });
  await cluster.run(10_000);
  t.equal(resyncOf(volume, 'r-1')?.bytesRemaining, left?.bytesRemaining, 'it stands still');
  t.ok((left?.bytesRemaining ?? 0) > 0 && (left?.bytesTotal ?? 0) === 48 * chunkBytes);
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: false };
  cluster.push();
  t.ok(await inSync(cluster, 3));
  equalReplicas(t, cluster);
});

t.test('who leaves again and again waits, unless clients are held for it', async (t) => {
  for (const isHard of [false, true]) {
    const cluster = new SimCluster({ seed: 31, sizeBytes });
    const failureMode = isHard ? 'hard' : 'alwayson';
    cluster.control.policy = { ...cluster.control.policy, failureMode };
    const volume = await cluster.wait(cluster.attach(0));
    for (let flap = 0; flap < 5; flap++) {
      cluster.network.cut('n-0', 'n-1');
      t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 60_000));
      if (flap < 4) t.ok(await inSync(cluster, 3, 60_000));
    }
    await cluster.run(2_000);
    if (isHard) t.ok(await inSync(cluster, 3, 2_000), 'it is needed');
    else {
      t.match(resyncOf(volume, 'r-1'), { state: 'waiting', message: /left 5 times/ });
      t.ok(await inSync(cluster, 3, 60_000));
    }
  }
});

t.test('a member without room waits, and the others go on', async (t) => {
  const cluster = new SimCluster({ seed: 32, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  cluster.kill(1);
  cluster.kill(2);
  t.ok(await inSync(cluster, 1));
  for (let chunk = 0; chunk < 48; chunk++)
    await write(cluster, volume, chunk * chunkBytes, block(1));
  cluster.start(1);
  cluster.start(2);
  cluster.store(1).capacityChunks = 20;
  t.ok(await cluster.until(() => cluster.control.inSync.includes('r-2'), 30_000));
  await cluster.run(2_000);
  t.match(resyncOf(volume, 'r-1'), { state: 'waiting', message: /no room/ });
  t.same(cluster.node(0).failures, [], 'it has not failed');
  cluster.store(1).capacityChunks = 100;
  t.ok(await inSync(cluster, 3, 120_000));
  equalReplicas(t, cluster);
});

t.test('a block that verifies nowhere stays an error, and the rest comes back', async (t) => {
  const cluster = new SimCluster({ seed: 33, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  cluster.kill(1);
  cluster.kill(2);
  t.ok(await inSync(cluster, 1));
  for (let chunk = 0; chunk < 8; chunk++)
    await write(cluster, volume, chunk * chunkBytes, block(7));
  cluster.states[0]?.bytes.fill(0x55, 10, 20);
  cluster.start(1);
  t.ok(await inSync(cluster, 2));
  const [mine, theirs] = [cluster.states[0], cluster.states[1]];
  t.notOk(mine?.isValid(0));
  t.notOk(theirs?.isValid(0), 'bad bytes do not become good ones');
  t.ok(mine?.bytes.equals(theirs?.bytes ?? Buffer.alloc(0)));
  t.equal((await read(cluster, volume, 0)).error?.code, 'CHECKSUM_MISMATCH');
  t.same((await read(cluster, volume, chunkBytes)).bytes, block(7));
  await write(cluster, volume, 0, block(8));
  t.same((await read(cluster, volume, 0)).bytes, block(8), 'until somebody writes it');
  t.ok(theirs?.isValid(0));
});

t.test('two members with different bad blocks give a whole range', async (t) => {
  const cluster = new SimCluster({ seed: 34, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, Buffer.alloc(8 * blockBytes, 5));
  cluster.kill(2);
  t.ok(await inSync(cluster, 2));
  cluster.states[0]?.bytes.fill(0x55, 100, 110);
  cluster.states[1]?.bytes.fill(0x55, 5 * blockBytes, 5 * blockBytes + 9);
  const { error, bytes } = await read(cluster, volume, 0, 8 * blockBytes);
  t.equal(error, null);
  t.same(bytes, Buffer.alloc(8 * blockBytes, 5));
});

t.test('a disk that hangs in a read or a flush leaves, and writes nowhere later', async (t) => {
  const cluster = new SimCluster({ seed: 35, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, block(5));
  const store = cluster.store(0);
  store.readInline = () => false;
  store.stuck = true;
  const target = Buffer.alloc(blockBytes);
  const hung = request(volume, 'read', 0, blockBytes, target);
  await cluster.run(10_000);
  t.equal(cluster.control.inSync.length, 3, 'slow is not gone');
  t.equal(await cluster.wait(hung), null);
  t.same(target, block(5), 'another replica answered');
  t.ok(await inSync(cluster, 2));
  t.same(cluster.control.inSync, ['r-1', 'r-2']);
  target.fill(0x11);
  store.stuck = false;
  store.flush(() => {});
  await cluster.run(1_000);
  t.same(target, block(0x11), 'the late answer goes nowhere');

  const later = new SimCluster({ seed: 36, sizeBytes });
  const second = await later.wait(later.attach(0));
  await write(later, second, 0, block(5));
  later.store(0).stuck = true;
  const flushed = request(second, 'flush', 0, 0, null);
  await later.run(50_000);
  t.equal(later.control.inSync.length, 3, 'what makes durable may take longer');
  t.equal(await later.wait(flushed), null);
  t.same(later.control.inSync, ['r-1', 'r-2']);
});

t.test('a slow member stays while the failure mode needs it, for a minute', async (t) => {
  const cluster = new SimCluster({ seed: 37, sizeBytes });
  cluster.control.policy = { ...cluster.control.policy, failureMode: 'hard' };
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, block(1));
  cluster.store(1).stuck = true;
  // a new chunk, so that the store cannot write it at once
  const slow = request(volume, 'write', chunkBytes, blockBytes, block(2));
  await cluster.run(40_000);
  t.equal(cluster.control.inSync.length, 3);
  cluster.store(1).stuck = false;
  cluster.store(1).flush(() => {});
  t.equal(await cluster.wait(slow), null, 'a slow acknowledgement is better than none');
  cluster.store(1).stuck = true;
  void request(volume, 'write', 2 * chunkBytes, blockBytes, block(3));
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 90_000), 'then it goes');
});

t.test('a primary that was stopped blames nobody for it', async (t) => {
  const cluster = new SimCluster({ seed: 38, sizeBytes, nodes: 1, replicaNodes: 1 });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, block(1));
  const other = new SimCluster({ seed: 39, sizeBytes });
  const second = await other.wait(other.attach(0));
  const pending = request(second, 'write', 0, blockBytes, block(2));
  other.pause(0);
  await other.run(1_500);
  other.resume(0);
  t.equal(await other.wait(pending), null);
  await other.run(3_000);
  t.equal(other.control.inSync.length, 3);
});
