import { defaultPolicy, StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import t from 'tap';
import { Rig } from './control-plane-rig.ts';

const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} };
const waitMs = 8_000;

async function errorOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

/** A cluster whose primaries bring replicas in sync at once, as far as nodes are alive. */
async function openRig(count: number): Promise<Rig> {
  const rig = await Rig.open(count);
  for (const node of rig.nodes) {
    node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  }
  return rig;
}

function nodesOf(volume: Volume): string[] {
  return volume.status.replicas.map((replica) => `${replica.node} ${replica.state}`).sort();
}

function replicaCounts(rig: Rig): number[] {
  return rig.nodes.map((node) => node.agent.replicaList.size);
}

t.test('the number of replicas goes up and down while a volume is in use', async (t) => {
  const rig = await openRig(4);
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume(request));
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  const until = (look: (volume: Volume) => boolean) =>
    rig.until(async () => look(await client.getVolume({ name: 'db' })));

  const lowered = await rig.during(client.updateVolume({ name: 'db', replicas: 2 }));
  t.equal(lowered.spec.replicas, 2);
  await until((volume) => volume.status.replicas.length === 2);
  await rig.until(() => replicaCounts(rig).reduce((a, b) => a + b) === 2);
  const two = await client.getVolume({ name: 'db' });
  t.match(two.status, { health: 'healthy', message: '' });
  t.ok(nodesOf(two).includes('n1 in-sync'), 'the one beside the primary stays');

  const raised = await rig.during(client.updateVolume({ name: 'db', replicas: 4 }));
  t.equal(raised.status.replicas.filter((r) => r.purpose === 'update').length, 2);
  await until((volume) => volume.status.health === 'healthy');
  const four = await client.getVolume({ name: 'db' });
  t.same(nodesOf(four), ['n1 in-sync', 'n2 in-sync', 'n3 in-sync', 'n4 in-sync']);

  t.match(
    await errorOf(client.updateVolume({ name: 'db', replicas: 5 })),
    /^FAILED_PRECONDITION: volume db cannot have 5 replicas: no node can take the one that it lacks: n1 has one already; n2 .*; n4 has one already$/,
  );
  t.match(
    await errorOf(client.updateVolume({ name: 'db', replicas: 6 })),
    /^INVALID_ARGUMENT: 6 r/,
  );
  t.match(await errorOf(client.updateVolume({ name: 'no', replicas: 1 })), /^NOT_FOUND/);

  await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }).catch(() => ({})));
  await rig.during(client.detachVolume({ name: 'db' }));
  await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
  await rig.until(async () => {
    const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/');
    return items.every((item) => !/deleted|replica-status|volume/.test(item.key));
  });
  t.same(replicaCounts(rig), [0, 0, 0, 0]);
});

t.test('a policy changes live, and its primary is told', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const created = await rig.during(
    client.createVolume({ ...request, policy: { failureMode: 'hard', shared: true } }),
  );
  t.match(created.spec.policy, { failureMode: 'hard', onLoss: 'suspend', shared: true });
  t.match(await rig.node(0).control.volumeInfo('db'), { shared: true });
  await rig.during(client.attachVolume({ name: 'db', node: 'n2' }));
  const id = created.metadata.id;
  const told = () => rig.node(1).agent.attached.get(id)?.grant.policy;
  t.match(told(), { failureMode: 'hard' });
  const changed = await rig.during(
    client.updateVolume({ name: 'db', policy: { failureMode: 'threshold=2', onLoss: 'error' } }),
  );
  t.same(changed.spec.policy, {
    ...defaultPolicy(3),
    failureMode: 'threshold=2',
    onLoss: 'error',
    shared: true,
  });
  await rig.until(() => told()?.failureMode === 'threshold=2' && told()?.onLoss === 'error');
  await rig.during(client.updateVolume({ name: 'db', policy: { shared: false, ioTimeoutMs: 0 } }));
  await rig.until(() => told()?.shared === false);
  t.match(
    await errorOf(client.updateVolume({ name: 'db', policy: { failureMode: 'none' as 'soft' } })),
    /^INVALID_ARGUMENT: failure mode "none" is none/,
  );
  t.match(
    await errorOf(client.createVolume({ ...request, name: 'x', policy: { ioTimeoutMs: -1 } })),
    /^INVALID_ARGUMENT: io-timeout/,
  );
  const one = await rig.during(client.createVolume({ ...request, name: 'one', replicas: 1 }));
  t.equal(one.spec.policy.failureMode, 'alwayson');
  const two = await rig.during(client.updateVolume({ name: 'one', replicas: 2 }));
  t.equal(two.spec.policy.failureMode, 'soft', 'it has somebody to wait for now');
});

