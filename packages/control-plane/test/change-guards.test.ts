// What a client may say of a change: the version that it has seen, and an id for sending it again.
import fc from 'fast-check';
import { StorError } from '@stor/protocol';
import type { ApiClient } from '@stor/protocol';
import { silentLogger, systemClock } from '@stor/runtime';
import t, { type Test } from 'tap';
import { inChangeScope, scopedStore } from '../src/api/change-scope.ts';
import { checkEtcdTransaction } from '../src/core/etcd/etcd-values.ts';
import { maxRequests, requestMemoryMs, RequestLedger } from '../src/api/request-ledger.ts';
import type { ClusterStore, Transaction } from '../src/cluster-store.ts';
import { changeRules, requestText } from '../src/core/requests/change-rules.ts';
import { requestsPrefix } from '../src/resources/keys.ts';
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

async function open(t: Test, count = 3): Promise<{ rig: Rig; client: ApiClient }> {
  const rig = await Rig.open(count);
  t.teardown(() => rig.close());
  for (const node of rig.nodes) node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  return { rig, client: rig.client() };
}

t.test('a change is refused when the object has changed since it was looked at', async (t) => {
  const { rig, client } = await open(t);
  const volume = await rig.during(client.createVolume(request));
  const old = volume.metadata.resourceVersion;
  t.ok(old > 0);
  const first = { name: 'db', policy: { failureMode: 'hard' } as const, resourceVersion: old };
  const changed = await rig.during(client.updateVolume(first));
  t.ok(changed.metadata.resourceVersion > old);
  const late = await errorOf(rig.during(client.updateVolume({ ...first, replicas: 2 })));
  t.match(late, { code: 'CONFLICT', message: /has changed since version [0-9]+ / });
  t.equal(late.details['resourceVersion'], String(changed.metadata.resourceVersion));
  const calls: ((resourceVersion: number) => Promise<unknown>)[] = [
    (v) => client.attachVolume({ name: 'db', node: 'n1', resourceVersion: v }),
    (v) => client.detachVolume({ name: 'db', resourceVersion: v }),
    (v) => client.resizeVolume({ name: 'db', sizeBytes: 2 ** 31, resourceVersion: v }),
    (v) => client.deleteVolume({ name: 'db', resourceVersion: v }),
    (v) => client.fenceVolume({ name: 'db', resourceVersion: v }),
    (v) => client.startScrub({ volume: 'db', resourceVersion: v }),
    (v) => client.labelNode({ name: 'n1', set: { a: 'b' }, remove: [], resourceVersion: v }),
    (v) => client.orderNode({ name: 'n1', verb: 'cordon', resourceVersion: v }),
  ];
  for (const call of calls) t.equal((await errorOf(rig.during(call(old)))).code, 'CONFLICT');
  t.equal((await client.getVolume({ name: 'db' })).spec.policy.failureMode, 'hard');
  const node = await client.getNode({ name: 'n1' });
  const version = node.metadata.resourceVersion;
  const labelled = { name: 'n1', set: { rack: 'r1' }, remove: [], resourceVersion: version };
  t.match((await rig.during(client.labelNode(labelled))).metadata.labels, { rack: 'r1' });
  t.match(await errorOf(rig.during(client.stopScrub({ volume: '', resourceVersion: 4 }))), {
    code: 'INVALID_ARGUMENT',
  });
});

