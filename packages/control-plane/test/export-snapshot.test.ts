import t from 'tap';
import { exportOf, readySnapshots } from '../src/core/volume/export-snapshot.ts';
import { applyChange } from '../src/resources/cluster-state.ts';
import { snapshotKey } from '../src/resources/keys.ts';
import { clusterOf, volumeOn } from './volume-fixture.ts';

t.test('only a ready snapshot with a name is exported, from the replicas there are', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  const add = (id: string, name: string, more: object): void => {
    const record = { id, volumeId: 'v-1', name, labels: {}, createdAtMs: 1, sizeBytes: 4096 };
    const value = new TextEncoder().encode(JSON.stringify({ ...record, ...more }));
    applyChange(state, { key: snapshotKey('v-1', id), value, modRevision: 1 });
  };
  add('s-0000000000000001', 'monday', { state: 'deleting', createdAtMs: 1 });
  add('s-0000000000000002', 'monday', { state: 'ready', createdAtMs: 5 });
  add('s-0000000000000003', 'tuesday', { state: 'creating', createdAtMs: 6 });
  add('s-0000000000000004', '', { state: 'ready', isHidden: true, createdAtMs: 7 });
  add('s-0000000000000005', 'sunday', { state: 'ready', createdAtMs: 2 });
  const volume = volumeOn(['a', 'b', 'c'], {
    of: { b: { state: 'creating' }, c: { state: 'failed' } },
  });
  volume.metadata.id = 'v-1';
  const find = (snapshot: string): unknown =>
    exportOf({ value: volume, modRevision: 1 }, { volume: 'db', snapshot }, state);
  t.match(find('monday'), {
    name: 'db@monday',
    snapshotId: 's-0000000000000002',
    volumeId: 'v-1',
    sizeBytes: 4096,
    segments: [
      {
        index: 0,
        replicas: [{ replicaId: 'r-a', nodeId: 'a', diskId: 'd-a', host: 'h', port: 3 }],
      },
    ],
  });
  t.equal(
    (find('monday') as { segments: { replicas: unknown[] }[] }).segments[0]?.replicas.length,
    1,
  );
  t.match(find('s-0000000000000005'), { name: 'db@sunday' }, 'by its id too');
  for (const name of ['tuesday', '', 'never', 's-0000000000000001', 's-0000000000000004']) {
    t.throws(() => find(name), { code: 'NOT_FOUND', message: new RegExp(`"db@${name}"`) });
  }
  t.same(
    readySnapshots(state, 'v-1').map(({ name }) => name),
    ['sunday', 'monday'],
    'in the order in which they were taken',
  );
});
