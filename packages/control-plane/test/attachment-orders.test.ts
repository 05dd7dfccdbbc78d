import { hasCode, StorError } from '@stor/protocol';
import type { ApiClient, Volume } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import type { Logger } from '@stor/runtime';
import t from 'tap';
import type { Test } from 'tap';
import { readVolume } from '../src/resources/find.ts';
import { nodeLeaseKey } from '../src/resources/keys.ts';
import { Rig } from './control-plane-rig.ts';
import type { RigNode } from './control-plane-rig.ts';

const waitMs = 8_000;
/** longer than any wait of a leader that has not tried yet (turns of 10 ms) */
const someTurns = 600;

async function open(
  t: Test,
  logger: Logger = silentLogger,
): Promise<{ rig: Rig; client: ApiClient; volumeId: string }> {
  const rig = await Rig.open(3, { logger });
  t.teardown(() => rig.close());
  const client = rig.client();
  const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} };
  const { metadata } = await rig.during(client.createVolume(request));
  return { rig, client, volumeId: metadata.id };
}

async function pass(rig: Rig, turns = someTurns): Promise<void> {
  for (let i = 0; i < turns; i++) await rig.turn();
}

/** The primary on this node gives the volume back by itself, or has given it back already. */
async function endOn(node: RigNode, volumeId: string): Promise<void> {
  const held = node.agent.attached.get(volumeId);
  if (held) await node.agent.detach(volumeId, held.grant.epoch, false);
}

/** An orderly stop: everything is given back, then the node's lease. */
async function stop(rig: Rig, node: RigNode): Promise<void> {
  node.control.stopAttaching();
  for (const volumeId of node.agent.attached.keys()) await endOn(node, volumeId);
  await rig.during(node.control.close());
  node.server.forceShutdown();
}

async function wantedIn(rig: Rig, volumeId: string): Promise<string | undefined> {
  const volume = await readVolume(rig.cluster.store(rig.node(0).id), volumeId);
  return volume?.value.spec.attachTo;
}

function primaryOf(client: ApiClient): Promise<Volume['status']['primary']> {
  return client.getVolume({ name: 'db' }).then(({ status }) => status.primary);
}

t.test('an order outlives a stop of its node, and of the leader', async (t) => {
  const { rig, client, volumeId } = await open(t);
  const { status } = await client.attachVolume({ name: 'db', node: 'n3' });
  t.equal(await wantedIn(rig, volumeId), rig.node(2).id);
  const { agent } = rig.node(2);
  await stop(rig, rig.node(2));
  await pass(rig);
  t.equal(await primaryOf(client), null, 'nobody else is asked');
  rig.cluster.setLeader(rig.node(1).id);
  rig.nodes[2] = await rig.start(2, agent);
  await rig.until(() => agent.attached.has(volumeId));
  const { grant } = agent.attached.get(volumeId) ?? {};
  t.match(grant, { mode: 'manual', epoch: status.epoch + 1, previousReleased: true });

  await endOn(rig.node(2), volumeId);
  t.equal(await primaryOf(client), null, 'its primary has ended by itself');
  await rig.until(() => agent.attached.has(volumeId));
  t.match(await primaryOf(client), { node: 'n3', mode: 'manual' });

  await rig.during(client.detachVolume({ name: 'db' }));
  t.equal(await wantedIn(rig, volumeId), undefined);
  await pass(rig);
  t.equal(await primaryOf(client), null, 'detach ends it');
});

