import { StorError } from '@stor/protocol';
import type { ApiClient } from '@stor/protocol';
import t, { type Test } from 'tap';
import {
  RollbackKeeper,
  rollbackBackoffMaxMs,
  rollbackPatienceMs,
} from '../src/core/controllers/rollback-keeper.ts';
import { rollbackBegun, rollbackEnded, rollbackTurned } from '../src/core/volume/rollback-rules.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import { volumeKey } from '../src/resources/keys.ts';
import { decodeVolume } from '../src/resources/records.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { Rig } from './control-plane-rig.ts';
import type { RigNode } from './control-plane-rig.ts';

interface Opened {
  rig: Rig;
  client: ApiClient;
  id: string;
}

async function failureOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

/** Volume `db` is attached at node 2, had `one` when `db@monday` was taken, and has `two` now. */
async function opened(t: Test): Promise<Opened> {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} };
  const { id } = (await rig.during(client.createVolume(request))).metadata;
  await rig.during(client.attachVolume({ name: 'db', node: 'n2' }));
  const { agent } = rig.node(1);
  agent.write(id, 'one');
  await rig.during(
    client.createSnapshot({ volume: 'db', selector: {}, name: 'monday', labels: {} }),
  );
  agent.write(id, 'two');
  return { rig, client, id };
}

function back({ rig, client }: Opened, safetySnapshot = true): Promise<unknown> {
  const request = { name: 'db', snapshot: 'monday', force: false, safetySnapshot };
  return rig.during(client.rollbackVolume(request));
}

async function recordOf({ rig, id }: Opened): Promise<StoredVolume> {
  const item = await rig.cluster.store(rig.node(0).id).get(volumeKey(id));
  if (!item) throw new Error('no record');
  return decodeVolume(item.key, item.value);
}

function imagesOf({ rig, id }: Opened): string[] {
  return rig.nodes
    .flatMap(({ agent }) => [...agent.replicaList.values()])
    .filter(({ volumeId }) => volumeId === id)
    .map(({ image }) => image);
}

/** What clients read at every moment from now on, until it is over; held reads count for nothing. */
async function readsUntil(all: Opened, isOver: () => Promise<boolean>): Promise<Set<string>> {
  const seen = new Set<string>();
  await all.rig.until(async () => {
    for (const { agent } of all.rig.nodes)
      for (const image of agent.read(all.id) ?? []) seen.add(image);
    return isOver();
  });
  return seen;
}

const isOver = (all: Opened) => async (): Promise<boolean> =>
  (await recordOf(all)).status.rollback === undefined;

/** The next rollback changes one replica and then ends like this. */
function breakAt(node: RigNode, error: StorError): void {
  node.agent.onRolledBack = (at) => {
    if (at > 0) return;
    node.agent.onRolledBack = () => {};
    node.agent.onOrder = ({ type }) => {
      if (type === 'rollback') throw error;
    };
    throw error;
  };
}

t.test('a rollback that was done in part goes on, and nobody reads until it is over', async (t) => {
  const all = await opened(t);
  const { rig, client } = all;
  const node = rig.node(1);
  breakAt(node, new StorError('OUTCOME_UNKNOWN', 'no answer'));
  t.match(
    await failureOf(back(all)),
    /^UNAVAILABLE: the rollback of volume db is not finished: no answer\. It goes on by itself/,
  );
  t.same(imagesOf(all).sort(), ['one', 'two', 'two'], 'some of it is new, and some old');
  t.equal(node.agent.read(all.id), null, 'so nobody is served');
  t.notOk(node.agent.write(all.id, 'three'));
  const { status } = await client.getVolume({ name: 'db' });
  t.equal(status.health, 'suspended');
  t.match(status.message, /I\/O is held while it is rolled back to db@monday, which goes on/);
  t.match(status.message, /what it was before is kept as db@before-rollback-/);
  t.match(
    await failureOf(rig.during(client.deleteSnapshot({ name: 'db@monday' }))),
    /^FAILED_PRECONDITION: volume db is being rolled back, and snapshot db@monday is needed/,
  );
  const taking = { volume: 'db', selector: {}, name: 'mixed', labels: {} };
  t.match(
    await failureOf(rig.during(client.createSnapshot(taking))),
    /^UNAVAILABLE: volume db is being rolled back/,
  );
  const growing = { name: 'db', sizeBytes: 2 ** 31 };
  t.match(
    await failureOf(rig.during(client.resizeVolume(growing))),
    /^UNAVAILABLE: volume db is being rolled back/,
  );
  node.agent.onOrder = () => {};
  t.notOk((await readsUntil(all, isOver(all))).has('two'));
  t.same(imagesOf(all), ['one', 'one', 'one']);
  await rig.until(() => node.agent.write(all.id, 'three'));
  for (let turns = 0; turns < 2_000; turns++) await rig.turn();
  t.same(imagesOf(all), ['three', 'three', 'three'], 'it is not repeated after that');
  const { snapshots } = await client.listSnapshots({ volume: 'db' });
  t.equal(snapshots.length, 2, 'what was before is kept');
});

