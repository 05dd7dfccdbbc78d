import t from 'tap';
import { diskUses } from '../src/core/placement/disk-use.ts';
import { cloneRecord } from '../src/core/volume/clone-volume.ts';
import { growthBegun } from '../src/core/volume/grow-volume.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { SnapshotRecord, StoredVolume } from '../src/resources/records.ts';
import { clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

const snapshot: SnapshotRecord = {
  ...{ id: 's-1', volumeId: 'v-db', name: 's', labels: {}, createdAtMs: 0, sizeBytes: 0 },
  ...{ state: 'ready', groupId: '', pausedMs: 0, message: '', requestId: '', isHidden: false },
  dropped: [],
};

function limit(state: ClusterState, overprovisionPercent: number): void {
  const value = { overprovisionPercent, repairReservePercent: 10 };
  state.settings = { value, modRevision: 1 };
}

function sized(volume: StoredVolume, sizeBytes: number, segmentBytes: number): StoredVolume {
  return { ...volume, spec: { ...volume.spec, sizeBytes, segmentBytes } };
}

let made = 0;
function clone(state: ClusterState, source: StoredVolume, sizeBytes = 0): StoredVolume {
  const order = { name: 'copy', sizeBytes, labels: {}, requestId: '' };
  const newReplicaId = (): string => `r-${made++}`;
  const context = { state, volumeId: 'v-copy', wallMs: 1, newReplicaId };
  return cloneRecord(source, { ...snapshot, sizeBytes: source.spec.sizeBytes }, order, context);
}

t.test('a clone is promised as much as a new volume, so the same limits hold', async (t) => {
  // disks of 100 GiB
  const state = clusterOf({ a: {}, b: {} });
  const source = sized(volumeOn(['a', 'b']), 40 * gib, 64 * gib);
  put(state, source);
  limit(state, 100);
  t.equal(clone(state, source).spec.sizeBytes, 40 * gib, '80 of 100 GiB');
  t.throws(() => clone(state, source, 61 * gib), {
    code: 'NO_SPACE',
    message:
      /^volume db cannot be cloned with 61GiB: node a, where a clone must lie beside its source, has no disk with room: 101GiB would be promised on \/disk\/a, and 100GiB may be .*pool set/,
  });
  limit(state, 200);
  t.ok(clone(state, source, 61 * gib));

  // the second disk alone is full
  const reserve = clusterOf({ a: {}, b: { freeBytes: 9 * gib } });
  put(reserve, source);
  t.throws(() => clone(reserve, source), {
    code: 'NO_SPACE',
    message: /node b, .* 10GiB of them \(10%\) are kept to rebuild lost replicas/,
  });
});

t.test('the segments of a clone on one disk count together', async (t) => {
  const state = clusterOf({ a: {} });
  const one = sized(volumeOn(['a']), 30 * gib, 10 * gib);
  const [first] = one.status.segments;
  if (!first) throw new Error('no segment');
  const segments = [0, 1, 2].map((index) => ({ ...first, index }));
  const source = { ...one, status: { ...one.status, segments } };
  put(state, source);
  limit(state, 100);
  t.ok(clone(state, source));
  t.ok(clone(state, source, 70 * gib));
  t.throws(() => clone(state, source, 71 * gib), { code: 'NO_SPACE' });
  limit(state, 55 + 1);
  // the second of its segments does not fit any more
  t.throws(() => clone(state, source), { message: /60GiB would be promised.* 56GiB may be/ });
});

t.test('what a volume is growing to counts while it grows', async (t) => {
  const state = clusterOf({ a: {} });
  const volume = sized(volumeOn(['a']), 10 * gib, 64 * gib);
  put(state, volume);
  limit(state, 100);
  const context = { state, wallMs: 1, newReplicaId: () => `r-${made++}` };
  // within its last segment, and by another one
  t.throws(() => growthBegun(volume, 101 * gib, context), { code: 'NO_SPACE' });
  const other = { ...volume, metadata: { ...volume.metadata, id: 'v-other', name: 'other' } };
  put(state, other);
  t.throws(() => growthBegun(volume, 91 * gib, context), { code: 'NO_SPACE' });
  const begun = growthBegun(volume, 60 * gib, context);
  if (!begun) throw new Error('nothing begun');
  put(state, begun);
  t.equal(diskUses(state).get('d-a')?.provisionedBytes, 70 * gib);
  t.throws(() => growthBegun(other, 41 * gib, context), {
    code: 'NO_SPACE',
    message: /101GiB would be promised on \/disk\/a, and 100GiB may be/,
  });
  t.ok(growthBegun(other, 40 * gib, context));
});
