/** What is told of disks and snapshots, from how their records change. */
import t from 'tap';
import { StateEvents } from '../src/core/events/state-events.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { SnapshotRecord } from '../src/resources/records.ts';
import { clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

function setFree(state: ClusterState, disk: string, freeBytes: number, online = true): void {
  const known = state.disks.get(disk);
  if (!known) throw new Error(`no disk ${disk}`);
  const value = { ...known.value, freeBytes, state: online ? 'online' : 'offline' };
  state.disks.set(disk, { value, modRevision: known.modRevision + 1 });
}

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

t.test('a disk that fills up is told once for each level', (t) => {
  const state = clusterOf({ a: {}, b: {} });
  const events = new StateEvents();
  const told = (): string[] =>
    events.look(state).map(({ reason, object }) => `${reason} ${object.id}`);
  t.same(told(), []);
  setFree(state, 'd-a', 8 * gib);
  t.same(told(), ['disk-nearly-full d-a']);
  setFree(state, 'd-a', 7 * gib);
  t.same(told(), []);
  setFree(state, 'd-a', 0);
  t.same(told(), ['disk-full d-a']);
  setFree(state, 'd-a', 8 * gib);
  t.same(told(), [], 'it gets better');
  setFree(state, 'd-a', 60 * gib);
  t.same(told(), []);
  setFree(state, 'd-b', 0, false);
  t.same(told(), [], 'nobody knows how full a disk is that is away');
  setFree(state, 'd-a', 0);
  t.same(told(), ['disk-full d-a'], 'and worse again');
  state.disks.delete('d-a');
  t.same(told(), []);
  t.same(
    new StateEvents().look(clusterOf({ c: { freeBytes: 0 } })).length,
    1,
    'also at first sight',
  );
  t.end();
});

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
