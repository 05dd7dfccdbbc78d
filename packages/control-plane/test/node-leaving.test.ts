// Nodes that leave for ever: decommissioned when they hold nothing any more, or forgotten.
import { StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import t from 'tap';
import type { Test } from 'tap';
import {
  forgottenKey,
  memberKey,
  nodeKey,
  nodeLeaseKey,
  requestsPrefix,
  volumeKey,
} from '../src/resources/keys.ts';
import { decodeVolume } from '../src/resources/records.ts';
import { Controllers } from '../src/core/controllers/controllers.ts';
import { removalOf } from '../src/core/node/node-removal.ts';
import { settleMs } from '../src/core/controllers/node-verbs-keeper.ts';
import { planAt } from './plan-at.ts';
import { clusterOf, put, volumeOn } from './volume-fixture.ts';
import { Rig } from './control-plane-rig.ts';
import type { RigNode } from './control-plane-rig.ts';

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

function named(rig: Rig, name: string): RigNode {
  const node = rig.nodes.find((each) => each.name === name);
  if (!node) throw new Error(`no node ${name}`);
  return node;
}

async function isGone(rig: Rig, node: RigNode): Promise<boolean> {
  return (await rig.cluster.store(rig.node(0).id).get(nodeKey(node.id))) === null;
}

t.test(
  'only a tombstone says that a node is gone: a record that is missing says nothing',
  async (t) => {
    const state = clusterOf({ a: {}, b: {}, c: {} });
    const record = volumeOn(['a', 'b']);
    put(state, record);
    const seen = (): string[] => planAt(new Controllers(), state, 1_000).map(({ type }) => type);
    // as of a store that lost it, or that was made anew: its lease is gone too
    state.nodes.delete('b');
    state.leases.delete('b');
    t.notOk(seen().includes('mark-failed'));
    const end = { id: 'b', name: 'b', atMs: 0, how: 'of a newer version' };
    state.forgotten.set('b', { value: end, modRevision: 1 });
    t.ok(seen().includes('mark-failed'));
  },
);

t.test(
  'a node leaves only when it has held nothing for a while, and not what was placed late',
  async (t) => {
    const state = clusterOf({ a: {}, b: {}, c: {} });
    put(state, volumeOn(['a', 'b']));
    const node = state.nodes.get('c');
    if (!node) throw new Error('no node');
    node.value = { ...node.value, spec: { decommission: { sinceMs: 0 } } };
    let leader = new Controllers();
    const leaves = (nowMs: number): boolean =>
      planAt(leader, state, nowMs).some(({ type }) => type === 'remove-node');
    t.notOk(leaves(1_000));
    t.notOk(leaves(1_000 + settleMs - 1));
    // by somebody who did not know of the order when it was decided
    const late = volumeOn(['c', 'a'], { name: 'late' });
    put(state, late);
    t.notOk(leaves(1_000 + settleMs));
    state.volumes.delete(late.metadata.id);
    t.notOk(leaves(2_000 + settleMs), 'from the beginning');
    leader = new Controllers();
    t.notOk(leaves(1_000 + 2 * settleMs), 'another leader has not seen it');
    t.ok(leaves(1_000 + 3 * settleMs));
  },
);

t.test('a node is decommissioned, also when the leader changes meanwhile', async (t) => {
  const rig = await openRig(t, 4);
  const client = rig.client();
  await client.createVolume(create);
  const [first = ''] = nodesOf(await client.getVolume({ name: 'db' }));
  const node = named(rig, first);
  const other = rig.nodes.filter((each) => each !== node);
  const client2 = rig.client(other.map(({ api }) => api));
  await client2.attachVolume({ name: 'db', node: first });
  const plan = await client2.orderNode({ name: first, verb: 'decommission', plan: true });
  t.match(plan, { safe: true, remaining: { attachments: 1, replicas: 1 } });
  t.same((await client2.getNode({ name: first })).spec.decommission, null, 'nothing is recorded');
  await client2.orderNode({ name: first, verb: 'decommission' });
  const repeated = await client2.orderNode({ name: first, verb: 'decommission' });
  t.ok(repeated.node.spec.decommission);
  t.match(
    await said(client2.orderNode({ name: first, verb: 'uncordon' })),
    /^FAILED_PRECONDITION: node n\d is being decommissioned: .*--cancel/,
  );
  const [a, b] = other;
  let turns = 0;
  await rig.until(async () => {
    // whoever leads goes on with what is recorded
    if (++turns <= 3_000 && turns % 500 === 0)
      rig.cluster.setLeader((turns % 1_000 === 0 ? a : b)?.id ?? '');
    return isGone(rig, node);
  });
  const moved = await client2.getVolume({ name: 'db' });
  t.notOk(nodesOf(moved).includes(first));
  t.equal(moved.status.health, 'healthy');
  t.same(
    (await client2.listDisks({})).disks.filter(({ spec }) => spec.nodeId === node.id),
    [],
    'its disks are gone too',
  );
  t.match(
    await said(client2.getNode({ name: first })),
    /^NOT_FOUND: node n\d \(n-\w+\) was decommissioned at \d{4}-.*: it is no node of the cluster any more/,
  );
  t.match(
    await said(client2.orderNode({ name: first, verb: 'decommission' })),
    /^NOT_FOUND: .*decommissioned/,
  );
  // its agent is told: it loses its lease, and gets none again
  const refused = /was decommissioned at .*: start it with an empty data folder and a token/;
  await rig.until(() => refused.test(node.control.readiness().reason));
  const store = rig.cluster.store(rig.node(0).id);
  await rig.until(async () => (await store.get(nodeLeaseKey(node.id))) === null);
  for (let i = 0; i < 2_500; i++) await rig.turn();
  t.equal(await store.get(nodeLeaseKey(node.id)), null, 'long after that too');
  t.equal((await client2.listDisks({})).disks.length, 3, 'and it records no disk again');
});

t.test('a decommission waits for what its agent has to delete, and can be cancelled', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.createVolume(create);
  const all = ['n1', 'n2', 'n3'];
  const [first = '', second = ''] = nodesOf(await client.getVolume({ name: 'db' }));
  const third = all.find((name) => name !== first && name !== second) ?? '';
  await client.orderNode({ name: third, verb: 'cordon' });
  t.match(
    await said(client.orderNode({ name: first, verb: 'decommission' })),
    /^UNSAFE_PLAN: node n\d is not decommissioned, because that is not safe: replica r-\w+ of volume db can go nowhere/,
  );
  await client.orderNode({ name: first, verb: 'decommission', force: true });
  for (let i = 0; i < 3_000; i++) await rig.turn();
  t.notOk(await isGone(rig, named(rig, first)), 'it holds the only place of a replica');
  await client.orderNode({ name: first, verb: 'decommission', cancel: true });
  await client.orderNode({ name: third, verb: 'uncordon' });
  for (let i = 0; i < 3_000; i++) await rig.turn();
  const kept = await client.getVolume({ name: 'db' });
  t.same(nodesOf(kept), [first, second], 'taken back: nothing has moved');
  // a volume in the trash is not moved: it is in the way until somebody decides
  await client.deleteVolume({ name: 'db', keepMs: 3_600_000 });
  t.match(
    await said(client.orderNode({ name: first, verb: 'decommission' })),
    /^UNSAFE_PLAN: .*in the trash, which is not moved/,
  );
  await client.orderNode({ name: first, verb: 'decommission', force: true });
  for (let i = 0; i < 2_000; i++) await rig.turn();
  t.notOk(await isGone(rig, named(rig, first)));
  await client.emptyTrash({ name: 'db' });
  await rig.until(() => isGone(rig, named(rig, first)));
});

