/** What happens to requests while fewer members are in sync than the failure mode asks for. */
import { blockBytes, chunkBytes, regionBytes, type StorError } from '@stor/protocol';
import t, { type Test } from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request, type SimClusterOptions } from '@stor/replicator/testing';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

/** A request whose answer can be looked at while time goes on. */
class Asked {
  answer: StorError | null | undefined = undefined;
  readonly over: Promise<StorError | null>;

  constructor(...args: Parameters<typeof request>) {
    this.over = request(...args);
    void this.over.then((error) => {
      this.answer = error;
    });
  }
}

async function begin(
  policy: Partial<SimCluster['control']['policy']>,
  options: Partial<SimClusterOptions> = {},
  at = 0,
): Promise<{ cluster: SimCluster; volume: PrimaryVolume }> {
  const cluster = new SimCluster({ seed: 50, sizeBytes, ...options });
  Object.assign(cluster.control.policy, policy);
  const volume = await cluster.wait(cluster.attach(at));
  return { cluster, volume };
}

async function read(cluster: SimCluster, volume: PrimaryVolume, offset: number): Promise<number> {
  const target = Buffer.alloc(blockBytes);
  const error = await cluster.wait(request(volume, 'read', offset, blockBytes, target), 5_000);
  if (error) throw error;
  return target[0] ?? -1;
}

function equalReplicas(t: Test, cluster: SimCluster): void {
  const [first, ...others] = cluster.states;
  for (const other of others) t.ok(first?.bytes.equals(other.bytes), other.identity.replicaId);
}

t.test('suspend: writes wait, reads go on, and the resync that lifts it goes on', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'soft' });
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
  cluster.kill(1);
  cluster.kill(2);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 1, 20_000), 'it shrinks');
  await cluster.run(100);
  const writes = [0, 1, 2].map(
    (i) => new Asked(volume, 'write', i * chunkBytes, blockBytes, block(10 + i)),
  );
  const unaligned = new Asked(volume, 'write', 3 * chunkBytes + 100, 5_000, Buffer.alloc(5_000, 9));
  const zeroed = new Asked(volume, 'writeZeroes', 4 * chunkBytes + 1, 9_000, null);
  const flush = new Asked(volume, 'flush', 0, 0, null);
  await cluster.run(20_000);
  for (const each of [...writes, unaligned, zeroed, flush]) t.equal(each.answer, undefined);
  t.equal(await read(cluster, volume, 0), 1, 'a range that a held write wants can be read');
  const status = volume.status();
  t.equal(status.state, 'holding');
  t.match(status.reason, /1 of 3 replicas is in sync and failure mode soft needs 2/);
  t.ok(status.stateAgeMs > 15_000);
  cluster.start(2);
  for (const each of [...writes, unaligned, zeroed, flush]) {
    t.equal(await cluster.wait(each.over, 20_000), null);
  }
  t.equal(volume.status().state, 'serving');
  t.equal(volume.status().reason, '');
  cluster.start(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 30_000));
  await cluster.run(100);
  for (const i of [0, 1, 2]) t.equal(await read(cluster, volume, i * chunkBytes), 10 + i);
  equalReplicas(t, cluster);
});

t.test('a flush of what was acknowledged goes on while writes are suspended', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'hard' });
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  await cluster.run(100);
  t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null), 5_000), null);
  t.equal(cluster.states[0]?.unflushed.size, 0);
});

t.test('a write that was under way is acknowledged only when enough have it', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'hard' });
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
  cluster.store(1).stuck = true;
  // into a new region, so that no member applies it in passing
  const write = new Asked(volume, 'write', regionBytes, blockBytes, block(2));
  await cluster.run(50);
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  await cluster.run(1_000);
  t.equal(write.answer, undefined, 'two of three have it, and hard needs three');
  t.equal(
    await read(cluster, volume, regionBytes),
    2,
    'all members are equal there, so it may be read',
  );
  cluster.start(1);
  t.equal(await cluster.wait(write.over, 20_000), null);
  t.equal(cluster.control.inSync.length, 3);
  await cluster.run(100);
  equalReplicas(t, cluster);
});

t.test('error: writes are refused at once, reads go on', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'soft', onLoss: 'error' });
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
  const underWay = new Asked(volume, 'write', chunkBytes, blockBytes, block(3));
  cluster.kill(1);
  cluster.kill(2);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 1, 20_000));
  t.equal((await cluster.wait(underWay.over, 1_000))?.code, 'FAILED_PRECONDITION');
  const late = new Asked(volume, 'write', 0, blockBytes, block(2));
  t.equal((await cluster.wait(late.over, 1))?.code, 'FAILED_PRECONDITION');
  t.match(late.answer?.message, /failure mode soft needs 2/);
  t.equal(volume.status().state, 'failing');
  t.equal(await read(cluster, volume, 0), 1);
  cluster.start(1);
  t.ok(await cluster.until(() => volume.status().state === 'serving', 20_000));
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(4))), null);
});

