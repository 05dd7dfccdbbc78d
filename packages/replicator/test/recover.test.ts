/** Beginning again after members lost their memory, or are gone for good. */
import { blockBytes, StorError } from '@stor/protocol';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request } from '@stor/replicator/testing';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

async function write(
  cluster: SimCluster,
  volume: PrimaryVolume,
  at: number,
  value: number,
): Promise<void> {
  const error = await cluster.wait(
    request(volume, 'write', at * blockBytes, blockBytes, block(value)),
  );
  if (error) throw error;
}

async function read(cluster: SimCluster, volume: PrimaryVolume, at: number): Promise<number> {
  const target = Buffer.alloc(blockBytes);
  const error = await cluster.wait(
    request(volume, 'read', at * blockBytes, blockBytes, target),
    5_000,
  );
  if (error) throw error;
  return target[0] ?? -1;
}

/** Six blocks flushed, three of them written again and not flushed; then nobody has power. */
async function powerLoss(seed: number): Promise<SimCluster> {
  const cluster = new SimCluster({ seed, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  for (let i = 0; i < 6; i++) await write(cluster, volume, i, 1 + i);
  await cluster.wait(request(volume, 'flush', 0, 0, null));
  for (let i = 0; i < 3; i++) await write(cluster, volume, i, 101 + i);
  for (let node = 0; node < 3; node++) cluster.cutPower(node);
  return cluster;
}

async function refusal(cluster: SimCluster, attaching: Promise<PrimaryVolume>): Promise<string> {
  try {
    await cluster.wait(attaching);
  } catch (error) {
    return StorError.from(error).message;
  }
  return '';
}

t.test('without consent it waits, and says for whom and what can be done', async (t) => {
  const cluster = await powerLoss(300);
  cluster.start(0);
  cluster.start(1);
  const attaching = refusal(cluster, cluster.attach(0));
  await cluster.run(5_000);
  const status = cluster.node(0).lane?.primary('v-1')?.status();
  t.equal(status?.state, 'activating');
  t.match(status?.reason, /r-2 on n-2 \(does not answer\); `storctl volume recover v-1 --accept/);
  t.match(await attaching, /r-2 on n-2/);
  // a node that is there and has no such replica is something else than a node that is away
  cluster.start(2);
  await cluster.wait(cluster.node(2).disk?.deleteReplica('r-2') ?? Promise.resolve());
  t.match(await refusal(cluster, cluster.attach(0)), /has no such replica: its disk is not open/);
});

t.test('with consent it begins with the best that is reached, and says so', async (t) => {
  for (let seed = 301; seed < 311; seed++) {
    const cluster = await powerLoss(seed);
    cluster.start(0);
    cluster.start(1);
    cluster.control.acceptUnflushedLoss = true;
    const volume = await cluster.wait(cluster.attach(0));
    t.match(volume.status().reason, /may be lost, by consent without r-2 on n-2/);
    t.equal(cluster.control.inSync.length === 3, false, 'the set says whose data stands (I4)');
    const seen: number[] = [];
    for (let i = 0; i < 6; i++) {
      const value = await read(cluster, volume, i);
      t.ok(value === 1 + i || (i < 3 && value === 101 + i), `block ${i} of seed ${seed}`);
      seen.push(value);
    }
    cluster.start(2);
    t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 30_000));
    await cluster.run(100);
    t.equal(volume.status().reason, '');
    for (let i = 0; i < 6; i++) {
      t.equal(await read(cluster, volume, i), seen[i], 'reads settled on one state (I5)');
    }
    await cluster.wait(volume.stop());
    const [first, ...others] = cluster.states;
    for (const other of others) t.ok(first?.bytes.equals(other.bytes));
  }
});

t.test('a policy that accepts the loss still gives the others time to come back', async (t) => {
  const cluster = await powerLoss(320);
  const kept = cluster.states[2];
  if (!kept) throw new Error('no replica');
  // this host had power all the time
  kept.keptMemory = true;
  cluster.control.policy.unflushedLoss = 'accept';
  cluster.start(0);
  cluster.start(1);
  const attaching = cluster.attach(0);
  await cluster.run(6_000);
  cluster.start(2);
  const volume = await cluster.wait(attaching);
  t.same(cluster.control.inSync, ['r-2']);
  t.equal(volume.status().reason, '');
});

t.test('the policy may change while a primary waits', async (t) => {
  const cluster = await powerLoss(321);
  cluster.start(0);
  const attaching = cluster.attach(0);
  await cluster.run(15_000);
  cluster.control.policy.unflushedLoss = 'accept';
  cluster.push();
  const volume = await cluster.wait(attaching, 5_000);
  t.same(cluster.control.inSync, ['r-0']);
  t.equal(await read(cluster, volume, 5), 6);
});

t.test('replicas recorded as failed are not waited for', async (t) => {
  const cluster = await powerLoss(322);
  cluster.control.failed.add('r-1');
  cluster.control.failed.add('r-2');
  cluster.start(0);
  const volume = await cluster.wait(cluster.attach(0), 5_000);
  t.same(cluster.control.inSync, ['r-0']);
  t.match(volume.status().reason, /may be lost$/);
  t.equal(await read(cluster, volume, 5), 6);
});