t.test('a lost node is forgotten, and is refused when it comes back', async (t) => {
  const rig = await openRig(t, 4);
  const client = rig.client();
  await client.createVolume({ ...create, policy: { replacementWaitMs: 86_400_000 } });
  const on = nodesOf(await client.getVolume({ name: 'db' }));
  const node = named(rig, on.at(-1) ?? '');
  const client2 = rig.client(rig.nodes.filter((each) => each !== node).map(({ api }) => api));
  const order = { name: node.name, verb: 'forget' as const };
  for (const plan of [true, false]) {
    t.match(
      await said(client2.orderNode({ ...order, plan, force: true })),
      /^FAILED_PRECONDITION: node n\d is up, so it is not lost: "storctl node decommission/,
    );
  }
  await rig.kill(node);
  rig.cluster.setLeader(rig.nodes.find((each) => each !== node)?.id ?? '');
  await rig.until(async () => (await client2.getNode({ name: node.name })).status.state === 'down');
  t.match(
    await said(client2.orderNode({ ...order, cancel: true })),
    /^INVALID_ARGUMENT: .*for ever/,
  );
  const plan = await client2.orderNode({ ...order, plan: true });
  t.match(plan, { safe: true, effects: [], remaining: { replicas: 1 }, moves: [{ volume: 'db' }] });
  t.notOk(await isGone(rig, node), 'a plan changes nothing');
  await client2.orderNode(order);
  t.ok(await isGone(rig, node));
  t.match(await said(client2.orderNode(order)), /^NOT_FOUND: .*was forgotten at/);
  // long before the wait for a replacement is over
  await rig.until(async () => {
    const volume = await client2.getVolume({ name: 'db' });
    return volume.status.health === 'healthy' && !nodesOf(volume).includes(node.name);
  });
  // it comes back with its old folder
  const index = rig.nodes.indexOf(node);
  const back = await rig.start(index, node.agent, 'boot-2');
  rig.nodes[index] = back;
  const refused = /was forgotten at .*: start it with an empty data folder and a token/;
  await rig.until(() => refused.test(back.control.readiness().reason));
  for (let i = 0; i < 3_000; i++) await rig.turn();
  t.ok(await isGone(rig, node));
  t.same(
    (await client2.listNodes({})).nodes.length,
    3,
    'neither it nor its disks are recorded again',
  );
  t.equal((await client2.listDisks({})).disks.length, 3);
  t.equal((await client2.getVolume({ name: 'db' })).status.health, 'healthy');
});