t.test('of two changes with one version only one is made, whatever their timing', async (t) => {
  const { rig, client } = await open(t);
  const others = rig.client([rig.node(1).api]);
  for (let round = 0; round < 5; round++) {
    const { metadata } = await client.getNode({ name: 'n2' });
    const change = (by: string) => ({
      name: 'n2',
      set: { by },
      remove: [],
      resourceVersion: metadata.resourceVersion,
    });
    const both = await rig.during(
      Promise.allSettled([client.labelNode(change('a')), others.labelNode(change('b'))]),
    );
    t.same(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  }
});

t.test('the same request again is answered the same, and nothing is done twice', async (t) => {
  const { rig, client } = await open(t, 4);
  const elsewhere = rig.client([rig.node(2).api]);
  await rig.during(client.createVolume(request));
  const update = { name: 'db', policy: { ioTimeoutMs: 5_000 }, requestId: 'u-1' };
  const answer = await rig.during(client.updateVolume(update));
  await rig.during(client.updateVolume({ name: 'db', policy: { ioTimeoutMs: 9_000 } }));
  rig.cluster.setLeader(rig.node(1).id);
  const again = await rig.during(elsewhere.updateVolume(update));
  t.equal(again.spec.policy.ioTimeoutMs, 5_000, 'the first answer, on another node');
  t.equal(again.metadata.resourceVersion, answer.metadata.resourceVersion);
  t.equal((await client.getVolume({ name: 'db' })).spec.policy.ioTimeoutMs, 9_000, 'not undone');

  const move = { name: 'db', replica: 'n1', node: 'n4', disk: '', requestId: 'm-1' };
  await rig.during(client.moveReplica(move));
  await rig.during(elsewhere.moveReplica(move));
  await rig.until(async () => {
    const { status } = await client.getVolume({ name: 'db' });
    return status.health === 'healthy' && status.replicas.length === 3;
  });

  const other = await errorOf(rig.during(client.deleteVolume({ name: 'db', requestId: 'u-1' })));
  t.match(other, { code: 'INVALID_ARGUMENT', message: /was used for another request/ });
  for (const requestId of ['a b', '-x', 'x'.repeat(129)]) {
    const error = await errorOf(rig.during(client.detachVolume({ name: 'db', requestId })));
    t.match(error, { code: 'INVALID_ARGUMENT', message: /request id .* is not valid/ });
  }
});

t.test('an id that has made something makes nothing else', async (t) => {
  const { rig, client } = await open(t);
  const create = { ...request, requestId: 'c-1' };
  const { metadata } = await rig.during(client.createVolume(create));
  await rig.during(client.resizeVolume({ name: 'db', sizeBytes: 2 ** 31 }));
  t.equal((await rig.during(client.createVolume(create))).metadata.id, metadata.id, 'grown since');
  const used = { code: 'INVALID_ARGUMENT', message: /"[cs]-1" was used for another request/ };
  const larger = { ...create, sizeBytes: 2 ** 31 };
  t.match(await errorOf(rig.during(client.createVolume(larger))), used);
  const clone = { name: 'db', source: 'db', snapshot: '', sizeBytes: 0, labels: {} };
  t.match(await errorOf(rig.during(client.cloneVolume({ ...clone, requestId: 'c-1' }))), used);
  const snapshot = { volume: 'db', selector: {}, name: 's1', labels: {}, requestId: 's-1' };
  await rig.during(client.createSnapshot(snapshot));
  await rig.during(client.createSnapshot(snapshot));
  const other = { ...snapshot, name: 's2' };
  t.match(await errorOf(rig.during(client.createSnapshot(other))), used);
  t.equal(
    (await rig.during(client.createVolume({ ...create, requestId: 'c-2', name: 'x' }))).metadata
      .name,
    'x',
  );
});

t.test('a deletion that is repeated never takes the next volume of that name', async (t) => {
  const { rig, client } = await open(t);
  const first = await rig.during(client.createVolume(request));
  const remove = { name: 'db', requestId: 'd-1' };
  const { keptUntilMs } = await rig.during(client.deleteVolume(remove));
  const second = await rig.during(client.createVolume({ ...request, requestId: 'c-2' }));
  t.not(second.metadata.id, first.metadata.id);
  t.same(await rig.during(client.deleteVolume(remove)), { keptUntilMs });
  t.equal((await client.getVolume({ name: 'db' })).metadata.id, second.metadata.id);
});

t.test('a request that was refused is a new one when it is sent again', async (t) => {
  const { rig, client } = await open(t);
  const attach = { name: 'db', node: 'n1', requestId: 'a-1' };
  t.equal((await errorOf(rig.during(client.attachVolume(attach)))).code, 'NOT_FOUND');
  await rig.during(client.createVolume(request));
  t.equal((await rig.during(client.attachVolume(attach))).status.primary?.node, 'n1');
  await rig.during(client.attachVolume(attach));
  const add = { node: 'n1', path: '/more', tag: '', requestId: 'disk-1' };
  const disk = await rig.during(client.addDisk(add));
  t.equal((await rig.during(client.addDisk(add))).metadata.id, disk.metadata.id);
});

/** Every way in which a node may die within a change, by the number of its writes that got through. */
t.test('a plan that was refused is carried out under the same id once it is wanted', async (t) => {
  const { rig, client } = await open(t);
  await rig.during(client.createVolume(request));
  const order = { name: 'n1', verb: 'evacuate' as const, requestId: 'evacuate-n1' };
  t.equal((await errorOf(rig.during(client.orderNode(order)))).code, 'UNSAFE_PLAN');
  await rig.during(client.orderNode({ ...order, force: true }));
  t.ok((await client.getNode({ name: 'n1' })).spec.evacuate);
});

t.test(
  'the first write of a call compares the version also when its service read later',
  async (t) => {
    const written: Transaction[] = [];
    const store = scopedStore({
      transact: (transaction: Transaction) => {
        written.push(transaction);
        return Promise.resolve({ succeeded: true, revision: 9 });
      },
    } as unknown as ClusterStore);
    const scope = { objectKey: '/a', expected: 5, mark: null, isMade: false, isOver: false };
    const writeAt = (modRevision: number) =>
      inChangeScope({ ...scope }, () =>
        store.transact({
          compare: [{ key: '/a', modRevision }],
          operations: [{ type: 'delete', key: '/a' }],
        }),
      );
    t.match(await errorOf(writeAt(7)), { code: 'CONFLICT', details: { expected: '5' } });
    t.same(await writeAt(4), { succeeded: false, revision: 0 }, 'it reads again');
    t.same(written, []);
    t.match(await writeAt(5), { succeeded: true });
  },
);

t.test('the node dies after any of its writes: the repetition makes the change once', async (t) => {
  for (const writes of [0, 1, 2, 3]) {
    const { rig } = await open(t);
    const dying = rig.node(0);
    rig.cluster.setLeader(rig.node(1).id);
    const client = rig.client([rig.node(2).api]);
    const { metadata } = await rig.during(client.createVolume(request));
    await rig.during(client.updateVolume({ name: 'db', policy: { ioTimeoutMs: 1_000 } }));
    const store = rig.cluster.store(dying.id);
    const transact = store.transact.bind(store);
    let left = writes;
    store.transact = (transaction, options) => {
      const isMine = transaction.operations.some(
        ({ key }) => key.startsWith(requestsPrefix) || key.includes(metadata.id),
      );
      if (!isMine) return transact(transaction, options);
      if (left === 0) return Promise.reject(new StorError('UNAVAILABLE', 'dead'));
      left -= 1;
      return transact(transaction, options);
    };
    const change = { name: 'db', policy: { ioTimeoutMs: 5_000 }, requestId: 'x' };
    await rig.during(
      rig
        .client([dying.api])
        .updateVolume(change)
        .catch(() => null),
    );
    await rig.kill(dying);
    // somebody else changes it meanwhile, when the change is known to be made
    const isMade = writes >= 2;
    if (isMade)
      await rig.during(client.updateVolume({ name: 'db', policy: { ioTimeoutMs: 7_000 } }));
    await rig.during(client.updateVolume(change));
    const { ioTimeoutMs } = (await client.getVolume({ name: 'db' })).spec.policy;
    t.equal(ioTimeoutMs, isMade ? 7_000 : 5_000, `after ${writes} writes`);
    const removal = { name: 'db', requestId: 'y' };
    const removed = await rig.during(client.deleteVolume(removal));
    t.same(await rig.during(client.deleteVolume(removal)), removed);
  }
});

t.test('old requests are forgotten, and never more than so many kept', async (t) => {
  const { rig, client } = await open(t);
  const store = rig.cluster.store(rig.node(0).id);
  const count = async () => (await store.list(requestsPrefix, { local: true })).items.length;
  const value = (sinceMs: number) =>
    new TextEncoder().encode(JSON.stringify({ hash: '', objectId: '', state: 'made', sinceMs }));
  const nowMs = rig.clock.wallMs();
  for (let i = 0; i < maxRequests + 20; i += 100) {
    await store.transact({
      compare: [],
      operations: Array.from({ length: 100 }, (_, j) => ({
        type: 'put' as const,
        key: `${requestsPrefix}r${i + j}`,
        value: value(i + j < 7 ? nowMs - requestMemoryMs - 1 : nowMs + i + j),
      })),
    });
  }
  await rig.until(async () => (await count()) === maxRequests);
  t.equal(await store.get(`${requestsPrefix}r3`, { local: true }), null);
  await rig.during(client.createVolume(request));
  await rig.during(client.detachVolume({ name: 'db', requestId: 'z' }));
  t.ok(await store.get(`${requestsPrefix}z`, { local: true }));
});

t.test('more old requests than etcd takes at once are forgotten too', async (t) => {
  const keys = new Set(Array.from({ length: 300 }, (_, i) => `${requestsPrefix}r${i}`));
  const old = new TextEncoder().encode('{"hash":"","objectId":"","state":"made","sinceMs":1}');
  const store = {
    list: () =>
      Promise.resolve({ items: [...keys].map((key) => ({ key, value: old, modRevision: 1 })) }),
    transact: async (transaction: Transaction) => {
      checkEtcdTransaction(transaction, '');
      for (const { key } of transaction.operations) keys.delete(key);
      return { succeeded: true, revision: 2 };
    },
  } as unknown as ClusterStore;
  const ledger = new RequestLedger({ store, clock: systemClock, logger: silentLogger });
  await ledger.trim();
  ledger.close();
  t.equal(keys.size, 0);
});

t.test('a request reads the same to nodes that know more or fewer empty fields', async (t) => {
  const value = fc.oneof(fc.string(), fc.integer(), fc.boolean(), fc.constant(null));
  const empty = fc.constantFrom('', 0, false, null, undefined, [], {});
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), value),
      fc.dictionary(fc.string(), empty),
      (known, more) => {
        t.equal(requestText('m', { ...more, ...known }), requestText('m', { ...known }));
      },
    ),
    { numRuns: 100 },
  );
  t.not(requestText('m', { a: 1 }), requestText('m', { a: 2 }));
  t.equal(requestText('m', { a: 1, requestId: 'x' }), requestText('m', { a: 1 }));
  t.ok(Object.keys(changeRules).length > 20);
});
