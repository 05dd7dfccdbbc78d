import { StorError } from '@stor/protocol';
import type { ApiClient, Volume } from '@stor/protocol';
import t from 'tap';
import type { Test } from 'tap';
import { nodeLeaseKey } from '../src/resources/keys.ts';
import { Rig } from './control-plane-rig.ts';

async function open(t: Test, shared = false): Promise<{ rig: Rig; client: ApiClient; id: string }> {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const policy = { shared };
  const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {}, policy };
  const { metadata } = await rig.during(client.createVolume(request));
  return { rig, client, id: metadata.id };
}

async function errorOf(promise: Promise<unknown>): Promise<StorError> {
  return promise.then(
    () => new StorError('INTERNAL', 'it was done'),
    (error: unknown) => StorError.from(error),
  );
}

const published = ({ status }: Volume) => status.publications ?? [];

t.test('one host has it, and it is told again', async (t) => {
  const { rig, client } = await open(t);
  const order = { name: 'db', node: 'n2', owner: 'docker' };
  const first = await rig.during(client.publishVolume(order));
  const [publication] = published(first);
  t.match(publication, { node: 'n2', owner: 'docker', readOnly: false });
  t.equal(publication?.exportName, `published:${publication?.id}:db`);
  const again = await rig.during(client.publishVolume({ ...order, owner: 'csi' }));
  t.same(published(again), published(first), 'the same, with the owner that there was');

  const elsewhere = await errorOf(rig.during(client.publishVolume({ name: 'db', node: 'n3' })));
  t.match(elsewhere, { code: 'ATTACHED_ELSEWHERE', details: { holder: 'n2' } });
  t.match(elsewhere.message, /is used as a device on node n2 since .* \(docker\)/);
  const otherWay = rig.during(client.publishVolume({ name: 'db', node: 'n2', readOnly: true }));
  t.match(await errorOf(otherWay), { code: 'ALREADY_EXISTS' });

  t.match(await errorOf(rig.during(client.deleteVolume({ name: 'db' }))), {
    code: 'FAILED_PRECONDITION',
    details: { holder: 'n2' },
  });
  const other = { name: 'db', node: 'n3' };
  t.equal(published(await rig.during(client.unpublishVolume(other))).length, 1, 'not of n3');
  const stale = { name: 'db', node: 'n2', publication: 'u-0000000000000000' };
  t.equal(published(await rig.during(client.unpublishVolume(stale))).length, 1, 'not that one');
  const ended = await rig.during(client.unpublishVolume({ name: 'db', node: 'n2' }));
  t.same(published(ended), []);
  t.same(published(await rig.during(client.unpublishVolume({ name: 'db', node: '' }))), []);
  const next = await rig.during(client.publishVolume({ name: 'db', node: 'n3' }));
  t.not(published(next)[0]?.id, publication?.id, 'an id is never used again');
});

t.test('a client without a publication keeps it from being published', async (t) => {
  const { rig, client, id } = await open(t);
  const { grant } = await rig.during(
    rig
      .node(0)
      .control.acquire('db', 'auto', { waitMs: 1_000 })
      .then((made) => ({ grant: made })),
  );
  await rig.node(0).agent.attach(grant);
  const held = rig.node(0).agent.attached.get(id);
  if (held) held.connections = 1;
  const order = { name: 'db', node: 'n1' };
  t.match(await errorOf(rig.during(client.publishVolume(order))), { code: 'FAILED_PRECONDITION' });
  if (held) held.connections = 0;
  t.equal(published(await rig.during(client.publishVolume(order))).length, 1);
  t.equal((await client.getVolume({ name: 'db' })).status.primary, null, 'it has let go');
});

t.test('what an operator attached by hand is published where it is', async (t) => {
  const { rig, client, id } = await open(t);
  await rig.during(client.attachVolume({ name: 'db', node: 'n2' }));
  const away = errorOf(rig.during(client.publishVolume({ name: 'db', node: 'n1' })));
  t.match(await away, { code: 'FAILED_PRECONDITION', details: { holder: 'n2' } });
  const held = rig.node(1).agent.attached.get(id);
  if (held) held.connections = 1;
  const order = { name: 'db', node: 'n2' };
  t.match(await errorOf(rig.during(client.publishVolume(order))), { code: 'FAILED_PRECONDITION' });
  if (held) held.connections = 0;
  const volume = await rig.during(client.publishVolume(order));
  t.match(volume.status.primary, { node: 'n2', mode: 'manual' }, 'its primary stays');
  const id2 = published(volume)[0]?.id;
  const told = () => rig.node(1).agent.attached.get(id)?.grant.publications?.[0]?.id;
  await rig.until(() => told() === id2);
});