t.test('the node of a last copy is forgotten only when that is said to be known', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.createVolume({ ...create, name: 'one', replicas: 1 });
  await client.createVolume({ ...create, name: 'two', replicas: 2 });
  const [on = ''] = nodesOf(await client.getVolume({ name: 'one' }));
  const node = named(rig, on);
  const client2 = rig.client(rig.nodes.filter((each) => each !== node).map(({ api }) => api));
  await rig.kill(node);
  rig.cluster.setLeader(rig.nodes.find((each) => each !== node)?.id ?? '');
  await rig.until(async () => (await client2.getNode({ name: on })).status.state === 'down');
  const order = { name: on, verb: 'forget' as const };
  t.match(
    await said(client2.orderNode(order)),
    /^UNSAFE_PLAN: node n\d is not forgotten, because that is not safe: volume one would be lost: no in-sync copy is left/,
  );
  t.notOk(await isGone(rig, node));
  await client2.orderNode({ ...order, force: true });
  for (let i = 0; i < 2_000; i++) await rig.turn();
  const one = await client2.getVolume({ name: 'one' });
  t.equal(one.status.health, 'unavailable');
  t.match(one.status.replicas, [{ state: 'failed', node: on }], 'no copy is made up');
  const record = await rig.cluster.store(rig.node(0).id).get(volumeKey(one.metadata.id));
  const stored = decodeVolume(record?.key ?? '', record?.value ?? new Uint8Array());
  t.equal(stored.status.segments[0]?.inSync.length, 1, 'and the set is not empty');
  const { events } = await client2.listEvents({ volume: '', afterRevision: 0, limit: 100 });
  t.match(
    events.filter(({ reason }) => reason === 'node-forgotten'),
    [{ message: /is lost for ever, .*with the last copy of one/ }],
  );
  // it can be deleted for good, although nobody deletes what lies there
  await client2.deleteVolume({ name: 'one', keepMs: 0 });
  await rig.until(async () => {
    const { volumes } = await client2.listVolumes({});
    return !volumes.some(({ metadata }) => metadata.name === 'one');
  });
});

