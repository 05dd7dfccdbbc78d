import { segmentSizeBytes, StorError } from '@stor/protocol';
import type { ApiClient, Volume } from '@stor/protocol';
import t from 'tap';
import { growthPatienceMs } from '../src/core/controllers/controllers.ts';
import { readVolume } from '../src/resources/find.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { Rig } from './control-plane-rig.ts';

const gib = 2 ** 30;
const request = { name: 'db', sizeBytes: gib, segmentBytes: gib, replicas: 2, labels: {} };

async function openRig(): Promise<{ rig: Rig; client: ApiClient; volume: Volume }> {
  const rig = await Rig.open(3);
  for (const { agent } of rig.nodes) agent.reaches = (nodeId) => rig.isAlive(nodeId);
  const client = rig.client();
  const volume = await rig.during(client.createVolume(request));
  return { rig, client, volume };
}

async function recordOf(rig: Rig, id: string): Promise<StoredVolume> {
  const record = await readVolume(rig.cluster.store(rig.node(0).id), id);
  if (!record) throw new Error('no record');
  return record.value;
}

/** No in-sync replica is smaller than the record says: what a device would show is there. */
async function isBehind(rig: Rig, id: string): Promise<boolean> {
  const { spec, status } = await recordOf(rig, id);
  const all = rig.nodes.flatMap(({ agent }) => [...agent.replicaList.values()]);
  return status.segments.every(({ index, inSync }) =>
    inSync.every((replicaId) => {
      const replica = all.find((each) => each.replicaId === replicaId);
      const wanted = segmentSizeBytes(spec.sizeBytes, spec.segmentBytes ?? 0, index);
      return replica !== undefined && replica.sizeBytes >= wanted;
    }),
  );
}

function replicaCount(rig: Rig): number {
  return rig.nodes.reduce((sum, { agent }) => sum + agent.replicaList.size, 0);
}

t.test('a volume grows, attached or not, and says so', async (t) => {
  const { rig, client, volume } = await openRig();
  t.teardown(() => rig.close());
  const { id } = volume.metadata;
  const resize = (sizeBytes: number) => rig.during(client.resizeVolume({ name: 'db', sizeBytes }));
  const detached = await resize(2.5 * gib);
  t.equal(detached.spec.sizeBytes, 2.5 * gib);
  t.equal(new Set(detached.status.replicas.map(({ segment }) => segment)).size, 3);
  t.equal(detached.status.primary, null, 'it was attached for the order only');
  t.ok(await isBehind(rig, id));

  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  const grown = await resize(2.5 * gib + 1);
  t.equal(grown.spec.sizeBytes, 2.5 * gib + 4096, 'in whole blocks');
  t.equal(grown.status.replicas.length, 6, 'within the last segment');
  t.ok(await isBehind(rig, id));
  t.equal(rig.node(0).agent.attached.get(id)?.grant.sizeBytes, 2.5 * gib + 4096);
  t.equal((await resize(2.5 * gib + 4096)).spec.sizeBytes, 2.5 * gib + 4096, 'again');
  await t.rejects(resize(gib), { code: 'INVALID_ARGUMENT', message: /cannot become smaller/ });
  await t.rejects(resize(2 ** 50), { code: 'INVALID_ARGUMENT', message: /too large/ });
  t.equal((await recordOf(rig, id)).status.growth, undefined);
});

t.test('what cannot grow stays as it was, and leaves nothing behind', async (t) => {
  const { rig, client, volume } = await openRig();
  t.teardown(() => rig.close());
  const { id } = volume.metadata;
  const resize = () => rig.during(client.resizeVolume({ name: 'db', sizeBytes: 4 * gib }));
  for (const { agent } of rig.nodes) agent.createError = new StorError('NO_SPACE', 'full');
  await t.rejects(resize(), { code: 'UNAVAILABLE', message: /could not take a replica: full/ });
  for (const { agent } of rig.nodes) {
    agent.createError = null;
    agent.onOrder = (order) =>
      order.type === 'resize'
        ? Promise.reject(new StorError('UNAVAILABLE', 'a member is away'))
        : Promise.resolve();
  }
  await t.rejects(resize(), { code: 'UNAVAILABLE', message: /a member is away/ });
  const now = await recordOf(rig, id);
  t.equal(now.spec.sizeBytes, gib);
  t.equal(now.status.segments.length, 1);
  await rig.until(() => replicaCount(rig) === 2);
  await rig.until(async () => (await recordOf(rig, id)).status.segments[0]?.removed?.length === 0);

  for (const { agent } of rig.nodes) agent.onOrder = () => Promise.resolve();
  t.equal((await resize()).spec.sizeBytes, 4 * gib, 'and later it can');
  t.ok(await isBehind(rig, id));
  await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
  await rig.until(() => replicaCount(rig) === 0);
});

