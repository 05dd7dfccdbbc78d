import { StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import t from 'tap';
import type { Test } from 'tap';
import { Rig } from './control-plane-rig.ts';

async function openRig(t: Test, nodes: number): Promise<Rig> {
  const rig = await Rig.open(nodes);
  t.teardown(() => rig.close());
  for (const node of rig.nodes) node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  return rig;
}

async function said(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'done';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

const create = { name: 'db', sizeBytes: 2 ** 30, replicas: 2, labels: {} };
const nodesOf = (volume: Volume): string[] => volume.status.replicas.map((r) => r.node).sort();

t.test('a node is evacuated, also when the leader changes meanwhile', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.orderNode({ name: 'n3', verb: 'cordon' });
  await client.createVolume(create);
  t.match(
    await said(client.orderNode({ name: 'n1', verb: 'evacuate' })),
    /^UNSAFE_PLAN: node n1 is not evacuated, because that is not safe: replica r-\w+ of volume db can go nowhere: .*n3 is cordoned.*--plan" shows all, --yes/,
  );
  t.same((await client.getNode({ name: 'n1' })).spec.evacuate, null, 'nothing is recorded');
  await client.orderNode({ name: 'n3', verb: 'uncordon' });
  const plan = await client.orderNode({ name: 'n1', verb: 'evacuate', plan: true });
  t.match(plan, {
    safe: true,
    moves: [{ volume: 'db', toNode: 'n3' }],
    remaining: { replicas: 1 },
  });
  await client.orderNode({ name: 'n1', verb: 'evacuate' });
  rig.cluster.setLeader(rig.node(2).id);
  const left = async (): Promise<number> =>
    (await client.orderNode({ name: 'n1', verb: 'evacuate', plan: true })).remaining.replicas;
  await rig.until(async () => (await left()) === 0);
  const moved = await client.getVolume({ name: 'db' });
  t.same(nodesOf(moved), ['n2', 'n3']);
  t.equal(moved.status.health, 'healthy');
  t.match(
    await said(client.createVolume({ ...create, name: 'x', replicas: 3 })),
    /n1 is being evac/,
  );
  await client.orderNode({ name: 'n1', verb: 'evacuate', cancel: true });
  t.equal(await said(client.createVolume({ ...create, name: 'x', replicas: 3 })), 'done');
});

t.test('a node is drained: by hand or by clients, and what comes later too', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.createVolume(create);
  await client.attachVolume({ name: 'db', node: 'n1' });
  const plan = await client.orderNode({ name: 'n1', verb: 'drain' });
  t.match(plan, { attachments: [{ volume: 'db', mode: 'manual' }], remaining: { attachments: 1 } });
  const primary = async (): Promise<string> =>
    (await client.getVolume({ name: 'db' })).status.primary?.node ?? 'none';
  await rig.until(async () => !['n1', 'none'].includes(await primary()));
  const holder = await primary();
  t.match(
    await said(client.attachVolume({ name: 'db', node: 'n1' })),
    /^FAILED_PRECONDITION: node n1 is drained, so nothing is attached there newly: .*uncordon n1/,
  );
  t.match(await said(client.movePrimary({ name: 'db', node: 'n1' })), /n1 is drained/);
  // the order has moved with it: after a restart of the agent it is not attached here again
  for (let i = 0; i < 500; i++) await rig.turn();
  t.equal(await primary(), holder);
  const others = ['n2', 'n3'];
  for (const name of others) await client.orderNode({ name, verb: 'cordon' });
  t.match(
    await said(client.orderNode({ name: holder, verb: 'drain' })),
    /^UNSAFE_PLAN: .*the attachment of volume db can go nowhere: no other node takes it: n1 is drained; n\d is cordoned/,
  );
  await client.orderNode({ name: 'n1', verb: 'uncordon' });
  t.equal(await said(client.orderNode({ name: holder, verb: 'drain' })), 'done');
  await rig.until(async () => (await primary()) === 'n1');
});

t.test('maintenances that are each safe alone are refused together', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.createVolume({ ...create, replicas: 3 });
  const order = (name: string, more: object = {}) =>
    client.orderNode({ name, verb: 'maintenance', forMs: 1e6, ...more });
  await order('n1');
  const plan = await order('n2', { plan: true });
  t.match(plan, {
    safe: false,
    effects: [{ volume: 'db', becomes: 'suspended', inSync: 1, wanted: 3 }],
    notes: ['n1 is in maintenance too, and counted as away'],
  });
  t.match(await said(order('n2')), /^UNSAFE_PLAN: .*volume db would be suspended: 1 of 3/);
  const { steps } = await client.planUpgrade({});
  const second = steps.find(({ node }) => node === 'n2');
  t.match(second?.reasons, [/volume db would be suspended/]);
  await order('n1', { cancel: true });

  const all = await Promise.all(['n1', 'n2', 'n3'].map((name) => said(order(name))));
  t.equal(all.filter((each) => each === 'done').length, 1, 'at the same moment');
  const refused = all.filter((each) => each.startsWith('UNSAFE_PLAN: '));
  t.equal(refused.length, 2, all.join('; '));
});