t.test('no node with one of the last two copies is forgotten without a word', async (t) => {
  const rig = await openRig(t, 5);
  const client = rig.client();
  await client.createVolume(create);
  const on = nodesOf(await client.getVolume({ name: 'db' }));
  const left = rig.nodes.filter(({ name }) => !on.includes(name));
  const others = rig.client(left.map(({ api }) => api));
  for (const name of on) await rig.kill(named(rig, name));
  // nobody leads: no controller records in between that a replica is gone
  rig.cluster.setLeader(named(rig, on[0] ?? '').id);
  const isDown = async (name: string): Promise<boolean> =>
    (await others.getNode({ name })).status.state === 'down';
  for (const name of on) await rig.until(() => isDown(name));
  const forget = (name: string, force = false): Promise<string> =>
    said(others.orderNode({ name, verb: 'forget', force }));
  for (const each of await Promise.all(on.map((name) => forget(name)))) {
    t.match(
      each,
      /^UNSAFE_PLAN: .*db would be unavailable: .* nobody can serve it until one is back/,
    );
  }
  t.equal(await forget(on[0] ?? '', true), 'done');
  t.match(
    await forget(on[1] ?? ''),
    /^UNSAFE_PLAN: .*volume db would be lost: no in-sync copy is left/,
  );
});

t.test(
  'what was attached there at the last moment keeps the lease of a node that is gone',
  async (t) => {
    const rig = await openRig(t, 3);
    const node = rig.node(2);
    const client = rig.client(rig.nodes.slice(0, 2).map(({ api }) => api));
    await client.createVolume(create);
    await client.createVolume({ ...create, name: 'two' });
    await client.attachVolume({ name: 'db', node: 'n3' });
    const store = rig.cluster.store(rig.node(0).id);
    const record = { id: node.id, name: 'n3', atMs: 0, how: 'decommissioned' };
    const value = new TextEncoder().encode(JSON.stringify(record));
    // as if the grant had come just before it
    const operations = [
      { type: 'put' as const, key: forgottenKey(node.id), value },
      { type: 'delete' as const, key: nodeKey(node.id) },
    ];
    await store.transact({ compare: [], operations });
    for (let i = 0; i < 2_000; i++) await rig.turn();
    t.ok(await store.get(nodeLeaseKey(node.id)), 'whoever uses it there is served');
    t.equal((await client.getVolume({ name: 'db' })).status.primary?.nodeId, node.id);
    const answer = await rig.during(said(node.control.acquire('two', 'auto', { waitMs: 100 })));
    t.match(answer, /^UNAVAILABLE: node n3 .* was decommissioned at/, 'nothing begins there');
    await rig.during(client.detachVolume({ name: 'db' }));
    await rig.until(async () => (await store.get(nodeLeaseKey(node.id))) === null);
  },
);

t.test('the record by which a node would be a member later goes with it', async (t) => {
  const state = clusterOf({ a: {}, b: {} });
  const node = state.nodes.get('b');
  if (!node) throw new Error('no node');
  const how = { how: 'forgotten', nowWallMs: 7, mustBeDown: true, isMember: false } as const;
  const isMarked = (): boolean =>
    removalOf(state, node, how).operations.some(({ key }) => key === memberKey('b'));
  t.notOk(isMarked(), 'one that never had any needs none');
  const record = { id: 'b', name: 'b', address: 'h:1', addedAtMs: 1, nonce: 'x'.repeat(16) };
  state.members.set('b', { value: record, modRevision: 5 });
  t.ok(isMarked(), 'of the time in etcd');
  const { compare } = removalOf(state, node, how);
  t.same(compare.at(-1), { key: memberKey('b'), modRevision: 5 });
});

