import { StorError } from '@stor/protocol';
import t from 'tap';
import { Rig } from './control-plane-rig.ts';

const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} };

async function errorOf(promise: Promise<unknown>): Promise<StorError> {
  try {
    await promise;
  } catch (error) {
    return StorError.from(error);
  }
  throw new Error('no error');
}

t.test('an attached volume outlives the loss of the quorum', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const { id } = (await rig.during(client.createVolume(request))).metadata;
  await rig.during(client.attachVolume({ name: 'db', node: 'n2' }));
  const { agent, control } = rig.node(1);
  const grant = agent.attached.get(id)?.grant;
  const detached: string[] = [];
  for (const node of rig.nodes) {
    const detach = node.agent.detach.bind(node.agent);
    node.agent.detach = async (...args) => {
      detached.push(node.name);
      return detach(...args);
    };
  }

  rig.cluster.setLeader(null);
  // long after every node lease of before would have ended
  for (let i = 0; i < 6_000; i++) await rig.turn();
  t.same(detached, [], 'nobody gave it up');
  t.equal(agent.attached.get(id)?.grant, grant);
  t.notOk(control.readiness().ready);

  await t.test('what needs the store says so, and soon', async (t) => {
    const calls: (() => Promise<unknown>)[] = [
      () => client.getVolume({ name: 'db' }),
      () => client.updateVolume({ name: 'db', replicas: 2 }),
      () => client.moveReplica({ name: 'db', replica: 'n1', node: 'n3', disk: '' }),
      () => client.movePrimary({ name: 'db', node: 'n1' }),
      () => client.fenceVolume({ name: 'db' }),
      () => client.recoverVolume({ name: 'db', acceptUnflushedLoss: false }),
      () => rig.node(0).control.acquire('db', 'auto', { waitMs: 8_000 }),
      () =>
        control.proposeSet({ volumeId: id, segment: 0, epoch: 1, setRevision: 1, inSync: ['x'] }),
    ];
    for (const call of calls) t.match(await errorOf(call()), { code: 'UNAVAILABLE' });
    for (const show of [
      () => client.listVolumes({}),
      () => client.getVolume({ name: 'db' }),
      () => client.listNodes({}),
      () => client.getNode({ name: 'n1' }),
      () => client.listDisks({}),
      () => client.listRebuilds({ name: '' }),
      () => client.createVolume({ ...request, name: 'new' }),
      () => client.deleteVolume({ name: 'db', keepMs: 0 }),
      () => client.attachVolume({ name: 'db', node: 'n1' }),
      () => client.detachVolume({ name: 'db' }),
    ]) {
      t.match(await errorOf(show()), { message: /no quorum.*"storctl volume explain NAME"/ });
    }
  });

  await t.test('what this node knew last is still told', async (t) => {
    const told = await rig.during(client.explainVolume({ name: 'db' }));
    t.match(told, {
      health: 'healthy',
      causes: [{ text: /^the control plane has no quorum, so this is what node n\d knew last/ }],
      holder: /^node n2 since .*, by hand/,
    });
    t.match(await rig.node(0).control.volumeInfo('db'), { volumeId: id, sizeBytes: 2 ** 30 });
    t.match(await rig.node(0).control.primaryAddress(id), { nodeId: rig.node(1).id });
    t.match(await errorOf(client.explainVolume({ name: 'no' })), { code: 'NOT_FOUND' });
    t.match(await client.getClusterStatus({}), { quorum: false });
  });

  rig.cluster.setLeader(rig.node(0).id);
  await rig.until(() => rig.nodes.every((node) => node.control.readiness().ready));
  for (let i = 0; i < 2_000; i++) await rig.turn();
  t.match((await client.getVolume({ name: 'db' })).status, {
    health: 'healthy',
    primary: { node: 'n2', mode: 'manual' },
    epoch: grant?.epoch,
  });
  t.same(detached, [], 'and it was never interrupted');
  await rig.during(client.updateVolume({ name: 'db', policy: { failureMode: 'hard' } }));
  await rig.until(() => agent.attached.get(id)?.grant.policy.failureMode === 'hard');
});

t.test('a repair that waits for the quorum does not burn time', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume(request));
  let calls = 0;
  for (const node of rig.nodes) {
    const store = rig.cluster.store(node.id);
    for (const method of ['get', 'list', 'transact', 'grantLease', 'renewLease'] as const) {
      const real = store[method].bind(store) as (...args: unknown[]) => unknown;
      Object.assign(store, {
        [method]: (...args: unknown[]) => {
          calls += 1;
          return real(...args);
        },
      });
    }
  }
  rig.cluster.setLeader(null);
  const fromMs = rig.clock.monotonicMs();
  for (let i = 0; i < 3_000; i++) await rig.turn();
  const seconds = (rig.clock.monotonicMs() - fromMs) / 1_000;
  t.ok(calls / seconds < 30, `${calls} calls of three nodes in ${seconds} s`);
});