t.test('a node that cannot is asked again, more and more seldom', async (t) => {
  const { rig, client, volumeId } = await open(t);
  await client.attachVolume({ name: 'db', node: 'n2' });
  // it asks itself, so that no time is lost on the wire
  rig.cluster.setLeader(rig.node(1).id);
  const { agent } = rig.node(1);
  agent.attachError = new StorError('UNAVAILABLE', 'no in-sync replica can be reached');
  await endOn(rig.node(1), volumeId);
  const tries: number[] = [];
  const attach = agent.attach.bind(agent);
  agent.attach = (grant) => {
    tries.push(rig.clock.monotonicMs());
    return attach(grant);
  };
  await rig.until(() => tries.length === 4);
  const gaps = tries.slice(1).map((atMs, i) => atMs - (tries[i] ?? 0));
  t.ok(
    gaps.every((gap, i) => i === 0 || gap > (gaps[i - 1] ?? 0)),
    'the waits grow',
  );
  t.equal(await wantedIn(rig, volumeId), rig.node(1).id, 'it is still wanted');
  agent.attachError = null;
  await rig.until(() => agent.attached.has(volumeId));
  t.match(await primaryOf(client), { node: 'n2', mode: 'manual' });
});

t.test('who holds the volume when the node is back keeps it', async (t) => {
  const { rig, client, volumeId } = await open(t);
  await client.attachVolume({ name: 'db', node: 'n3' });
  const { agent } = rig.node(2);
  await rig.kill(rig.node(2));
  agent.attached.clear();
  const { state } = rig.cluster.machine;
  await rig.until(() => !state.get(nodeLeaseKey(rig.node(2).id)));
  const taken = await rig.during(rig.node(0).control.acquire('db', 'auto', { waitMs }));
  t.equal(taken.mode, 'auto', 'a client wins');
  await rig.node(0).agent.attach(taken);
  rig.nodes[2] = await rig.start(2, agent);
  await rig.until(() => rig.node(2).control.readiness().ready);
  await pass(rig, 2 * someTurns);
  t.match(await primaryOf(client), { node: 'n1' }, 'idle or not, it is not asked to let go');
  await endOn(rig.node(0), volumeId);
  await rig.until(() => agent.attached.has(volumeId));
  t.match(await primaryOf(client), { node: 'n3', mode: 'manual' });

  await endOn(rig.node(2), volumeId);
  const own = await rig.node(2).control.acquire('db', 'auto', { waitMs });
  t.equal(own.mode, 'manual', 'a client on the wanted node: it is held there at once');
});

t.test('an order to another node moves the wish, one that fails does not', async (t) => {
  const { rig, client, volumeId } = await open(t);
  const [n1, n2, n3] = [rig.node(0), rig.node(1), rig.node(2)];
  n2.agent.attachError = new StorError('UNAVAILABLE', 'no in-sync replica can be reached');
  await t.rejects(client.attachVolume({ name: 'db', node: 'n2' }), { code: 'UNAVAILABLE' });
  t.equal(await wantedIn(rig, volumeId), undefined);
  await client.attachVolume({ name: 'db', node: 'n3' });
  await t.rejects(client.attachVolume({ name: 'db', node: 'n1' }), { code: 'ATTACHED_ELSEWHERE' });
  t.equal(await wantedIn(rig, volumeId), n3.id, 'it is held there');

  await stop(rig, n3);
  await t.rejects(client.attachVolume({ name: 'db', node: 'n2' }), { code: 'UNAVAILABLE' });
  t.equal(await wantedIn(rig, volumeId), n3.id);
  await client.attachVolume({ name: 'db', node: 'n1' });
  t.equal(await wantedIn(rig, volumeId), n1.id);
  rig.nodes[2] = await rig.start(2, n3.agent);
  await rig.until(() => rig.node(2).control.readiness().ready);
  await endOn(n1, volumeId);
  await rig.until(() => rig.nodes.some((node) => node.agent.attached.has(volumeId)));
  t.match(await primaryOf(client), { node: 'n1', mode: 'manual' });
});