t.test('many new replicas get more time than few', async (t) => {
  const { rig, client } = await openRig();
  t.teardown(() => rig.close());
  const slowly = async (sizeBytes: number): Promise<number> => {
    const begunMs = rig.clock.monotonicMs();
    const isOver = async (): Promise<boolean> => rig.clock.monotonicMs() - begunMs > 40_000;
    let open = (): void => {};
    const gate = new Promise<void>((resolve) => (open = resolve));
    for (const { agent } of rig.nodes) agent.createGate = gate;
    const resizing = client.resizeVolume({ name: 'db', sizeBytes }).finally(open);
    resizing.catch(() => {});
    await rig.until(isOver);
    open();
    return (await rig.during(resizing)).spec.sizeBytes;
  };
  const message = /not created within 30 s/;
  await t.rejects(slowly(3 * gib), { code: 'TIMEOUT', message });
  t.equal(await slowly(40 * gib), 40 * gib, 'of 78 replicas');
});

t.test('the size is recorded only under the primary that made the replicas larger', async (t) => {
  const { rig, client, volume } = await openRig();
  t.teardown(() => rig.close());
  const { id } = volume.metadata;
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  let orders = 0;
  for (const { agent } of rig.nodes) {
    agent.onOrder = async (order) => {
      if (order.type !== 'resize') return;
      orders += 1;
      // the volume is fenced between the order and the record: who is in the set then may be smaller
      if (orders === 1)
        setImmediate(() => void client.fenceVolume({ name: 'db' }).catch(() => null));
    };
  }
  const grown = await rig.during(client.resizeVolume({ name: 'db', sizeBytes: 3 * gib })).then(
    (done) => done.spec.sizeBytes,
    () => 0,
  );
  const { spec } = await recordOf(rig, id);
  t.ok([gib, 3 * gib].includes(spec.sizeBytes), 'one size or the other');
  if (grown > 0) t.equal(spec.sizeBytes, grown);
  t.ok(await isBehind(rig, id));
});

t.test('a growth whose node dies is given up; its replicas go', async (t) => {
  const { rig, client, volume } = await openRig();
  t.teardown(() => rig.close());
  const { id } = volume.metadata;
  let open = (): void => {};
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  for (const { agent } of rig.nodes) agent.createGate = gate;
  const direct = rig.client([rig.node(2).api]);
  const failed = direct.resizeVolume({ name: 'db', sizeBytes: 3 * gib }).catch(() => null);
  await rig.until(async () => (await recordOf(rig, id)).status.growth !== undefined);
  await t.rejects(rig.during(client.resizeVolume({ name: 'db', sizeBytes: 2 * gib })), {
    code: 'FAILED_PRECONDITION',
    message: /is being grown to 3GiB/,
  });
  const killed = rig.kill(rig.node(2));
  open();
  await rig.during(killed);
  await failed;
  t.equal((await recordOf(rig, id)).spec.sizeBytes, gib);
  for (let waited = 0; waited <= growthPatienceMs; waited += 10) await rig.turn();
  await rig.until(async () => (await recordOf(rig, id)).status.growth === undefined);
  const left = () => rig.nodes.slice(0, 2).flatMap(({ agent }) => [...agent.replicaList.values()]);
  await rig.until(() => left().every(({ segment }) => segment === 0));
  t.equal((await recordOf(rig, id)).spec.sizeBytes, gib);
});
