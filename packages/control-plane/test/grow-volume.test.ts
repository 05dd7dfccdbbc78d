import { blockBytes, maxSegments, segmentSizeBytes } from '@stor/protocol';
import type { VolumeReplica } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { Controllers, growthPatienceMs } from '../src/core/controllers/controllers.ts';
import { diskUses } from '../src/core/placement/disk-use.ts';
import { withAllSegments } from '../src/core/placement/place-segments.ts';
import { movedReplica, updatedVolume } from '../src/core/volume/change-volume.ts';
import {
  growthBegun,
  growthDone,
  growthOutcome,
  growthUndone,
  type GrowthContext,
} from '../src/core/volume/grow-volume.ts';
import { placedSegments, segmentSizeOf } from '../src/core/volume/segment-size.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { decodeVolume, encodeRecord, type StoredVolume } from '../src/resources/records.ts';
import { planAt } from './plan-at.ts';
import { clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

let made = 0;

function contextOf(state: ClusterState): GrowthContext {
  return {
    state,
    wallMs: 1_000,
    newReplicaId: () => `r-new-${made++}`,
  };
}

function withSize(volume: StoredVolume, sizeBytes: number, segmentBytes?: number): StoredVolume {
  const { segmentBytes: _old, ...spec } = volume.spec;
  return {
    ...volume,
    spec: { ...spec, sizeBytes, ...(segmentBytes === undefined ? {} : { segmentBytes }) },
  };
}

function segmented(state: ClusterState, sizeBytes: number, segmentBytes: number, replicas: number) {
  const empty = volumeOn([], { replicas, status: { segments: [] } });
  const { newReplicaId } = contextOf(state);
  return withAllSegments(withSize(empty, sizeBytes, segmentBytes), state, newReplicaId);
}

function ready(volume: StoredVolume): StoredVolume {
  const segments = volume.status.segments.map((segment) => ({
    ...segment,
    setRevision: 1,
    replicas: segment.replicas.map((r) => ({ ...r, state: 'ready' as const })),
    inSync: segment.replicas.map(({ id }) => id),
  }));
  return { ...volume, status: { ...volume.status, phase: 'ready', segments } };
}

function report(state: ClusterState, { id, nodeId }: VolumeReplica, said: string): void {
  const message = said === 'failed' ? 'its disk is broken' : '';
  const value = { replicaId: id, volumeId: 'v-db', nodeId, state: said, code: '', message };
  state.reports.set(id, { value, modRevision: 1 });
}

t.test('segments spread over disks, so a volume is larger than any of them', async (t) => {
  const state = clusterOf({ a: { freeBytes: 90 * gib }, b: {}, c: {}, d: {} });
  const volume = segmented(state, 60 * gib + blockBytes, 8 * gib, 2);
  t.equal(volume.status.segments.length, 8);
  const sizes = volume.status.segments.map(({ index }) => segmentSizeOf(volume, index));
  t.same(sizes, [...Array<number>(7).fill(8 * gib), 4 * gib + blockBytes]);
  for (const { replicas } of volume.status.segments) {
    t.equal(new Set(replicas.map(({ nodeId }) => nodeId)).size, 2, 'on two nodes');
  }
  put(state, volume);
  const uses = [...diskUses(state)].map(([id, use]) => [
    id,
    Math.round(use.provisionedBytes / gib),
  ]);
  const [most = 0, ...others] = uses.map(([, use]) => Number(use)).sort((x, y) => y - x);
  t.ok(most > Math.max(...others), 'the one with more room takes more');
  t.ok(Math.min(...others) >= 16, 'and each of the others its part');
});

t.test('grows within its last segment and by others, whatever the sizes', async (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4_000 }),
      fc.integer({ min: 1, max: 4_000 }),
      fc.integer({ min: 1, max: 64 }),
      (blocks, more, regions) => {
        const segmentBytes = regions * 4 * 1024 * 1024;
        const state = clusterOf({ a: {}, b: {}, c: {} });
        const before = ready(segmented(state, blocks * blockBytes, segmentBytes, 2));
        put(state, before);
        const wanted = (blocks + more) * blockBytes;
        const begun = growthBegun(before, wanted - 1, contextOf(state));
        if (!begun) throw new Error('nothing begun');
        const added = begun.status.growth?.segments ?? [];
        if (begun.spec.sizeBytes !== before.spec.sizeBytes) throw new Error('too early');
        for (const segment of added) {
          const bytes = segmentSizeBytes(wanted, segmentBytes, segment.index);
          if (bytes === 0 || segmentSizeOf(begun, segment.index) !== bytes) throw new Error('size');
        }
        const again = decodeVolume('k', encodeRecord(begun));
        const done = growthDone(again, 5_000);
        const total = done.status.segments.reduce(
          (sum, s) => sum + segmentSizeOf(done, s.index),
          0,
        );
        if (total !== wanted || done.spec.sizeBytes !== wanted) throw new Error('the sum');
        if (done.status.segments.some((s, at) => s.index !== at || s.inSync.length !== 2)) {
          throw new Error('segments');
        }
        const undone = growthUndone(begun);
        if (undone.spec.sizeBytes !== before.spec.sizeBytes) throw new Error('undone size');
        const gone = undone.status.segments.flatMap(({ removed = [] }) => removed);
        if (gone.length !== added.length * 2 || gone.some((r) => r.unused !== true)) {
          throw new Error('what was placed is deleted');
        }
      },
    ),
  );
  t.pass();
});

