import { defaultPolicy } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import type { Test } from 'tap';
import { LocalReconciler } from '../src/agent/local-reconciler.ts';
import { SettingsPush } from '../src/agent/settings-push.ts';
import type { AgentPort, LocalReplica } from '../src/agent-port.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { volumeKey } from '../src/resources/keys.ts';
import { decodeVolume, encodeRecord } from '../src/resources/records.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import type { ClusterStore } from '../src/cluster-store.ts';
import type { StateCache } from '../src/resources/state-cache.ts';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';
import { clusterOf, put, volumeOn } from './volume-fixture.ts';

/** A node with replica `r-a`, which the records call removed; the set is at revision 5. */
async function openNode(t: Test, view: LocalReplica['setView']) {
  const clock = new FakeClock();
  const cluster = new MemoryCluster({ ids: ['a'], clock, random: new SeededRandom(1) });
  t.teardown(() => cluster.close());
  const store = cluster.store('a');
  const volume = volumeOn(['b', 'c']);
  const [segment] = volume.status.segments;
  if (!segment) throw new Error('no segment');
  segment.setRevision = 5;
  segment.removed = [{ id: 'r-a', nodeId: 'a', diskId: 'd-a' }];
  const agent = FakeAgent.withDisk('d-a');
  const replica = { replicaId: 'r-a', volumeId: volume.metadata.id, segment: 0, sizeBytes: 4096 };
  await agent.createReplica('d-a', replica);
  const replicas = agent.replicas.bind(agent);
  agent.replicas = async () =>
    (await replicas()).map((each) => (view ? { ...each, setView: view } : each));
  const state = emptyState();
  put(state, volume);
  const write = async (record: StoredVolume): Promise<void> => {
    const key = volumeKey(record.metadata.id);
    const operation = { type: 'put' as const, key, value: encodeRecord(record) };
    await store.transact({ compare: [], operations: [operation] });
  };
  await write(volume);
  const reconciler = new LocalReconciler({
    store,
    cache: { state } as unknown as StateCache,
    agent,
    nodeId: 'a',
    clock,
    logger: silentLogger,
    changed: () => {},
    replicasChanged: () => {},
  });
  const look = async (): Promise<boolean> => {
    reconciler.reconcile();
    await reconciler.close();
    await reconciler.lookForOrphans();
    return agent.replicaList.has('r-a');
  };
  return { look, volume, segment, state, write, reconciler, store };
}

t.test('a removed replica is deleted, unless it knows better than the records', async (t) => {
  const view = (setRevision: number, members: string[]) => ({ epoch: 3, setRevision, members });
  const cases: [string, LocalReplica['setView'], boolean][] = [
    ['it never served', undefined, false],
    ['it left the set that it knows', view(4, ['r-a', 'r-b']), false],
    ['it knows a newer set, without it', view(9, ['r-b', 'r-c']), false],
    ['it knows a newer set, with it', view(9, ['r-a', 'r-b']), true],
    ['it knows another set of that revision', view(5, ['r-a']), true],
  ];
  for (const [what, known, stays] of cases) {
    await t.test(what, async (t) => {
      const { look, reconciler, store } = await openNode(t, known);
      t.equal(await look(), stays);
      t.equal(reconciler.orphanCount, 0, 'the records know it');
      const report = await store.get('/stor/replica-status/r-a');
      t.equal(report === null, stays);
    });
  }
});

t.test('an undone creation deletes no replica that has served', async (t) => {
  const view = { epoch: 2, setRevision: 1, members: ['r-a', 'r-b'] };
  const failure = { code: 'UNAVAILABLE', message: 'node b went down before it had its replica' };
  const cases: [string, LocalReplica['setView'], StoredVolume['failure'], boolean][] = [
    ['it never served', undefined, failure, false],
    ['it served: the records were restored from before its creation ended', view, failure, true],
    ['it served, and an operator deleted the volume', view, null, false],
  ];
  for (const [what, known, why, stays] of cases) {
    await t.test(what, async (t) => {
      const { look, state, volume } = await openNode(t, known);
      state.volumes.clear();
      const status = { ...volumeOn(['a', 'b']).status, phase: 'deleting' as const };
      const value = { ...volume, status, failure: why };
      state.deleted.set(volume.metadata.id, { value, modRevision: 9 });
      t.equal(await look(), stays);
    });
  }
});

t.test('what is seen here may be old: the store is asked before anything is deleted', async (t) => {
  const { look, volume, segment, write } = await openNode(t, undefined);
  const back = { id: 'r-a', nodeId: 'a', diskId: 'd-a', state: 'ready' as const };
  const replicas = [...segment.replicas, back];
  const wanted = { ...segment, replicas, removed: [], inSync: ['r-a', 'r-b'] };
  await write({ ...volume, status: { ...volume.status, segments: [wanted] } });
  t.equal(await look(), true);
  const torn = { ...segment, inSync: ['r-a', 'r-b'] };
  await write({ ...volume, status: { ...volume.status, segments: [torn] } });
  t.equal(await look(), true, 'a member is never deleted, whatever else the record says');
});