t.test('a host that is down loses it, and whoever served it is fenced', async (t) => {
  const { rig, client, id } = await open(t);
  const before = await rig.during(client.publishVolume({ name: 'db', node: 'n3' }));
  // its device is served by another node, which lives
  const grant = await rig.during(rig.node(1).control.acquire('db', 'auto', { waitMs: 1_000 }));
  await rig.node(1).agent.attach(grant);
  const held = rig.node(1).agent.attached.get(id);
  if (held) held.connections = 1;
  t.same(grant.publications, [{ id: published(before)[0]?.id, readOnly: false }]);
  await rig.kill(rig.node(2));
  const leaseOver = async (): Promise<StorError> =>
    errorOf(rig.during(client.publishVolume({ name: 'db', node: 'n1', keepDead: true })));
  const { state } = rig.cluster.machine;
  await rig.until(() => !state.get(nodeLeaseKey(rig.node(2).id)));
  t.match(await leaseOver(), { code: 'ATTACHED_ELSEWHERE' });
  t.match((await leaseOver()).message, /on node n3 .*which is down/);

  const after = await rig.during(client.publishVolume({ name: 'db', node: 'n1' }));
  t.match(published(after), [{ node: 'n1' }]);
  t.equal(after.status.primary, null, 'n2 has lost it without being asked');
  const next = await rig.during(rig.node(0).control.acquire('db', 'auto', { waitMs: 1_000 }));
  t.ok(next.epoch > grant.epoch);
  t.equal(next.previousReleased, false, 'the leases of n2 are waited out (I6)');
  t.same(next.publications, [{ id: published(after)[0]?.id, readOnly: false }]);
});

t.test('a shared volume has several', async (t) => {
  const { rig, client } = await open(t, true);
  await rig.during(client.publishVolume({ name: 'db', node: 'n1' }));
  const two = await rig.during(client.publishVolume({ name: 'db', node: 'n2' }));
  t.same(
    published(two).map(({ node }) => node),
    ['n1', 'n2'],
  );
  const alone = { name: 'db', policy: { shared: false } };
  const refused = await errorOf(rig.during(client.updateVolume(alone)));
  t.match(refused, { code: 'FAILED_PRECONDITION', message: /used as a device by 2 hosts/ });
  const one = await rig.during(client.unpublishVolume({ name: 'db', node: 'n1' }));
  t.match(published(one), [{ node: 'n2' }]);
  await rig.during(client.updateVolume(alone));
});

t.test('what cannot be shown in a line is refused', async (t) => {
  const { rig, client } = await open(t);
  for (const owner of ['a\nb', 'x'.repeat(129)]) {
    const order = { name: 'db', node: 'n1', owner };
    t.match(await errorOf(rig.during(client.publishVolume(order))), { code: 'INVALID_ARGUMENT' });
  }
  const unknown = { name: 'db', node: 'n9' };
  t.match(await errorOf(rig.during(client.publishVolume(unknown))), { code: 'NOT_FOUND' });
});

t.test('by force it ends at once, though its device is connected', async (t) => {
  const { rig, client, id } = await open(t);
  await rig.during(client.publishVolume({ name: 'db', node: 'n1' }));
  const grant = await rig.during(rig.node(1).control.acquire('db', 'auto', { waitMs: 1_000 }));
  await rig.node(1).agent.attach(grant);
  const held = rig.node(1).agent.attached.get(id);
  if (held) held.connections = 1;
  const order = { name: 'db', node: 'n1' };
  t.match(await errorOf(rig.during(client.unpublishVolume(order))), {
    code: 'FAILED_PRECONDITION',
  });
  const ended = await rig.during(client.unpublishVolume({ ...order, force: true }));
  t.same(published(ended), []);
  t.equal(ended.status.primary, null);
  t.notOk(rig.node(1).agent.attached.has(id), 'its primary serves nobody any more');
});

t.test('by force one host of a shared volume loses it, and the others go on', async (t) => {
  const { rig, client, id } = await open(t, true);
  await rig.during(client.publishVolume({ name: 'db', node: 'n1' }));
  const two = await rig.during(client.publishVolume({ name: 'db', node: 'n2' }));
  const grant = await rig.during(rig.node(1).control.acquire('db', 'auto', { waitMs: 1_000 }));
  const { agent } = rig.node(1);
  await agent.attach(grant);
  const held = agent.attached.get(id);
  if (held) held.connections = 2;
  const detach = agent.detach.bind(agent);
  const handOver = agent.handOver.bind(agent);
  const calls: string[] = [];
  agent.handOver = async (...args) => {
    calls.push('hand over');
    agent.detach = detach;
    return handOver(...args);
  };
  agent.detach = async (...args) => {
    calls.push('detach');
    return detach(...args);
  };
  const order = { name: 'db', node: 'n1', force: true };
  const left = await rig.during(client.unpublishVolume(order));
  t.same(published(left), published(two).slice(1));
  t.same(calls, ['hand over'], 'their requests wait for the next primary');
  t.notOk(agent.attached.has(id));
});
