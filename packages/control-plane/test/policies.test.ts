import { maxPolicies, StorError } from '@stor/protocol';
import t from 'tap';
import { shippedPolicies } from '../src/core/qos/policy-rules.ts';
import { policyKey, rootPrefix } from '../src/resources/keys.ts';
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
  await rig.until(async () => {
    const { items } = await rig.cluster.store(rig.node(0).id).list(rootPrefix, { local: true });
    return items.some(({ key }) => key === policyKey('gold'));
  });
  return rig;
}

t.test('those that come with Stor are made once, and are the operator’s then', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const { policies } = await client.listPolicies({});
  t.same(
    policies.map(({ metadata, spec }) => [metadata.name, spec.qos]),
    [...shippedPolicies]
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, qos }) => [name, qos]),
  );
  await rig.during(
    client.updatePolicy({ name: 'gold', qos: { weight: 9 }, clearQos: ['minIops'] }),
  );
  await rig.during(client.removePolicy({ name: 'bronze' }));
  // another leader finds them as they are
  rig.cluster.setLeader(rig.node(1).id);
  for (let i = 0; i < 300; i++) await rig.turn();
  const now = (await rig.during(client.listPolicies({}))).policies;
  t.same(
    now.map(({ metadata, spec }) => [metadata.name, spec.qos]),
    [
      ['gold', { weight: 9 }],
      ['silver', shippedPolicies[1]?.qos],
    ],
  );
});

t.test('a policy reaches all its volumes that are in use, below their own wishes', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const qos = { iops: 500, weight: 10 };
  await rig.during(client.createPolicy({ name: 'batch', description: 'jobs', qos }));
  const ids: string[] = [];
  for (const [name, own] of [
    ['a', {}],
    ['b', { iops: 70 }],
  ] as const) {
    const made = await rig.during(
      client.createVolume({ ...request, name, policyName: 'batch', qos: own }),
    );
    ids.push(made.metadata.id);
    await rig.during(client.attachVolume({ name, node: 'n2' }));
  }
  const told = (i: number) => rig.node(1).agent.attached.get(ids[i] ?? '')?.grant.qos;
  t.same([told(0), told(1)], [qos, { iops: 70, weight: 10 }], 'with the grant');
  const b = await client.getVolume({ name: 'b' });
  t.match(b.status.qos, { sources: { iops: 'volume', weight: 'policy' } });
  t.equal(b.spec.policyName, 'batch');

  await rig.during(
    client.updatePolicy({ name: 'batch', qos: { iops: 900, minIops: 100 }, clearQos: ['weight'] }),
  );
  await rig.until(() => told(0)?.iops === 900);
  await rig.until(() => told(1)?.minIops !== undefined);
  t.same(
    [told(0), told(1)],
    [
      { iops: 900, minIops: 100 },
      { iops: 70, minIops: 70 },
    ],
  );
  t.equal((await client.getPolicy({ name: 'batch' })).status.volumes, 2);

  await rig.during(client.updateVolume({ name: 'a', policyName: 'gold' }));
  await rig.until(() => told(0)?.weight === 400);
  await rig.during(client.updateVolume({ name: 'a', policyName: '' }));
  await rig.until(() => told(0) === undefined);
  const watched = client.watch({ kinds: ['policy'], name: 'batch' })[Symbol.asyncIterator]();
  const first = await rig.during(watched.next());
  t.match(first.value, { type: 'ADDED', object: { status: { volumes: 1 } } });
  await rig.during(Promise.resolve(watched.return?.(undefined)));
});

t.test('a policy that volumes have is not removed, also while one takes it', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createPolicy({ name: 'batch' }));
  await rig.during(client.createVolume({ ...request, policyName: 'batch' }));
  t.match(
    await errorOf(rig.during(client.removePolicy({ name: 'batch' }))),
    /^IN_USE: policy batch is not removed: volume db has it; "storctl volume update/,
  );
  await rig.during(client.deleteVolume({ name: 'db' }));
  t.match(
    await errorOf(rig.during(client.removePolicy({ name: 'batch' }))),
    /volume db \(in the trash\) has it/,
  );
  await rig.during(client.emptyTrash({ name: '' }));
  await rig.during(client.createVolume({ ...request, name: 'one' }));
  for (let i = 0; i < 8; i++) {
    const name = `race-${i}`;
    await rig.during(client.createPolicy({ name }));
    const taking =
      i % 2 === 0
        ? client.updateVolume({ name: 'one', policyName: name })
        : client.createVolume({ ...request, name, policyName: name });
    const [took, removed] = await rig.during(
      Promise.allSettled([taking, client.removePolicy({ name })]),
    );
    t.not(took?.status, removed?.status, `${name}: one of the two`);
  }
});

t.test('what is refused, and what is done once', async (t) => {
  const rig = await openRig(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const refused = (promise: Promise<unknown>) => errorOf(rig.during(promise));
  t.match(await refused(client.getPolicy({ name: 'no' })), /^NOT_FOUND: there is no policy "no"/);
  t.match(await refused(client.updatePolicy({ name: 'no' })), /^NOT_FOUND/);
  t.match(await refused(client.removePolicy({ name: 'no' })), /^NOT_FOUND/);
  t.match(
    await refused(client.createVolume({ ...request, policyName: 'no' })),
    /^NOT_FOUND: there is no policy "no"/,
  );
  t.match(await refused(client.createPolicy({ name: 'a/b' })), /^INVALID_ARGUMENT: policy name/);
  t.match(
    await refused(client.createPolicy({ name: 'x', description: 'two\nlines' })),
    /^INVALID_ARGUMENT: a description is one line/,
  );
  t.match(
    await refused(client.createPolicy({ name: 'x', qos: { iops: 1, minIops: 2 } })),
    /^INVALID_ARGUMENT: the guarantee/,
  );
  const made = await rig.during(client.createPolicy({ name: 'x', requestId: 'one' }));
  t.same(await rig.during(client.createPolicy({ name: 'x', requestId: 'one' })), made);
  t.match(await refused(client.createPolicy({ name: 'x' })), /^ALREADY_EXISTS/);
  t.match(
    await refused(client.createPolicy({ name: 'x', requestId: 'one', qos: { iops: 5 } })),
    /^INVALID_ARGUMENT: request id "one" was used/,
  );
  const { resourceVersion } = made.metadata;
  const change = { name: 'x', qos: { iops: 5 }, resourceVersion };
  const changed = await rig.during(client.updatePolicy({ ...change, requestId: 'two' }));
  t.same(await rig.during(client.updatePolicy({ ...change, requestId: 'two' })), changed);
  t.match(await refused(client.updatePolicy(change)), /^CONFLICT/);
  t.match(await refused(client.removePolicy({ name: 'x', resourceVersion })), /^CONFLICT/);
  await rig.during(client.removePolicy({ name: made.metadata.id, requestId: 'three' }));
  t.same(await rig.during(client.removePolicy({ name: made.metadata.id, requestId: 'three' })), {});

  const store = rig.cluster.store(rig.node(0).id);
  const { items } = await store.list(policyKey('gold'), { local: true });
  const value = items[0]?.value ?? new Uint8Array();
  for (let i = 0; i < maxPolicies; i++) {
    const operation = { type: 'put' as const, key: policyKey(`p${i}`), value };
    await rig.during(store.transact({ compare: [], operations: [operation] }));
  }
  t.match(
    await refused(client.createPolicy({ name: 'more' })),
    /^FAILED_PRECONDITION: there are 256 policies/,
  );
});