t.test('a replica that is not on its disk is reported, after a second look', async (t) => {
  const clock = new FakeClock();
  const cluster = new MemoryCluster({ ids: ['a'], clock, random: new SeededRandom(1) });
  t.teardown(() => cluster.close());
  const store = cluster.store('a');
  const agent = FakeAgent.withDisk('d-a');
  const state = emptyState();
  const volume = volumeOn(['a', 'b']);
  put(state, volume);
  const key = volumeKey('v-db');
  const write = (record: StoredVolume) =>
    store.transact({
      compare: [],
      operations: [{ type: 'put', key, value: encodeRecord(record) }],
    });
  await write(volume);
  const reconciler = new LocalReconciler({
    store,
    cache: { state } as unknown as StateCache,
    agent,
    nodeId: 'a',
    clock,
    logger: silentLogger,
    changed: () => {},
    replicasChanged: () => {},
  });
  const look = async (): Promise<string | null> => {
    await reconciler.reportKnownFailures();
    const item = await store.get('/stor/replica-status/r-a');
    return item && new TextDecoder().decode(item.value);
  };
  const replica = { replicaId: 'r-a', volumeId: 'v-db', segment: 0, sizeBytes: 4096 };
  await agent.createReplica('d-a', replica);
  t.equal(await look(), null, 'it is there');
  await agent.deleteReplica('d-a', 'r-a');
  t.equal(await look(), null, 'once is not enough: what is seen here may be old');
  const disk = agent.diskList[0];
  if (!disk) throw new Error('no disk');
  disk.state = 'failed';
  t.equal(await look(), null, 'a disk that is away for a while says nothing of its replicas');
  disk.state = 'online';
  t.equal(await look(), null);
  await write({ ...volume, status: { ...volume.status, segments: [] } });
  t.equal(await look(), null, 'the store knows better: it was removed');
  await write(volume);
  t.match(await look(), /"state":"failed","code":"NOT_FOUND"/);
});

t.test('primaries are told what is new, once, and again when they could not be', async (t) => {
  const state: ClusterState = clusterOf({ a: {}, b: {} });
  const volume = volumeOn(['a', 'b'], { holder: { nodeId: 'a' } });
  const versioned = { value: volume, modRevision: 1 };
  state.volumes.set('v-db', versioned);
  put(state, volumeOn(['a', 'b'], { name: 'other', holder: { nodeId: 'b' } }));
  const told: { version: number; replicas: string[] }[] = [];
  let fails = false;
  const agent = {
    updateQosClasses: async () => {},
    updateVolume: async ({
      resourceVersion,
      segments,
    }: Parameters<AgentPort['updateVolume']>[0]) => {
      if (fails) throw new Error('the lane is busy');
      const replicas = segments.flatMap((segment) => segment.replicas.map(({ id }) => id));
      told.push({ version: resourceVersion, replicas });
    },
  } as unknown as AgentPort;
  const push = new SettingsPush({
    store: {} as ClusterStore,
    clock: new FakeClock(),
    trouble: () => null,
    cache: { state } as unknown as StateCache,
    agent,
    logger: silentLogger,
    nodeId: 'a',
    agentInstance: 'i-a',
  });
  const change = (record: StoredVolume, modRevision: number): void => {
    state.volumes.set('v-db', { value: record, modRevision });
    push.push();
  };
  push.push();
  push.push();
  t.same(told, [{ version: 1, replicas: ['r-a', 'r-b'] }]);
  const [segment] = volume.status.segments;
  if (!segment) throw new Error('no segment');
  const shrunk = { ...segment, setRevision: 2, inSync: ['r-a'] };
  change({ ...volume, status: { ...volume.status, segments: [shrunk] } }, 2);
  t.equal(told.length, 1, 'the set is what the primary itself has changed');
  fails = true;
  const more = { ...segment, replicas: segment.replicas.slice(0, 1), inSync: ['r-a'] };
  change({ ...volume, status: { ...volume.status, segments: [more] } }, 3);
  await push.close();
  t.equal(told.length, 1);
  fails = false;
  push.push();
  t.same(told[1], { version: 3, replicas: ['r-a'] });
  push.repeat();
  t.equal(told.length, 3, 'a primary that was only starting may have missed it');
  await push.close();
});

t.test('records from before policies have the defaults', async (t) => {
  const volume = volumeOn(['a', 'b', 'c']);
  const { policy: _policy, ...spec } = volume.spec;
  const old = decodeVolume('k', encodeRecord({ ...volume, spec }));
  t.same(old.spec.policy, defaultPolicy(3));
  const partly = { ...volume, spec: { ...spec, policy: { failureMode: 'hard' } } };
  t.same(decodeVolume('k', encodeRecord(partly)).spec.policy, {
    ...defaultPolicy(3),
    failureMode: 'hard',
  });
});