t.test('a replica moves to another node', async (t) => {
  const rig = await openRig(4);
  t.teardown(() => rig.close());
  const client = rig.client();
  const volume = await rig.during(client.createVolume({ ...request, replicas: 2 }));
  const [from, stays] = volume.status.replicas.map((replica) => replica.node);
  const free = ['n1', 'n2', 'n3', 'n4'].filter((name) => name !== from && name !== stays);
  const [to = '', other = ''] = free;
  const move = (replica: string, node: string, disk = '') =>
    rig.during(client.moveReplica({ name: 'db', replica, node, disk }));
  t.match(await errorOf(move(other, to)), /^NOT_FOUND: volume db has no replica/);
  t.match(
    await errorOf(move(from ?? '', stays ?? '')),
    /^FAILED_PRECONDITION: node .* has a replica/,
  );
  t.match(await errorOf(move(from ?? '', to, '/nope')), /^NOT_FOUND: node .* has no disk "\/nope"/);
  let openGate = (): void => {};
  const target = rig.nodes.find((node) => node.name === to);
  if (!target) throw new Error('no target');
  target.agent.createGate = new Promise((resolve) => {
    openGate = resolve;
  });
  // nobody has it attached: a repair does it
  const moving = await move(from ?? '', to);
  t.equal(moving.status.replicas.filter((replica) => replica.leaving).length, 1);
  t.match(
    moving.status.replicas.find((replica) => replica.node === to),
    { purpose: 'move', state: 'creating' },
  );
  t.equal((await move(from ?? '', to)).status.replicas.length, 3, 'again: nothing more');
  openGate();
  await rig.until(async () => {
    const now = await client.getVolume({ name: 'db' });
    return now.status.health === 'healthy' && now.status.replicas.length === 2;
  });
  const moved = await client.getVolume({ name: 'db' });
  t.same(nodesOf(moved), [`${stays} in-sync`, `${to} in-sync`].sort());
  await rig.until(() => replicaCounts(rig).reduce((a, b) => a + b) === 2);
});

t.test(
  'a lost replica is replaced after the wait, and one that returns in time is not',
  async (t) => {
    const rig = await openRig(4);
    t.teardown(() => rig.close());
    const client = rig.client();
    const policy = { replacementWaitMs: 20_000 };
    const volume = await rig.during(client.createVolume({ ...request, policy }));
    const used = volume.status.replicas.map((replica) => replica.node);
    const spare = ['n1', 'n2', 'n3', 'n4'].find((name) => !used.includes(name)) ?? '';
    // one that does not lead the store
    const victim = rig.nodes.find((node) => used.includes(node.name) && node.name !== 'n1');
    if (!victim) throw new Error('no victim');
    await rig.kill(victim);
    await rig.until(async () => (await client.getClusterStatus({})).nodes.up === 3);
    const downMs = rig.clock.monotonicMs();
    rig.cluster.setLeader(rig.node(rig.nodes.findIndex((n) => n !== victim)).id);
    await rig.until(async () => {
      const now = await client.getVolume({ name: 'db' });
      return now.status.replicas.some((replica) => replica.purpose === 'replacement');
    });
    t.ok(rig.clock.monotonicMs() - downMs >= 18_000, 'not before its time');
    await rig.until(async () => {
      const now = await client.getVolume({ name: 'db' });
      return now.status.health === 'healthy' && now.status.replicas.length === 3;
    });
    const healed = await client.getVolume({ name: 'db' });
    t.ok(healed.status.replicas.some((replica) => replica.node === spare));
    // its node comes back and deletes what is not wanted any more
    const again = await rig.start(rig.nodes.indexOf(victim), victim.agent);
    rig.nodes[rig.nodes.indexOf(victim)] = again;
    await rig.until(() => again.agent.replicaList.size === 0);
    await rig.until(async () => {
      const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/replica-status/');
      return items.length === 3;
    });
    t.same(again.control.orphanReplicas, 0);
  },
);