t.test('a maintenance keeps a node from being replaced, and ends by itself', async (t) => {
  const rig = await openRig(t, 4);
  const client = rig.client();
  await client.createVolume({ ...create, replicas: 3, policy: { replacementWaitMs: 10_000 } });
  const on = nodesOf(await client.getVolume({ name: 'db' }));
  const name = on.at(-1) ?? '';
  const node = rig.nodes.find((each) => each.name === name);
  if (!node) throw new Error('no node');
  const order = { name, verb: 'maintenance' as const };
  t.match(await said(client.orderNode(order)), /^INVALID_ARGUMENT: a maintenance of 0 ms/);
  const plan = await client.orderNode({ ...order, forMs: 100_000 });
  t.match(plan.effects, [{ volume: 'db', becomes: 'degraded', inSync: 2, wanted: 3 }]);
  await rig.kill(node);
  for (let i = 0; i < 5_000; i++) await rig.turn();
  t.same(nodesOf(await client.getVolume({ name: 'db' })), on, 'long after the wait');
  t.match((await client.explainVolume({ name: 'db' })).next.join(), /is not back by/);
  const isOver = async (): Promise<boolean> => !(await client.getNode({ name })).spec.maintenance;
  await rig.until(isOver);
  await rig.until(async () => nodesOf(await client.getVolume({ name: 'db' })).join() !== on.join());
  t.pass('replaced from then on');
});

t.test('events tell of every order on a node: begun, done, refused, taken back', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.createVolume(create);
  const told = async (): Promise<string[]> => {
    const { events } = await client.listEvents({ volume: '', afterRevision: 0, limit: 100 });
    return events
      .filter(({ object }) => object.kind === 'node' && object.name === 'n1')
      .map(({ type, reason, message, count }) => `${type} ${reason} ${count}: ${message}`);
  };
  const hears = async (pattern: RegExp): Promise<void> => {
    await rig.until(async () => (await told()).some((each) => pattern.test(each)));
    t.pass(String(pattern));
  };
  const [on = ''] = nodesOf(await client.getVolume({ name: 'db' }));
  t.equal(on, 'n1');
  const order = { name: 'n1' };
  await client.orderNode({ ...order, verb: 'cordon', reason: 'a fan is loud' });
  await hears(/^normal node-cordoned 1: node n1 takes nothing new \(a fan is loud\)$/);
  await client.orderNode({ ...order, verb: 'cordon' });
  await client.orderNode({ ...order, verb: 'uncordon' });
  await client.orderNode({ ...order, verb: 'uncordon' });
  await hears(/^normal node-uncordoned 1: node n1 takes replicas and attachments again$/);
  await client.attachVolume({ name: 'db', node: 'n1' });
  await client.orderNode({ ...order, verb: 'drain', plan: true });
  await client.orderNode({ ...order, verb: 'drain' });
  await hears(/^normal node-drain-started 1: node n1 is being drained: 1 attachment to move$/);
  await hears(/^normal node-drained 1: node n1 has no attachment any more$/);
  await client.orderNode({ name: 'n3', verb: 'cordon' });
  await said(client.orderNode({ ...order, verb: 'evacuate', plan: true }));
  t.match(await said(client.orderNode({ ...order, verb: 'evacuate' })), /^UNSAFE_PLAN/);
  await hears(/^warning node-order-refused 1: node n1 is not evacuated, because .* can go nowhere/);
  t.match(await said(client.orderNode({ ...order, verb: 'forget' })), /^FAILED_PRECONDITION/);
  await hears(/^warning node-order-refused 2: node n1 is up, so it is not lost/);
  await client.orderNode({ ...order, verb: 'evacuate', force: true });
  await hears(
    /^warning node-evacuation-started 1: .* 1 replica to move; an operator said so, alth/,
  );
  await client.orderNode({ name: 'n3', verb: 'uncordon' });
  await hears(/^normal node-evacuated 1: node n1 has no replica any more$/);
  await client.orderNode({ ...order, verb: 'evacuate', cancel: true });
  await hears(/^normal node-order-cancelled 1: node n1 is not evacuated any more/);
  await client.orderNode({ ...order, verb: 'maintenance', forMs: 5_000 });
  await hears(
    /^normal node-maintenance-started 1: node n1 is in maintenance until \d{4}-.*: its r/,
  );
  await hears(/^normal node-maintenance-ended 1: the maintenance of node n1 is over/);
  await client.orderNode({ ...order, verb: 'decommission' });
  await hears(/^normal node-decommission-started 1: .*: 0 attachments and 0 replicas to move$/);
  await hears(/^normal node-decommissioned 1: node n1 held nothing any more and has left/);
  const reasons = (await told()).map((each) => each.split(' ')[1]);
  t.equal(reasons.length, 12, 'and nothing twice');
});
