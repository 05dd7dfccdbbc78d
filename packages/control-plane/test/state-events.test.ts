/** What is told of snapshots, from how their records change. */
import t from 'tap';
import { StateEvents } from '../src/core/events/state-events.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { SnapshotRecord } from '../src/resources/records.ts';
import { clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

const snapshot: SnapshotRecord = {
  id: 's-0000000000000001',
  volumeId: 'v-db',
  name: 'monday',
  labels: {},
  createdAtMs: 5,
  sizeBytes: gib,
  state: 'creating',
  groupId: '',
  pausedMs: 0,
  message: '',
  requestId: '',
  isHidden: false,
  dropped: [],
};

function setSnapshot(state: ClusterState, change: Partial<SnapshotRecord> | null): void {
  const value = { ...snapshot, ...change };
  if (change) state.snapshots.set('v-db', new Map([[value.id, { value, modRevision: 2 }]]));
  else state.snapshots.delete('v-db');
}

t.test('snapshots that are taken, fail, or go', (t) => {
  const state = clusterOf({ a: {} });
  put(state, volumeOn(['a']));
  const events = new StateEvents();
  t.same(events.look(state), []);
  setSnapshot(state, {});
  t.same(events.look(state), [], 'it is only begun');
  setSnapshot(state, { state: 'ready', pausedMs: 12 });
  t.match(events.look(state), [
    {
      reason: 'snapshot-created',
      type: 'normal',
      volumeId: 'v-db',
      object: { kind: 'snapshot', name: 'db@monday' },
      message: /12 ms/,
    },
  ]);
  t.same(events.look(state), []);
  setSnapshot(state, { state: 'deleting' });
  t.same(events.look(state), []);
  setSnapshot(state, null);
  t.match(events.look(state), [{ reason: 'snapshot-deleted', object: { name: 'db@monday' } }]);
  setSnapshot(state, {});
  events.look(state);
  setSnapshot(state, { state: 'deleting', message: 'too slow' });
  t.match(events.look(state), [
    { reason: 'snapshot-failed', type: 'warning', message: /too slow/ },
  ]);
  setSnapshot(state, null);
  t.same(events.look(state), [], 'which was told');
  setSnapshot(state, { state: 'ready', isHidden: true });
  t.same(events.look(state), [], 'one of a clone is nobody’s');
  setSnapshot(state, null);
  t.same(events.look(state), []);
  setSnapshot(state, { state: 'ready' });
  t.same(new StateEvents().look(state), [], 'what was there before has not happened now');
  t.end();
});
