import { defaultPolicy, StorError } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import { holderLookMs, maxLooks } from '../src/agent/attachments.ts';
import { LocalReconciler } from '../src/agent/local-reconciler.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import { replicaReportKey, volumeKey, volumesPrefix } from '../src/resources/keys.ts';
import { encodeRecord } from '../src/resources/records.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import type { StateCache } from '../src/resources/state-cache.ts';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';
import { Rig } from './control-plane-rig.ts';

const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} };
const waitMs = 8_000;

t.test('an attachment that ends while it is made manual is granted anew (I6)', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume(request));
  const { agent, control } = rig.node(0);
  const grant = await control.acquire('db', 'auto', { waitMs });
  await agent.attach(grant);
  const attach = agent.attach.bind(agent);
  agent.attach = async (next) => {
    agent.attach = attach;
    // the idle attachment was being given back when the order came
    await agent.detach(grant.volumeId, grant.epoch, false);
    throw new StorError('STALE_EPOCH', `epoch ${next.epoch} is over here`);
  };
  const volume = await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  t.match(volume.status, { primary: { node: 'n1', mode: 'manual' }, epoch: grant.epoch + 1 });
  t.equal(agent.attached.get(grant.volumeId)?.grant.epoch, grant.epoch + 1);
});

t.test('an attachment whose release was lost does not keep the volume unrepaired', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume(request));
  const { agent, control } = rig.node(0);
  const { volumeId, epoch, segments } = await control.acquire('db', 'auto', { waitMs });
  const inSync = segments[0]?.inSync.slice(0, 2) ?? [];
  await control.proposeSet({ volumeId, segment: 0, epoch, setRevision: 1, inSync });
  // its primary ended while the store could not be reached: nobody serves it, the record names n1
  t.equal(agent.attached.size, 0);
  await rig.until(() => rig.nodes.some((node) => node.agent.attached.has(volumeId)));
  const holder = rig.nodes.find((node) => node.agent.attached.has(volumeId));
  t.match(holder?.agent.attached.get(volumeId)?.grant, { mode: 'repair', previousReleased: false });
});

t.test('an attachment that is served is not taken for a lost one', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume(request));
  const { agent, control } = rig.node(0);
  const grant = await control.acquire('db', 'auto', { waitMs });
  await agent.attach(grant);
  for (let i = 0; i < 4_000; i++) await rig.turn();
  const { status } = await client.getVolume({ name: 'db' });
  t.match(status, { primary: { node: 'n1' }, epoch: grant.epoch });
});

t.test('a failure that could not be reported is reported later (I7)', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume(request));
  const replica = [...rig.node(1).agent.replicaList.values()][0];
  if (!replica) throw new Error('no replica');
  replica.failure = 'fdatasync failed with EIO';
  const disk = rig.node(2).agent.diskList[0];
  if (!disk) throw new Error('no disk');
  Object.assign(disk, { state: 'failed', message: 'it is not mounted' });
  const states = async (): Promise<string[]> => {
    const { status } = await client.getVolume({ name: 'db' });
    return status.replicas.filter((each) => each.state === 'failed').map((each) => each.node);
  };
  await rig.until(async () => (await states()).length > 0);
  for (let i = 0; i < 2_000; i++) await rig.turn();
  t.same(await states(), ['n2'], 'a disk that cannot be opened now may come back');
  disk.isLost = true;
  await rig.until(async () => (await states()).length === 2);
  t.same((await states()).sort(), ['n2', 'n3']);
});

t.test('a replica that was reported is never made again, whatever is seen here', async (t) => {
  const clock = new FakeClock();
  const cluster = new MemoryCluster({ ids: ['n-1'], clock, random: new SeededRandom(1) });
  t.teardown(() => cluster.close());
  const store = cluster.store('n-1');
  const id = 'v-0000000000000001';
  const replica = { id: 'r-1', nodeId: 'n-1', diskId: 'd-1', state: 'creating' as const };
  const volume: StoredVolume = {
    metadata: { id, name: 'db', labels: {}, createdAtMs: 0, resourceVersion: 0 },
    spec: { sizeBytes: 4096, replicas: 1, policy: defaultPolicy(1) },
    status: {
      phase: 'creating',
      message: '',
      epoch: 0,
      attachment: null,
      cleanRelease: true,
      segments: [{ index: 0, setRevision: 0, replicas: [replica], inSync: [] }],
    },
    requestId: '',
    failure: null,
  };
  const report = {
    replicaId: 'r-1',
    volumeId: id,
    nodeId: 'n-1',
    state: 'ready',
    code: '',
    message: '',
  };
  const put = async (key: string, record: object): Promise<void> => {
    const operation = { type: 'put' as const, key, value: encodeRecord(record) };
    await store.transact({ compare: [], operations: [operation] });
  };
  await put(volumeKey(id), volume);
  // what this member sees is old: it has the volume and not the report
  const state = emptyState();
  state.volumes.set(id, { value: volume, modRevision: 1 });
  const agent = new FakeAgent();
  const reconciler = new LocalReconciler({
    store,
    cache: { state } as unknown as StateCache,
    agent,
    nodeId: 'n-1',
    clock,
    logger: silentLogger,
    changed: () => {},
    replicasChanged: () => {},
  });
  await put(replicaReportKey('r-1'), report);
  reconciler.reconcile();
  await reconciler.close();
  t.equal(agent.replicaList.size, 0);
  await store.transact({
    compare: [],
    operations: [{ type: 'delete', key: replicaReportKey('r-1') }],
  });
  reconciler.reconcile();
  await reconciler.close();
  t.equal(agent.replicaList.size, 1, 'one that was not is made');
});

t.test(
  'clients of many volumes wait for a dead holder, and the store is not asked by each all the time',
  async (t) => {
    const rig = await Rig.open();
    t.teardown(() => rig.close());
    const client = rig.client();
    const names = Array.from({ length: 40 }, (_, i) => `db-${i}`);
    const holder = rig.node(0);
    for (const name of names) {
      await rig.during(client.createVolume({ ...request, name, replicas: 1 }));
      await holder.agent.attach(await holder.control.acquire(name, 'auto', { waitMs }));
    }
    const { leaseUntilMs } = holder.agent;
    rig.cluster.setLeader(rig.node(1).id);
    await rig.kill(holder);
    const other = rig.node(2);
    const store = rig.cluster.store(other.id);
    const get = store.get.bind(store);
    let looks = 0;
    let open = 0;
    let most = 0;
    store.get = async (key, options) => {
      if (!key.startsWith(volumesPrefix) || options?.local === true) return get(key, options);
      looks += 1;
      open += 1;
      most = Math.max(most, open);
      try {
        return await get(key, options);
      } finally {
        open -= 1;
      }
    };
    const beganMs = rig.clock.monotonicMs();
    // several clients of each
    const wanted = [...names, ...names].map((name) =>
      other.control.acquire(name, 'auto', { waitMs }),
    );
    const grants = await rig.during(Promise.all(wanted));
    const nowMs = rig.clock.monotonicMs();
    t.ok(grants.every(({ epoch }) => epoch >= 2));
    t.ok(nowMs >= leaseUntilMs, 'not before the lease has ended');
    const seconds = Math.ceil((nowMs - beganMs) / holderLookMs);
    t.ok(seconds >= 3, 'they had to wait');
    // one at the beginning, one in each second, and those around the grant
    t.ok(looks <= names.length * (seconds + 5), `${looks} looks in ${seconds} s`);
    t.ok(most <= maxLooks, `${most} at once`);
  },
);
