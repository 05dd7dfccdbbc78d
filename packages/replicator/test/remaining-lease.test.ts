/** How long a new primary waits for leases of older ones (I6, docs/adr/0008-remaining-lease.md). */
import { blockBytes, replicaLeaseDriftMs, replicaLeaseMs } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { FaultScenario, SimCluster, request } from '@stor/replicator/testing';
import { LeasePromises, leaseSpanMs } from '../src/core/replication/lease-promises.ts';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

async function write(cluster: SimCluster, volume: PrimaryVolume, value: number): Promise<void> {
  const error = await cluster.wait(request(volume, 'write', 0, blockBytes, block(value)));
  if (error) throw error;
}

/** Simulated time that an attach takes (ms). */
async function attachMs(
  cluster: SimCluster,
  index: number,
): Promise<{ volume: PrimaryVolume; tookMs: number }> {
  const beganMs = cluster.scheduler.nowMs;
  const volume = await cluster.wait(cluster.attach(index));
  return { volume, tookMs: cluster.scheduler.nowMs - beganMs };
}

t.test('what is left is what any older primary may count on', async () => {
  const promise = fc.record({ epoch: fc.integer({ min: 1, max: 6 }), stepMs: fc.nat(2_000) });
  fc.assert(
    fc.property(
      fc.array(promise),
      fc.integer({ min: 1, max: 7 }),
      fc.nat(10_000),
      fc.nat(5_000),
      (given, epoch, aloneSinceMs, laterMs) => {
        const promises = new LeasePromises();
        const made: { epoch: number; atMs: number }[] = [];
        let nowMs = 0;
        for (const { epoch: at, stepMs } of given) {
          nowMs += stepMs;
          promises.promised(at, nowMs);
          made.push({ epoch: at, atMs: nowMs });
        }
        nowMs += laterMs;
        const older = made.filter((each) => each.epoch < epoch).map(({ atMs }) => atMs);
        const last = Math.max(aloneSinceMs, ...older);
        const expected = Math.max(0, last + replicaLeaseMs + replicaLeaseDriftMs - nowMs);
        const said = promises.remainingMs(epoch, aloneSinceMs, nowMs);
        // a replica has seen the epoch of a promise: one below the highest may be counted for longer
        const highest = Math.max(0, ...made.map((each) => each.epoch));
        return epoch > highest ? said === expected : said >= expected;
      },
    ),
  );
});

t.test('nobody waits for a primary that has been silent for longer than a lease', async (t) => {
  const cluster = new SimCluster({ seed: 400, sizeBytes });
  await write(cluster, await cluster.wait(cluster.attach(0)), 1);
  cluster.kill(0);
  await cluster.run(leaseSpanMs);
  const { volume, tookMs } = await attachMs(cluster, 1);
  // the grace for the replica that does not answer, and the set without it
  t.ok(tookMs < 1_500, `${tookMs} ms`);
  await write(cluster, volume, 2);
});

t.test('the rest of a lease is waited for', async (t) => {
  for (const silentMs of [0, 1_000, 2_000]) {
    const cluster = new SimCluster({ seed: 401, sizeBytes });
    const old = await cluster.wait(cluster.attach(0));
    await write(cluster, old, 1);
    cluster.pause(0);
    await cluster.run(silentMs);
    const { volume, tookMs } = await attachMs(cluster, 1);
    // the last pong was up to a ping's time old
    t.ok(tookMs + silentMs >= leaseSpanMs - 600, `${silentMs} + ${tookMs} ms`);
    t.ok(tookMs + silentMs <= leaseSpanMs + 1_500, `${silentMs} + ${tookMs} ms`);
    await write(cluster, volume, 2);
    cluster.resume(0);
    t.notOk(old.readInline(0, blockBytes, Buffer.alloc(blockBytes), 0));
  }
});

/**
 * The primary is stopped, the process that holds the other replica is killed and started anew, and
 * the volume is taken over there. Says whether the old primary, going on, reads what was replaced.
 */
async function readsStale(): Promise<boolean> {
  const cluster = new SimCluster({ seed: 402, sizeBytes, nodes: 2 });
  const old = await cluster.wait(cluster.attach(0));
  await write(cluster, old, 1);
  cluster.pause(0);
  cluster.network.block('n-1', 'n-0');
  cluster.kill(1);
  cluster.start(1);
  await write(cluster, await cluster.wait(cluster.attach(1)), 2);
  cluster.resume(0);
  // what is read inline is up to the store's cache: it is asked more than once
  const target = Buffer.alloc(blockBytes);
  return range(20).some(() => old.readInline(0, blockBytes, target, 0) && target[0] === 1);
}

t.test('a process that has just started speaks for the one before it', async (t) => {
  t.equal(await readsStale(), false);
});

t.test('a member that is local to the old primary needs no wait', async (t) => {
  const cluster = new SimCluster({ seed: 403, sizeBytes, nodes: 2, replicaNodes: 1 });
  const old = await cluster.wait(cluster.attach(0));
  await write(cluster, old, 1);
  await cluster.run(leaseSpanMs);
  const { volume, tookMs } = await attachMs(cluster, 1);
  t.ok(tookMs < 100, `${tookMs} ms`);
  await write(cluster, volume, 2);
  t.equal(old.status().state, 'stopped', 'the fence ended it in the same turn');
});

t.test('a primary whose own replica is closed serves on it for one lease at most', async (t) => {
  const cluster = new SimCluster({ seed: 404, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 1);
  // its disk is not open any more, and nobody can agree that the replica leaves
  cluster.node(0).controlReachable = false;
  await cluster.wait(cluster.node(0).disk?.deleteReplica('r-0') ?? Promise.resolve());
  await cluster.run(1_000);
  const target = Buffer.alloc(blockBytes);
  t.equal(await cluster.wait(request(volume, 'read', 0, blockBytes, target)), null);
  await cluster.run(replicaLeaseMs);
  const held = request(volume, 'read', 0, blockBytes, target);
  let answered = false;
  void held.then(() => {
    answered = true;
  });
  await cluster.run(10_000);
  t.notOk(answered, 'another process may have the disk now');
  cluster.node(0).controlReachable = true;
  t.equal(await cluster.wait(held), null);
});

t.test('negative control: a fence that says nothing is left is caught', async (t) => {
  const { remainingMs } = LeasePromises.prototype;
  LeasePromises.prototype.remainingMs = () => 0;
  t.teardown(() => {
    LeasePromises.prototype.remainingMs = remainingMs;
  });
  for (let seed = 1; seed <= 20; seed++) {
    const { problems } = await new FaultScenario({ seed, splitsOnly: true }).run();
    if (problems.length === 0) continue;
    t.pass(`seed ${seed}: ${problems[0]}`);
    return;
  }
  t.fail('20 seeds noticed nothing');
});

t.test('negative control: a process that forgets what the one before it said', async (t) => {
  const { remainingMs } = LeasePromises.prototype;
  LeasePromises.prototype.remainingMs = function (epoch, _aloneSinceMs, nowMs) {
    return remainingMs.call(this, epoch, -Infinity, nowMs);
  };
  t.teardown(() => {
    LeasePromises.prototype.remainingMs = remainingMs;
  });
  t.equal(await readsStale(), true);
});