t.test('the next primary finishes what one that died had begun', async (t) => {
  const all = await opened(t);
  const { rig } = all;
  const node = rig.node(1);
  node.agent.onRolledBack = () => {
    throw new StorError('OUTCOME_UNKNOWN', 'no answer');
  };
  const failing = failureOf(back(all));
  await rig.until(() => imagesOf(all).includes('one'));
  await rig.kill(node);
  t.match(await failing, /is not finished/);
  const reads = await readsUntil(all, isOver(all));
  t.notOk(reads.has('two'));
  t.same(imagesOf(all), ['one', 'one', 'one']);
  const others = rig.nodes.filter((each) => each !== node);
  t.ok(others.some(({ agent }) => agent.orders.includes(`rollback ${all.id}`)));
});

t.test('the leader carries out what is only recorded', async (t) => {
  const all = await opened(t);
  const { rig } = all;
  const { agent } = rig.node(1);
  // the order never arrives
  agent.onOrder = ({ type }) => {
    if (type === 'rollback') throw new StorError('OUTCOME_UNKNOWN', 'no answer');
  };
  t.match(await failureOf(back(all)), /is not finished: no answer/);
  t.same(imagesOf(all), ['two', 'two', 'two']);
  agent.onOrder = () => {};
  await rig.until(isOver(all));
  t.same(imagesOf(all), ['one', 'one', 'one']);
});

t.test('a rollback that is refused before anything changed leaves nothing behind', async (t) => {
  const all = await opened(t);
  const { rig, client, id } = all;
  const { agent } = rig.node(1);
  agent.onOrder = ({ type }) => {
    const held = agent.attached.get(id);
    // a client comes after the primary was asked whether there is one
    if (type === 'rollback' && held) held.connections = 1;
  };
  t.equal(await failureOf(back(all)), 'FAILED_PRECONDITION: clients are connected');
  t.equal((await recordOf(all)).status.rollback, undefined);
  t.same(imagesOf(all), ['two', 'two', 'two']);
  await rig.until(() => agent.write(id, 'three'));
  await rig.until(
    async () => (await client.listSnapshots({ volume: 'db' })).snapshots.length === 1,
  );
});

t.test('one that cannot go on is undone', async (t) => {
  const all = await opened(t);
  const { rig, id } = all;
  const { agent } = rig.node(1);
  agent.onRolledBack = (at) => {
    if (at > 0) return;
    agent.onRolledBack = () => {};
    // a replica turns out to lack it, when another one has been rolled back already
    const [, , last] = agent.membersOf(id);
    const [monday = ''] = last?.snapshots.keys() ?? [];
    last?.snapshots.delete(monday);
    throw new StorError('UNAVAILABLE', 'a replica was lost');
  };
  t.match(await failureOf(back(all)), /^UNAVAILABLE: .* is not finished: no snapshot s-/);
  t.same(
    [...(await readsUntil(all, isOver(all)))].filter((image) => image !== 'two'),
    [],
  );
  t.same(imagesOf(all), ['two', 'two', 'two']);
  await rig.until(() => agent.write(id, 'three'));
});

t.test('the rules of the record', (t) => {
  const rollback = { id: 'g-1', snapshotId: 's-1', safetyId: 's-0', force: false, sinceMs: 0 };
  const attachment = { nodeId: 'n-1', agentInstance: 'i', epoch: 4, mode: 'auto', sinceMs: 0 };
  const status = { phase: 'ready', attachment, segments: [] };
  const plain = {
    metadata: { id: 'v-1', name: 'db', labels: {} },
    spec: {},
    status,
  } as unknown as StoredVolume;
  const begun = rollbackBegun(plain, rollback);
  t.same(begun.status.rollback, rollback);
  t.same(rollbackEnded(begun, { id: 'g-1', epoch: 4 }), plain);
  t.equal(rollbackEnded(begun, { id: 'g-1', epoch: 3 }), null, 'under a primary of before');
  t.equal(rollbackEnded(begun, { id: 'g-0', epoch: 4 }), null, 'another one');
  t.equal(rollbackEnded(plain, { id: 'g-1', epoch: 4 }), null);
  const turned = rollbackTurned(begun, 'g-1', 'g-2');
  t.match(turned?.status.rollback, { id: 'g-2', snapshotId: 's-0', safetyId: 's-0', force: true });
  t.equal(turned && rollbackTurned(turned, 'g-2', 'g-3'), null, 'there is nothing behind it');
  t.equal(rollbackTurned(rollbackBegun(plain, { ...rollback, safetyId: '' }), 'g-1', 'x'), null);
  const state = emptyState();
  const keeper = new RollbackKeeper();
  state.volumes.set('v-1', { value: begun, modRevision: 1 });
  t.same(keeper.plan(state, 0), []);
  t.same(keeper.plan(state, rollbackPatienceMs), ['v-1']);
  t.same(keeper.plan(state, rollbackPatienceMs), [], 'not again at once');
  t.same(keeper.plan(state, rollbackPatienceMs + rollbackBackoffMaxMs), ['v-1']);
  state.volumes.set('v-1', { value: plain, modRevision: 2 });
  t.same(keeper.plan(state, 10 * rollbackBackoffMaxMs), []);
  t.end();
});