t.test('detach wins over an attachment that is coming back', async (t) => {
  const { rig, client, volumeId } = await open(t);
  await client.attachVolume({ name: 'db', node: 'n2' });
  const { agent } = rig.node(1);
  let goOn = (): void => {};
  let isAsked = false;
  const gate = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  const attach = agent.attach.bind(agent);
  agent.attach = async (grant) => {
    isAsked = true;
    await gate;
    await attach(grant);
  };
  await endOn(rig.node(1), volumeId);
  await rig.until(() => isAsked);
  t.match(await primaryOf(client), { node: 'n2' }, 'granted, and not serving yet');
  const detaching = client.detachVolume({ name: 'db' });
  await rig.until(async () => (await wantedIn(rig, volumeId)) === undefined);
  goOn();
  const { status } = await rig.during(detaching);
  t.equal(status.primary, null);
  await pass(rig, 3 * someTurns);
  const later = await client.getVolume({ name: 'db' });
  t.match(later.status, { primary: null, epoch: status.epoch }, 'and it stays so');
  t.equal(agent.attached.size, 0);
});

t.test('detach while the order is carried out leaves nothing behind', async (t) => {
  const { rig, client, volumeId } = await open(t);
  const { agent } = rig.node(1);
  const attach = agent.attach.bind(agent);
  agent.attach = async (grant) => {
    agent.attach = attach;
    await attach(grant);
    await client.detachVolume({ name: 'db' });
  };
  const outcome = await rig.during(
    client.attachVolume({ name: 'db', node: 'n2' }).then(
      () => 'attached',
      (error: unknown) => (hasCode(error, 'UNAVAILABLE') ? 'refused' : String(error)),
    ),
  );
  t.equal(outcome, 'refused');
  t.equal(await wantedIn(rig, volumeId), undefined);
  await pass(rig);
  t.equal(await primaryOf(client), null);
});

t.test('a repair is finished first, and a deleted volume is wanted nowhere', async (t) => {
  const { rig, client, volumeId } = await open(t);
  const { agent } = rig.node(2);
  const attached = await client.attachVolume({ name: 'db', node: 'n3' });
  const own = attached.status.replicas.find((replica) => replica.node === 'n3')?.id;
  const all = attached.status.replicas.map((replica) => replica.id);
  const { epoch } = attached.status;
  const inSync = all.filter((id) => id !== own);
  const change = { volumeId, segment: 0 };
  await rig.node(2).control.proposeSet({ ...change, epoch, setRevision: 1, inSync });
  await stop(rig, rig.node(2));
  await pass(rig);
  t.equal(await primaryOf(client), null, 'there is nothing to repair without n3');
  agent.attachError = new StorError('UNAVAILABLE', 'not yet');
  rig.nodes[2] = await rig.start(2, agent);
  const repairer = (): RigNode | undefined =>
    rig.nodes.find(({ agent: { attached: held } }) => held.get(volumeId)?.grant.mode === 'repair');
  await rig.until(() => repairer() !== undefined);
  agent.attachError = null;
  await pass(rig, 10 * someTurns);
  const node = repairer();
  const grant = node?.agent.attached.get(volumeId)?.grant;
  t.match(grant, { mode: 'repair' }, 'it is left alone');
  if (!node || !grant) return;
  const { setRevision = 0 } = grant.segments[0] ?? {};
  await node.control.proposeSet({ ...change, epoch: grant.epoch, setRevision, inSync: all });
  await endOn(node, volumeId);
  await rig.until(() => agent.attached.has(volumeId));
  t.match(await client.getVolume({ name: 'db' }), {
    status: { health: 'healthy', primary: { node: 'n3', mode: 'manual' } },
  });

  await t.rejects(client.deleteVolume({ name: 'db', keepMs: 0 }), { code: 'FAILED_PRECONDITION' });
  t.equal(await wantedIn(rig, volumeId), rig.node(2).id, 'a deletion that is refused');
  await stop(rig, rig.node(2));
  await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
  const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/deleted/');
  const records = items.map(({ value }) => new TextDecoder().decode(value)).join();
  t.match(records, /"sizeBytes"/);
  t.notMatch(records, /attachTo/);
});