t.test('error while nobody is left: all is refused, and the write goes on', async (t) => {
  // a diskless primary, so that the last member can be lost with writes under way
  const { cluster, volume } = await begin(
    { failureMode: 'alwayson', onLoss: 'error' },
    { nodes: 2, replicaNodes: 1 },
    1,
  );
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
  cluster.store(0).stuck = true;
  const underWay = new Asked(volume, 'write', regionBytes, blockBytes, block(2));
  const flush = new Asked(volume, 'flush', 0, 0, null);
  await cluster.run(20);
  cluster.kill(0);
  t.ok(await cluster.until(() => volume.status().state === 'failing', 5_000));
  t.match(volume.status().reason, /no in-sync replica can be reached .*r-0 on n-0/);
  t.equal((await cluster.wait(underWay.over, 1_000))?.code, 'FAILED_PRECONDITION');
  t.equal((await cluster.wait(flush.over, 1_000))?.code, 'FAILED_PRECONDITION');
  for (const kind of ['read', 'write', 'flush'] as const) {
    const length = kind === 'flush' ? 0 : blockBytes;
    const refused = await cluster.wait(request(volume, kind, 0, length, block(7)), 1);
    t.equal(refused?.code, 'FAILED_PRECONDITION', kind);
  }
  t.same(cluster.control.inSync, ['r-0'], 'the last member is never dropped (I7)');
  cluster.start(0);
  t.ok(await cluster.until(() => volume.status().state === 'serving', 10_000));
  t.equal(await read(cluster, volume, regionBytes), 2, 'what it may have got was finished first');
});

t.test('a read never sees a write that was given up and is on some members only', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'alwayson', ioTimeoutMs: 1_000 });
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(1))), null);
  // nobody may decide that the slow member is gone, so the write is on r-0 and r-2 only
  cluster.node(0).controlReachable = false;
  cluster.store(1).stuck = true;
  for (const retained of [true, false]) {
    const at = retained ? regionBytes : 2 * regionBytes;
    const write = new Asked(volume, 'write', at, blockBytes, block(2), { retained });
    await cluster.run(20);
    cluster.network.block('n-0', 'n-1');
    t.equal((await cluster.wait(write.over, 10_000))?.code, 'TIMEOUT');
    const early = await cluster.wait(request(volume, 'read', at, blockBytes, block(0)), 10_000);
    t.equal(early?.code, 'TIMEOUT', 'its range stays locked, and the read is bounded too');
  }
  const flush = new Asked(volume, 'flush', 0, 0, null);
  t.equal((await cluster.wait(flush.over, 10_000))?.code, 'TIMEOUT');
  cluster.node(0).controlReachable = true;
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 10_000));
  t.equal(await read(cluster, volume, regionBytes), 2);
  t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
});

t.test('io-timeout bounds suspended requests, and only held ones', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'hard', ioTimeoutMs: 3_000 });
  cluster.store(1).stuck = true;
  const slow = new Asked(volume, 'write', 0, blockBytes, block(1));
  await cluster.run(8_000);
  t.equal(slow.answer, undefined, 'a slow disk is no hold');
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 10_000));
  await cluster.run(100);
  const held = new Asked(volume, 'write', chunkBytes, blockBytes, block(2));
  const flush = new Asked(volume, 'flush', 0, 0, null);
  await cluster.run(2_000);
  t.equal(held.answer, undefined);
  t.equal((await cluster.wait(slow.over, 4_000))?.code, 'TIMEOUT');
  t.equal((await cluster.wait(held.over, 4_000))?.code, 'TIMEOUT');
  t.equal((await cluster.wait(flush.over, 4_000))?.code, 'TIMEOUT');
  t.equal(await read(cluster, volume, chunkBytes), 0, 'it was never started');
  t.equal(await read(cluster, volume, 0), 1, 'it was applied by all that are left');
  cluster.start(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
  await cluster.run(100);
  equalReplicas(t, cluster);
});

t.test('the policy changes while requests are held', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'hard' });
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  const first = new Asked(volume, 'write', 0, blockBytes, block(1));
  await cluster.run(5_000);
  t.equal(first.answer, undefined);
  cluster.control.policy.failureMode = 'threshold=2';
  cluster.push();
  t.equal(await cluster.wait(first.over, 1_000), null);
  cluster.control.policy.failureMode = 'threshold=3';
  cluster.push();
  await cluster.run(10);
  const second = new Asked(volume, 'write', 0, blockBytes, block(2));
  await cluster.run(1_000);
  t.equal(second.answer, undefined);
  cluster.control.policy.onLoss = 'error';
  cluster.push();
  t.equal((await cluster.wait(second.over, 1_000))?.code, 'FAILED_PRECONDITION');
  t.equal(await read(cluster, volume, 0), 1);
  // fewer replicas wanted: what is there is enough
  cluster.control.replicas = 2;
  cluster.push();
  await cluster.run(10);
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(3)), 1_000), null);
  // what comes late, or from another epoch, changes nothing
  const old = cluster.control.settings('v-1', []);
  cluster.push();
  await cluster.run(10);
  volume.update(old);
  volume.update({ ...cluster.control.settings('v-1', [], volume.epoch + 1) });
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(4)), 1_000), null);
});

t.test('a volume stops at once while its writes are held', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'hard' });
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  await cluster.run(100);
  const held = new Asked(volume, 'write', 0, blockBytes, block(1));
  await cluster.run(100);
  const stopped = volume.stop();
  t.equal((await cluster.wait(held.over, 10))?.code, 'ABORTED');
  await cluster.wait(stopped, 1_000);
});

t.test('settling goes on while writes are held', async (t) => {
  const { cluster, volume } = await begin({ failureMode: 'hard' });
  for (let i = 0; i < 8; i++) {
    t.equal(
      await cluster.wait(request(volume, 'write', i * chunkBytes, blockBytes, block(i))),
      null,
    );
  }
  cluster.kill(0);
  const next = await cluster.wait(cluster.attach(1));
  const held = new Asked(next, 'write', 0, blockBytes, block(99));
  t.ok(
    await cluster.until(() => next.status().segments[0]?.settleBytesRemaining === 0, 10_000),
    'it needs no client to ask',
  );
  t.equal(held.answer, undefined);
  t.equal(await read(cluster, next, 7 * chunkBytes), 7);
  cluster.start(0);
  t.equal(await cluster.wait(held.over, 20_000), null);
});