t.test('who is primary: move, fence, recover', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const { id } = (await rig.during(client.createVolume(request))).metadata;
  const move = (node: string) => rig.during(client.movePrimary({ name: 'db', node }));
  t.match(
    await errorOf(move('n2')),
    /^FAILED_PRECONDITION: volume db is attached nowhere at this moment, .*"storctl volume attach db --node n2"/,
  );
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  const moved = await move('n2');
  t.match(moved.status, { primary: { node: 'n2', mode: 'manual' }, epoch: 2 });
  t.match(rig.node(1).agent.attached.get(id)?.grant, { previousReleased: true });
  t.equal((await move('n2')).status.epoch, 2, 'it is there already');
  t.match(await rig.node(0).control.primaryAddress(id), { nodeId: rig.node(1).id });
  // the order has moved with it: n1 is not asked again
  for (let i = 0; i < 1_000; i++) await rig.turn();
  t.match((await client.getVolume({ name: 'db' })).status, { primary: { node: 'n2' }, epoch: 2 });

  rig.node(2).agent.attachError = new StorError('UNAVAILABLE', 'no disk answers');
  t.match(
    await errorOf(move('n3')),
    /^UNAVAILABLE: volume db was not moved from node n2 to n3: no disk answers; (nobody has it now|node n2 has it now)/,
  );
  rig.node(2).agent.attachError = null;
  await rig.until(async () => {
    const { primary } = (await client.getVolume({ name: 'db' })).status;
    return primary?.node === 'n2' && primary.mode === 'manual';
  });

  const before = (await client.getVolume({ name: 'db' })).status.epoch;
  const held = rig.node(1).agent.attached.get(id)?.grant.epoch;
  const fenced = await rig.during(client.fenceVolume({ name: 'db' }));
  t.match(fenced.status, { primary: null, epoch: before + 1 });
  t.equal(rig.node(1).agent.attached.get(id)?.grant.epoch, held, 'its holder was not asked');
  for (let i = 0; i < 1_000; i++) await rig.turn();
  t.match((await client.getVolume({ name: 'db' })).status, { primary: null }, 'and stays free');
  const again = await rig.during(client.fenceVolume({ name: 'db' }));
  t.equal(again.status.epoch, before + 2, 'works when nobody is attached too');

  // the only one that could fence it is its own holder
  const one = await rig.during(client.createVolume({ ...request, name: 'one', replicas: 1 }));
  const home = one.status.replicas[0]?.node ?? '';
  await rig.during(client.attachVolume({ name: 'one', node: home }));
  const freed = await rig.during(client.fenceVolume({ name: 'one' }));
  t.match(freed.status, { primary: null, epoch: 2 }, 'by hand or not, it is free');

  const recovered = await rig.during(
    client.recoverVolume({ name: 'db', acceptUnflushedLoss: true }),
  );
  t.match(recovered.status, { primary: { mode: 'repair' } });
  const grants = rig.nodes.flatMap((node) => {
    const grant = node.agent.attached.get(id)?.grant;
    return grant?.epoch === recovered.status.epoch ? [grant] : [];
  });
  t.match(grants, [{ acceptUnflushedLoss: true, mode: 'repair' }]);
  await rig.during(client.detachVolume({ name: 'db' }));
  const next = await rig.node(0).control.acquire('db', 'auto', { waitMs });
  t.equal(next.acceptUnflushedLoss, false, 'the consent is not used again');
});