t.test('a node that gives its attachments back does not take them again', async (t) => {
  const { rig, client, volumeId } = await open(t);
  const { status } = await client.attachVolume({ name: 'db', node: 'n2' });
  const { agent, control } = rig.node(1);
  control.stopAttaching();
  await endOn(rig.node(1), volumeId);
  await t.rejects(client.attachVolume({ name: 'db', node: 'n2' }), { code: 'UNAVAILABLE' });
  // others of its volumes take their time, and it holds its lease meanwhile
  await pass(rig, 3 * someTurns);
  t.equal(agent.attached.size, 0);
  const grant = await rig.node(0).control.acquire('db', 'auto', { waitMs });
  t.match(grant, { epoch: status.epoch + 1, previousReleased: true });
});

t.test('a node that is slow to answer is not asked again meanwhile', async (t) => {
  let asked = 0;
  const logger: Logger = {
    ...silentLogger,
    child: () => logger,
    info: (_fields: object, message?: string) => {
      if (message === 'asking a node to attach') asked += 1;
    },
  };
  const { rig, client, volumeId } = await open(t, logger);
  await client.attachVolume({ name: 'db', node: 'n2' });
  const store = rig.cluster.store(rig.node(1).id);
  let goOn = (): void => {};
  const gate = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  await endOn(rig.node(1), volumeId);
  const get = store.get.bind(store);
  store.get = async (...args) => {
    await gate;
    return get(...args);
  };
  await pass(rig, 2 * someTurns);
  t.equal(asked, 1);
  goOn();
  await rig.until(() => rig.node(1).agent.attached.has(volumeId));
});

t.test('a client and an order that come together get the same epoch', async (t) => {
  const { rig, client, volumeId } = await open(t);
  const { agent, control } = rig.node(1);
  const holder = rig.node(0);
  await holder.agent.attach(await holder.control.acquire('db', 'auto', { waitMs }));
  const held = holder.agent.attached.get(volumeId);
  if (held) held.connections = 1;
  await rig.kill(holder);
  // both wait for the lease of the dead holder; the real agent begins at once what it is granted
  const order = client.attachVolume({ name: 'db', node: 'n2' });
  await pass(rig, 20);
  const grant = control.acquire('db', 'auto', { waitMs }).then(async (granted) => {
    await agent.attach(granted);
    return granted;
  });
  await rig.during(Promise.all([order, grant]));
  const { epoch } = await grant;
  t.equal((await order).status.epoch, epoch, 'the order is not fenced by what the client got');
  t.match(agent.attached.get(volumeId)?.grant, { epoch, mode: 'manual' });
  t.equal(await wantedIn(rig, volumeId), rig.node(1).id);
  t.equal(held?.grant.epoch, epoch - 1, 'one epoch was given');
});

t.test('an order that finds a client being attached keeps its epoch', async (t) => {
  const { rig, client, volumeId } = await open(t);
  const { agent, control } = rig.node(1);
  // granted, and on its way to the data path while the order looks for the first time
  const grant = await control.acquire('db', 'auto', { waitMs });
  const live = agent.liveVolumes.bind(agent);
  agent.liveVolumes = async () => {
    agent.liveVolumes = live;
    const before = await live();
    await agent.attach(grant);
    return before;
  };
  const { status } = await rig.during(client.attachVolume({ name: 'db', node: 'n2' }));
  t.match(status, { epoch: grant.epoch, primary: { node: 'n2', mode: 'manual' } });
  t.match(agent.attached.get(volumeId)?.grant, { epoch: grant.epoch, mode: 'manual' });
});

t.test('why a node cannot serve is said with the names of nodes', async (t) => {
  const { rig, client } = await open(t);
  const { agent } = rig.node(1);
  agent.attachError = new StorError('UNAVAILABLE', `waiting for r-1 on ${rig.node(2).id}`);
  const order = client.attachVolume({ name: 'db', node: 'n2' });
  await t.rejects(rig.during(order), { code: 'UNAVAILABLE', message: 'waiting for r-1 on n3' });
});