t.test('a node that comes back at that moment stays a node', async (t) => {
  const rig = await openRig(t, 3);
  const node = rig.node(2);
  const client = rig.client(rig.nodes.slice(0, 2).map(({ api }) => api));
  await rig.kill(node);
  rig.cluster.setLeader(rig.nodes.find((each) => each !== node)?.id ?? '');
  await rig.until(async () => (await client.getNode({ name: node.name })).status.state === 'down');
  const store = rig.cluster.store(rig.node(0).id);
  const transact = store.transact.bind(store);
  let isBack = false;
  store.transact = async (transaction, options) => {
    if (!isBack && transaction.operations.some(({ key }) => key === forgottenKey(node.id))) {
      isBack = true;
      const { leaseId } = await store.grantLease(60_000);
      const put = { type: 'put' as const, key: nodeLeaseKey(node.id), leaseId };
      const lease = { agentInstance: 'i', bootId: 'b', addresses: node.identity.addresses };
      const value = new TextEncoder().encode(JSON.stringify(lease));
      await transact({ compare: [], operations: [{ ...put, value }] });
    }
    return transact(transaction, options);
  };
  const only = rig.client([rig.node(0).api]);
  t.match(
    await said(only.orderNode({ name: node.name, verb: 'forget', force: true })),
    /^FAILED_PRECONDITION: node n3 is up/,
  );
  t.ok(isBack);
  t.equal(await store.get(forgottenKey(node.id)), null);
});

t.test(
  'an order that takes a node out is answered again when its first answer was lost',
  async (t) => {
    const rig = await openRig(t, 4);
    const [first, second] = [rig.node(0), rig.node(1)];
    const node = rig.node(3);
    const store = rig.cluster.store(first.id);
    const transact = store.transact.bind(store);
    // what was answered is not kept: the node dies at that moment, or cannot reach the store
    store.transact = (transaction, options) =>
      transaction.operations.every(({ key }) => key.startsWith(requestsPrefix)) &&
      transaction.compare.some(({ modRevision }) => modRevision > 0)
        ? Promise.reject(new StorError('UNAVAILABLE', 'dead'))
        : transact(transaction, options);
    const asked = rig.client([first.api]);
    const elsewhere = rig.client([second.api]);
    await rig.kill(node);
    rig.cluster.setLeader(second.id);
    await rig.until(async () => (await asked.getNode({ name: 'n4' })).status.state === 'down');
    const order = { name: 'n4', verb: 'forget' as const, requestId: 'f-1' };
    t.match(await asked.orderNode(order), { node: { metadata: { id: node.id } } });
    t.ok(await isGone(rig, node));
    for (const client of [elsewhere, asked]) {
      const again = await client.orderNode(order);
      t.match(again, {
        verb: 'forget',
        safe: true,
        node: { metadata: { id: node.id, name: 'n4' }, status: { state: 'down' } },
        notes: [/^node n4 \(.*\) was forgotten at/],
      });
    }
    // as another request it is refused, and another verb is not what was done
    t.match(
      await said(elsewhere.orderNode({ ...order, requestId: 'f-2' })),
      /^NOT_FOUND: .*was forgotten/,
    );
    t.match(
      await said(elsewhere.orderNode({ ...order, verb: 'cordon' })),
      /^INVALID_ARGUMENT: .*used for another request/,
    );
    const cordon = { name: 'n3', verb: 'cordon' as const, requestId: 'c-1' };
    await asked.orderNode(cordon);
    const third = rig.node(2);
    await rig.kill(third);
    await rig.until(async () => (await elsewhere.getNode({ name: 'n3' })).status.state === 'down');
    await elsewhere.orderNode({ name: 'n3', verb: 'forget', force: true });
    t.match(await said(elsewhere.orderNode(cordon)), /^NOT_FOUND: .*was forgotten/);
  },
);
