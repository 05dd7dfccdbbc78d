import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import type { ClusterState, Versioned } from '../src/resources/cluster-state.ts';
import { applyChange, emptyState } from '../src/resources/cluster-state.ts';
import {
  deletedKey,
  diskKey,
  replicaReportKey,
  trashKey,
  volumeKey,
} from '../src/resources/keys.ts';
import { encodeRecord } from '../src/resources/records.ts';
import type { DiskRecord, StoredVolume } from '../src/resources/records.ts';
import {
  disksOn,
  diskShares,
  failedReports,
  ruledVolumes,
  unsettledVolumes,
  volumesLabelled,
  volumesOn,
} from '../src/resources/state-index.ts';
import { gib, volumeOn } from './volume-fixture.ts';

const nodeIds = ['a', 'b', 'c', 'd'];
const node = fc.constantFrom(...nodeIds);
const small = fc.nat({ max: 3 });
const volumeTables = ['volumes', 'trash', 'deleted'] as const;

const replica = fc.record({
  id: fc.constantFrom('r-0', 'r-1', 'r-2', 'r-3', 'r-4'),
  nodeId: node,
  diskId: fc.constantFrom('d-a', 'd-b', 'd-c', 'e-a'),
  state: fc.constantFrom('creating' as const, 'ready' as const, 'ready' as const),
  leaving: fc.boolean(),
});

const segment = fc.record({
  index: small,
  setRevision: small,
  replicas: fc.array(replica, { maxLength: 3 }),
  inSync: fc.subarray(['r-0', 'r-1', 'r-2', 'r-3', 'r-4']),
  removed: fc.array(
    fc.record({ id: fc.constant('r-9'), nodeId: node, diskId: fc.constant('d-a') }),
    { maxLength: 1 },
  ),
});

const volume = fc
  .record({
    id: small,
    segments: fc.array(segment, { maxLength: 3 }),
    growing: fc.option(fc.array(segment, { maxLength: 2 }), { freq: 4 }),
    attachTo: fc.option(node),
    holder: fc.option(node),
    phase: fc.constantFrom('creating' as const, 'ready' as const, 'ready' as const),
    replicas: fc.integer({ min: 1, max: 3 }),
    labels: fc.dictionary(fc.constantFrom('k', 'l'), fc.constantFrom('x', 'y')),
    rules: fc.option(fc.constantFrom('affinity' as const, 'antiAffinity' as const), { freq: 2 }),
  })
  .map(({ id, segments, growing, attachTo, holder, phase, replicas, ...more }): StoredVolume => {
    const base = volumeOn([], {
      name: String(id),
      replicas,
      ...(holder === null ? {} : { holder: { nodeId: holder } }),
    });
    const plain = { ...base.spec, sizeBytes: 5 * gib + 4096, segmentBytes: 2 * gib };
    const rule = { labels: { k: 'x' }, required: true };
    const placement = more.rules === null ? {} : { placement: { [more.rules]: [rule] } };
    const spec = { ...plain, ...placement };
    const growth = { sizeBytes: 9 * gib, sinceMs: 1, segments: growing ?? [] };
    return {
      ...base,
      metadata: { ...base.metadata, labels: { ...more.labels } },
      spec: attachTo === null ? spec : { ...spec, attachTo },
      status: { ...base.status, phase, segments, ...(growing === null ? {} : { growth }) },
    };
  });

type Change = { key: string; record: object | null };

const change: fc.Arbitrary<Change> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(fc.constantFrom(volumeKey, volumeKey, trashKey, deletedKey), volume)
      .map(([key, record]) => ({ key: key(record.metadata.id), record })),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(fc.constantFrom(volumeKey, trashKey, deletedKey), small)
      .map(([key, id]) => ({ key: key(`v-${id}`), record: null })),
  },
  {
    weight: 3,
    arbitrary: fc.tuple(small, fc.option(node)).map(([id, nodeId]) => ({
      key: diskKey(`d-${id}`),
      record: nodeId === null ? null : diskOf(`d-${id}`, nodeId),
    })),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(small, fc.option(fc.constantFrom('ready', 'failed', 'deleted')))
      .map(([id, state]) => ({
        key: replicaReportKey(`r-${id}`),
        record:
          state === null
            ? null
            : { replicaId: `r-${id}`, volumeId: 'v-0', nodeId: 'a', state, code: '', message: '' },
      })),
  },
  // what cannot be read is left out, and so is what the index knew of it
  { weight: 1, arbitrary: small.map((id) => ({ key: volumeKey(`v-${id}`), record: { bad: 1 } })) },
);

function diskOf(id: string, nodeId: string): DiskRecord {
  return {
    id,
    nodeId,
    path: `/${id}`,
    tag: '',
    createdAtMs: 0,
    state: 'online',
    message: '',
    capacityBytes: gib,
    usedBytes: 0,
    freeBytes: gib,
  };
}

type Volumes = ClusterState['volumes'];
const sorted = (ids: string[]): string[] => [...ids].sort();
const idsOf = (volumes: Versioned<StoredVolume>[]): string[] =>
  sorted(volumes.map(({ value }) => value.metadata.id));

