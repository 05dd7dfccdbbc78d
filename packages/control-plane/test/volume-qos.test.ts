import { hasCode, StorError } from '@stor/protocol';
import t from 'tap';
import { Rig } from './control-plane-rig.ts';

const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} };

async function errorOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

async function openRig(count: number): Promise<Rig> {
  const rig = await Rig.open(count);
  for (const node of rig.nodes) node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  return rig;
}

t.test('limits reach the primary with its grant, and change while it serves', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const burst = { factor: 2, seconds: 30 };
  const qos = { iops: 5_000, burst, minIops: 100 };
  const created = await rig.during(client.createVolume({ ...request, qos }));
  t.same(created.spec.qos, qos);
  t.same(created.status.qos, {
    effective: qos,
    sources: { iops: 'volume', burst: 'volume', minIops: 'volume' },
    throttle: null,
  });
  await rig.during(client.attachVolume({ name: 'db', node: 'n2' }));
  const told = () => rig.node(1).agent.attached.get(created.metadata.id)?.grant.qos;
  t.same(told(), qos, 'in the grant');

  const changed = await rig.during(
    client.updateVolume({ name: 'db', qos: { bps: 2 ** 20, minIops: 0 }, clearQos: ['burst'] }),
  );
  t.same(changed.spec.qos, { iops: 5_000, bps: 2 ** 20, minIops: 0 });
  await rig.until(() => told()?.bps === 2 ** 20);
  t.same(told(), { iops: 5_000, bps: 2 ** 20 }, 'what is nothing is not told');

  await rig.during(
    client.updateVolume({ name: 'db', clearQos: ['iops', 'bps', 'minIops'], replicas: 2 }),
  );
  await rig.until(() => told() === undefined);
  const found = await client.getVolume({ name: 'db' });
  t.same([found.spec.qos, found.spec.replicas], [{}, 2]);
});

t.test('wishes that are none are refused at every border, and nothing is made', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  t.match(
    await errorOf(client.createVolume({ ...request, qos: { iops: 100, minIops: 200 } })),
    /^INVALID_ARGUMENT: the guarantee min-iops=200 is above what iops=100 lets through/,
  );
  t.same((await client.listVolumes({})).volumes, []);
  await rig.during(client.createVolume({ ...request, qos: { iops: 100 } }));
  for (const change of [{ qos: { minIops: 101 } }, { qos: { weight: 0 } }, { clearQos: ['no'] }]) {
    const refused = client.updateVolume({ name: 'db', ...change }).catch((error: unknown) => error);
    t.ok(hasCode(await rig.during(refused), 'INVALID_ARGUMENT'), JSON.stringify(change));
  }
  t.same((await client.getVolume({ name: 'db' })).spec.qos, { iops: 100 });
});

t.test('a clone has the wishes of its source', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume({ ...request, qos: { iops: 100 } }));
  const clone = await rig.during(
    client.cloneVolume({ source: 'db', snapshot: '', name: 'copy', sizeBytes: 0, labels: {} }),
  );
  t.same(clone.spec.qos, { iops: 100 });
});
