import { StorError } from '@stor/protocol';
import t from 'tap';
import { Rig } from './control-plane-rig.ts';

const gib = 2 ** 30;
const create = { sizeBytes: 8 * gib, replicas: 2, labels: {} };

async function said(run: Promise<unknown>): Promise<string> {
  try {
    await run;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

/** Every replica takes 4 GiB, and disks say so. */
function withSizes(rig: Rig): void {
  for (const { agent } of rig.nodes) {
    agent.reaches = (nodeId) => rig.isAlive(nodeId);
    const plain = agent.replicas.bind(agent);
    agent.replicas = async () =>
      (await plain()).map((replica) => ({ ...replica, allocatedBytes: 4 * gib }));
    const disks = agent.disks.bind(agent);
    agent.disks = async () =>
      (await disks()).map((disk) => {
        const usedBytes = agent.replicaList.size * 4 * gib;
        const capacityBytes = 40 * gib;
        return { ...disk, capacityBytes, usedBytes, freeBytes: capacityBytes - usedBytes };
      });
  }
}

t.test('a rebalance fills an empty node, over a change of the leader', async (t) => {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  withSizes(rig);
  const client = rig.client();
  await client.orderNode({ name: 'n3', verb: 'cordon' });
  for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) await client.createVolume({ ...create, name });
  await client.orderNode({ name: 'n3', verb: 'uncordon' });
  await rig.until(async () => {
    const { disks } = await client.listDisks({});
    const full = disks.filter(({ status }) => status.usedBytes === 24 * gib);
    return full.length === 2 && disks.every(({ status }) => status.capacityBytes === 40 * gib);
  });

  t.match(await client.getRebalance({}), { state: 'idle', planned: [], startedAtMs: null });
  t.match(
    await said(client.orderRebalance({ order: 'pause' })),
    /^FAILED_PRECONDITION: there is no/,
  );
  t.match(await said(client.orderRebalance({ order: 'x' as 'stop' })), /^INVALID_ARGUMENT: order/);
  t.match(
    await said(client.startRebalance({ maxMoves: 9 })),
    /^INVALID_ARGUMENT: 9 moves at one time are not possible: give 1 to 4/,
  );
  const plan = await client.startRebalance({ dryRun: true });
  t.match(plan, {
    plannedMoves: 4,
    plannedBytes: 16 * gib,
    planIsWhole: true,
    pools: [{ disks: 3, lowestPercent: 0, highestPercent: 60, plannedHighestPercent: 40 }],
  });
  t.equal((await client.getRebalance({})).state, 'idle', 'nothing was changed');

  const begun = await client.startRebalance({ maxMoves: 1 });
  t.match(begun, { state: 'running', settings: { maxMoves: 1, bandPercent: 5 } });
  await rig.until(async () => (await client.getRebalance({})).moved > 0);
  t.match(await client.orderRebalance({ order: 'pause' }), { state: 'paused' });
  await rig.until(async () => (await client.getRebalance({})).moving.length === 0);
  const { moved } = await client.getRebalance({});
  for (let i = 0; i < 300; i++) await rig.turn();
  t.equal((await client.getRebalance({})).moved, moved, 'nothing moves while it is paused');
  const other = rig.nodes.find(({ id }) => id !== rig.cluster.store(id).status().leaderId);
  rig.cluster.setLeader(other?.id ?? '');
  const again = await client.startRebalance({ maxMoves: 2 });
  t.match(again, {
    state: 'running',
    moved,
    settings: { maxMoves: 2 },
    startedAtMs: begun.startedAtMs,
  });
  await rig.until(async () => (await client.getRebalance({})).state === 'finished');
  const end = await client.getRebalance({});
  t.match(end, {
    ...{ moved: 4, movedBytes: 16 * gib, failed: 0, moving: [], etaMs: null },
    message: 'disks of the same tag differ by at most 5 percent points',
  });
  for (const { agent } of rig.nodes) t.equal(agent.replicaList.size, 4);
  const { volumes } = await client.listVolumes({});
  for (const { status } of volumes) {
    t.equal(status.health, 'healthy');
    t.equal(new Set(status.replicas.map(({ node }) => node)).size, 2);
  }
  await rig.until(async () => {
    const { events } = await client.listEvents({ volume: '', afterRevision: 0, limit: 0 });
    const reasons = new Set(events.map(({ reason }) => reason));
    const wanted = ['rebalance-started', 'rebalance-paused', 'rebalance-finished'];
    return wanted.every((reason) => reasons.has(reason));
  });
  t.equal(await said(client.orderRebalance({ order: 'stop' })), 'no error', 'it is over already');
  const observed = await rig.node(0).control.observe();
  t.match(observed.rebalance, { isRunning: false, moved: 4, movedBytes: 16 * gib });
  t.same(observed.rebalance.spreads, [{ tag: '', spread: 0 }]);
});