t.test('a volume from before segments keeps its one, however large', async (t) => {
  const state = clusterOf({ a: {}, b: {} });
  const old = withSize(volumeOn(['a', 'b']), 100 * gib);
  put(state, old);
  const begun = growthBegun(old, 101 * gib, contextOf(state));
  if (!begun) throw new Error('nothing begun');
  t.equal(begun.status.growth?.segments.length, 1);
  t.equal(segmentSizeOf(begun, 0), 100 * gib, 'its first one is full');
  const done = growthDone(begun, 1);
  t.equal(done.spec.segmentBytes, 100 * gib, 'said from now on');
  t.same(
    done.status.segments.map(({ index }) => segmentSizeOf(done, index)),
    [100 * gib, gib],
  );
});

t.test('refuses what cannot be, and says why', async (t) => {
  const state = clusterOf({ a: {}, b: {} });
  const volume = withSize(volumeOn(['a', 'b']), gib, gib);
  put(state, volume);
  const context = contextOf(state);
  const begin = (sizeBytes: number, record = volume) => growthBegun(record, sizeBytes, context);
  t.throws(() => begin(gib - blockBytes), { code: 'INVALID_ARGUMENT', message: /smaller/ });
  t.throws(() => begin(65 * 2 ** 40), { code: 'INVALID_ARGUMENT', message: /at most 64TiB/ });
  t.throws(() => begin((maxSegments + 1) * gib), { message: /at most 256 of them, so 256GiB/ });
  t.throws(() => begin(0), { code: 'INVALID_ARGUMENT' });
  t.equal(begin(gib), null, 'it has that size');
  const begun = begin(3 * gib);
  if (!begun) throw new Error('nothing begun');
  t.equal(begin(3 * gib, begun), null, 'it is on its way');
  t.throws(() => begin(2 * gib, begun), { code: 'FAILED_PRECONDITION', message: /to 3GiB: wait/ });
  const creating = { ...volume, status: { ...volume.status, phase: 'creating' as const } };
  t.throws(() => begin(3 * gib, creating), { code: 'UNAVAILABLE' });

  const full = clusterOf({ a: {}, b: { freeBytes: gib / 64 } });
  const small = withSize(volumeOn(['a', 'b']), gib, 4 * gib);
  put(full, small);
  t.throws(() => growthBegun(small, 2 * gib, contextOf(full)), {
    code: 'NO_SPACE',
    message: /node b has no disk with room/,
  });
});

t.test('ends when every replica of what is added is there', async (t) => {
  const state = clusterOf({ a: {}, b: {} });
  const volume = withSize(volumeOn(['a', 'b']), gib, gib);
  put(state, volume);
  const begun = growthBegun(volume, 3 * gib, contextOf(state));
  if (!begun) throw new Error('nothing begun');
  const replicas = begun.status.growth?.segments.flatMap((segment) => segment.replicas) ?? [];
  t.equal(growthOutcome(begun, state), null);
  for (const replica of replicas) report(state, replica, 'ready');
  t.equal(growthOutcome(begun, state), 'ready');
  if (replicas[2]) report(state, replicas[2], 'failed');
  t.match(growthOutcome(begun, state), { failure: { message: /its disk is broken/ } });
  state.reports.clear();
  state.leases.delete('b');
  t.match(growthOutcome(begun, state), { failure: { message: /node b went down/ } });
});

t.test('what nobody ends is given up; until then it counts', async (t) => {
  const state = clusterOf({ a: {}, b: {} });
  const volume = withSize(volumeOn(['a', 'b']), gib, gib);
  const begun = growthBegun(volume, 2 * gib, contextOf(state));
  if (!begun) throw new Error('nothing begun');
  put(state, begun);
  t.equal(diskUses(state).get('d-a')?.provisionedBytes, 2 * gib);
  t.equal(placedSegments(begun).length, 2);
  const controllers = new Controllers();
  const early = planAt(controllers, state, 1_000 + growthPatienceMs);
  t.same(
    early.filter(({ type }) => type === 'change-replicas'),
    [],
  );
  const [late] = planAt(controllers, state, 1_001 + growthPatienceMs);
  if (late?.type !== 'change-replicas') throw new Error(late?.type ?? 'nothing');
  t.equal(late.change.record.status.growth, undefined);
  t.equal(late.change.record.status.segments[0]?.removed?.length, 2);
});

t.test('more replicas of a volume of several segments are spread too', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  const volume = ready(segmented(state, 8 * gib, gib, 2));
  put(state, volume);
  const context = { state, wallMs: 1, newReplicaId: () => `r-new-${made++}` };
  const more = updatedVolume(volume, { replicas: 3 }, context);
  const counts = new Map<string, number>();
  for (const { replicas } of more.status.segments) {
    t.equal(new Set(replicas.map(({ nodeId }) => nodeId)).size, 3);
    for (const { nodeId } of replicas) counts.set(nodeId, (counts.get(nodeId) ?? 0) + 1);
  }
  t.same([...counts.values()], [6, 6, 6, 6]);
});

t.test('a move names the replica where a node has several', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  const volume = ready(segmented(state, 6 * gib, gib, 2));
  put(state, volume);
  const context = { state, wallMs: 1, newReplicaId: () => `r-new-${made++}` };
  t.throws(() => movedReplica(volume, { replica: 'a', nodeId: 'c', disk: '' }, context), {
    code: 'INVALID_ARGUMENT',
    message: /node a has replicas of 4 segments of volume db: name one by its id: r-/,
  });
  const segment = volume.status.segments.find(({ replicas }) =>
    replicas.every(({ nodeId }) => nodeId !== 'c'),
  );
  const replica = segment?.replicas.find(({ nodeId }) => nodeId === 'a')?.id ?? '';
  const moved = movedReplica(volume, { replica, nodeId: 'c', disk: '' }, context);
  const changed = moved?.status.segments.filter((each, at) => each !== volume.status.segments[at]);
  t.equal(changed?.length, 1);
  t.match(changed?.[0], { index: segment?.index, replicas: [{}, {}, { nodeId: 'c' }] });
});
