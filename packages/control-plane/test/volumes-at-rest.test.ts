import t from 'tap';
import { Controllers } from '../src/core/controllers/controllers.ts';
import { maxLooksAgain, restMs } from '../src/core/controllers/volumes-at-rest.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { planAt } from './plan-at.ts';
import { clusterOf, put, volumeOn } from './volume-fixture.ts';

const count = 600;

/** Many whole volumes on three of four nodes, which a leader has looked at. */
function atRest(change: (volume: StoredVolume) => StoredVolume = (volume) => volume): {
  state: ClusterState;
  controllers: Controllers;
} {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  for (let i = 0; i < count; i += 1) {
    put(state, change(volumeOn(['a', 'b', i % 2 === 0 ? 'c' : 'd'], { name: `v${i}` })));
  }
  const controllers = new Controllers();
  planAt(controllers, state, 0);
  return { state, controllers };
}

/** How many volumes a look judged, and what it planned. */
function look(controllers: Controllers, state: ClusterState, nowMs: number) {
  const before = controllers.looks;
  const actions = planAt(controllers, state, nowMs);
  return { looks: controllers.looks - before, types: actions.map(({ type }) => type) };
}

t.test('a look judges the volumes of which something is new, and no other', async (t) => {
  const { state, controllers } = atRest();
  t.same(look(controllers, state, 1_000), { looks: 0, types: [] });
  put(state, volumeOn(['a', 'b', 'd'], { name: 'v1' }));
  t.same(look(controllers, state, 2_000), { looks: 1, types: [] }, 'a record was written');
  t.same(look(controllers, state, 3_000), { looks: 0, types: [] });
  state.leases.delete('d');
  // those of node d are looked at as long as it is away
  t.equal(look(controllers, state, 4_000).looks, count / 2);
  t.equal(look(controllers, state, 5_000).looks, count / 2);
});

t.test('how full a disk is concerns no volume at rest, what else it says does', async (t) => {
  const { state, controllers } = atRest();
  const disk = state.disks.get('d-c');
  if (!disk) throw new Error('no disk');
  const write = (more: object): void => {
    state.disks.set('d-c', { value: { ...disk.value, ...more }, modRevision: 2 });
  };
  write({ usedBytes: 1, freeBytes: 2, replicaBytes: { 'r-v0-c': 1 } });
  t.equal(look(controllers, state, 1_000).looks, 0);
  write({ evacuate: true });
  const after = look(controllers, state, 2_000);
  t.equal(after.looks, count / 2);
  t.ok(after.types.includes('change-replicas'), 'and some move');
});

t.test('a report of a failure wakes its volume', async (t) => {
  const { state, controllers } = atRest();
  const report = { replicaId: 'r-v7-a', volumeId: 'v-v7', nodeId: 'a', code: 'DISK_FAILED' };
  const value = { ...report, state: 'failed', message: 'dead' };
  state.reports.set('r-v7-a', { value, modRevision: 2 });
  t.same(look(controllers, state, 1_000), { looks: 1, types: ['mark-failed'] });
});

t.test('a volume that is wanted on a node is at rest while it is held there', async (t) => {
  const { state, controllers } = atRest((volume) => ({
    ...volume,
    spec: { ...volume.spec, attachTo: 'a' },
    status: {
      ...volume.status,
      attachment: { nodeId: 'a', agentInstance: 'i-a', epoch: 1, mode: 'manual', sinceMs: 1 },
    },
  }));
  t.equal(look(controllers, state, 1_000).looks, 0);
  const lease = state.leases.get('a');
  if (!lease) throw new Error('no lease');
  // the process was started again: it holds nothing any more
  state.leases.set('a', { value: { ...lease.value, agentInstance: 'i-new' }, modRevision: 2 });
  t.equal(look(controllers, state, 2_000).looks, count);
  t.ok(look(controllers, state, 10_000).types.every((type) => type === 'ask-attach'));
});

t.test('each is looked at again after a while, some at a time', async (t) => {
  const { state, controllers } = atRest();
  t.equal(look(controllers, state, restMs - 1).looks, 0);
  t.equal(look(controllers, state, restMs).looks, maxLooksAgain);
  t.equal(look(controllers, state, restMs + 1).looks, count - maxLooksAgain);
  t.equal(look(controllers, state, restMs + 2).looks, 0);
});

t.test('an order for a node keeps its volumes awake', async (t) => {
  const { state, controllers } = atRest();
  const node = state.nodes.get('c');
  if (!node) throw new Error('no node');
  const spec = { drain: { sinceMs: 1 } };
  state.nodes.set('c', { value: { ...node.value, spec }, modRevision: 2 });
  t.equal(look(controllers, state, 1_000).looks, count / 2);
  t.equal(look(controllers, state, 2_000).looks, count / 2);
});