/** The same answers by looking at everything: a plain map has no index. */
function stupid(state: ClusterState) {
  const all = (volumes: Volumes) => [...volumes.values()].map(({ value }) => value);
  const concerns = (volume: StoredVolume, nodeId: string): boolean => {
    const { segments, growth, attachment } = volume.status;
    const lies = [...segments, ...(growth?.segments ?? [])].some((each) =>
      [...each.replicas, ...(each.removed ?? [])].some((r) => r.nodeId === nodeId),
    );
    return lies || attachment?.nodeId === nodeId || volume.spec.attachTo === nodeId;
  };
  const rests = (volume: StoredVolume): boolean => {
    const { phase, growth, segments } = volume.status;
    const wanted = volume.spec.replicas;
    return (
      phase === 'ready' &&
      growth === undefined &&
      segments.every(({ replicas, inSync, removed }) => {
        const good = replicas.filter(
          (r) => r.state === 'ready' && r.leaving !== true && inSync.includes(r.id),
        );
        const nodes = new Set(replicas.map(({ nodeId }) => nodeId));
        const whole = good.length === replicas.length && nodes.size === replicas.length;
        return whole && replicas.length === wanted && (removed ?? []).length === 0;
      })
    );
  };
  return {
    on: (volumes: Volumes, nodeId: string) =>
      sorted(all(volumes).flatMap((v) => (concerns(v, nodeId) ? [v.metadata.id] : []))),
    unsettled: (volumes: Volumes) =>
      sorted(all(volumes).flatMap((v) => (rests(v) ? [] : [v.metadata.id]))),
    labelled: (volumes: Volumes, labels: Record<string, string>) =>
      sorted(
        all(volumes).flatMap(({ metadata }) =>
          Object.entries(labels).every(([key, value]) => metadata.labels[key] === value)
            ? [metadata.id]
            : [],
        ),
      ),
    ruled: (volumes: Volumes) =>
      sorted(
        all(volumes).flatMap(({ metadata, spec }) =>
          spec.placement?.affinity || spec.placement?.antiAffinity ? [metadata.id] : [],
        ),
      ),
    disks: (nodeId: string) =>
      sorted(
        [...state.disks.values()].flatMap((d) => (d.value.nodeId === nodeId ? [d.value.id] : [])),
      ),
    shares: (volumes: Volumes) => {
      const shares: Record<string, [number, number]> = {};
      for (const { spec, status } of all(volumes)) {
        const sizeBytes = status.growth?.sizeBytes ?? spec.sizeBytes;
        for (const each of [...status.segments, ...(status.growth?.segments ?? [])]) {
          const bytes = Math.max(0, Math.min(2 * gib, sizeBytes - each.index * 2 * gib));
          for (const { diskId } of each.replicas) {
            const [count, sum] = shares[diskId] ?? [0, 0];
            shares[diskId] = [count + 1, sum + bytes];
          }
        }
      }
      return shares;
    },
    failed: () =>
      sorted([...state.reports].flatMap(([id, r]) => (r.value.state === 'failed' ? [id] : []))),
  };
}

function check(state: ClusterState): void {
  const naive = stupid(state);
  for (const name of volumeTables) {
    const volumes = state[name];
    for (const id of nodeIds)
      assert.deepEqual(idsOf(volumesOn(volumes, id)), naive.on(volumes, id));
    assert.deepEqual(idsOf(unsettledVolumes(volumes)), naive.unsettled(volumes));
    assert.deepEqual(idsOf(ruledVolumes(volumes)), naive.ruled(volumes));
    for (const labels of [{}, { k: 'x' }, { l: 'y' }, { k: 'y', l: 'x' }]) {
      assert.deepEqual(idsOf(volumesLabelled(volumes, labels)), naive.labelled(volumes, labels));
    }
    const shares = [...diskShares(volumes)].map(([id, s]) => [
      id,
      [s.replicas, s.provisionedBytes],
    ]);
    assert.deepEqual(Object.fromEntries(shares), naive.shares(volumes));
  }
  for (const id of nodeIds) {
    assert.deepEqual(
      disksOn(state, id).map(({ value }) => value.id),
      naive.disks(id),
    );
  }
  assert.deepEqual(
    sorted(failedReports(state.reports).map(({ value }) => value.replicaId)),
    naive.failed(),
  );
}

t.test('indexes equal a look at everything after any changes', async () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 25 }), (changes) => {
      const state = emptyState();
      changes.forEach(({ key, record }, at) => {
        applyChange(state, { key, value: record && encodeRecord(record), modRevision: at + 1 });
      });
      check(state);
      // a copy that was made from it, and one without an index
      check({ ...state, volumes: new Map(state.volumes), disks: new Map(state.disks) });
    }),
    { numRuns: Number(process.env['STOR_RUNS'] ?? 150) },
  );
});

t.test('a table that is emptied has forgotten everything', async (t) => {
  const state = emptyState();
  const record = volumeOn(['a'], { replicas: 2 });
  state.volumes.set('v-db', { value: record, modRevision: 1 });
  state.disks.set('d-a', { value: diskOf('d-a', 'a'), modRevision: 1 });
  t.equal(volumesOn(state.volumes, 'a').length, 1);
  t.equal(unsettledVolumes(state.volumes).length, 1);
  state.volumes.clear();
  state.disks.clear();
  check(state);
  t.equal(volumesOn(state.volumes, 'a').length, 0);
  t.equal(disksOn(state, 'a').length, 0);
});
