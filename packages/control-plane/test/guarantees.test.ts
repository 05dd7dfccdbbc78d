import { StorError } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { brokenRules } from '../src/core/placement/placement-violations.ts';
import { PlacementBoard, subjectOf } from '../src/core/placement/placement-board.ts';
import { placeAnother, placeReplicas } from '../src/core/placement/place-replicas.ts';
import { checkGuarantee, GuaranteeBook } from '../src/core/qos/guarantees.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { Rig } from './control-plane-rig.ts';
import { addDisk, clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

async function errorOf(run: () => unknown): Promise<string> {
  try {
    await run();
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

const names = ['a', 'b', 'c', 'd'];

function guaranteed(name: string, nodes: string[], minIops: number): StoredVolume {
  const volume = volumeOn(nodes, { name });
  return { ...volume, spec: { ...volume.spec, qos: { minIops } } };
}

function bound(state: ClusterState, diskId: string, iopsCapacity: number): void {
  const disk = state.disks.get(diskId);
  if (disk) disk.value.iopsCapacity = iopsCapacity;
}

const need = (volume: StoredVolume, kind: 'new' | 'repair') => ({
  ...{ kind, sizeBytes: gib, fillBytes: 0, tag: '' },
  subject: subjectOf(volume),
});

t.test(
  'a volume is admitted exactly when some choice of disks can keep its guarantee',
  async () => {
    const cluster = fc.record({
      capacity: fc.array(fc.option(fc.integer({ min: 1, max: 9 })), { minLength: 6, maxLength: 6 }),
      others: fc.array(
        fc.record({
          on: fc.subarray(names, { minLength: 1, maxLength: 3 }),
          minIops: fc.integer({ min: 0, max: 4 }),
          isTrashed: fc.boolean(),
        }),
        { maxLength: 4 },
      ),
      wanted: fc.integer({ min: 0, max: 6 }),
      replicas: fc.integer({ min: 1, max: 4 }),
    });
    fc.assert(
      fc.property(cluster, ({ capacity, others, wanted, replicas }) => {
        const state = clusterOf(Object.fromEntries(names.map((id) => [id, {}])));
        // two nodes have a second disk
        addDisk(state, 'a', 'd-a2');
        addDisk(state, 'b', 'd-b2');
        const used = new Map<string, number>();
        [...state.disks.keys()].forEach((id, i) => {
          if (capacity[i]) bound(state, id, capacity[i]);
        });
        others.forEach(({ on, minIops, isTrashed }, i) => {
          const volume = guaranteed(`o${i}`, on, minIops);
          const trash = { deletedAtMs: 0, keptUntilMs: 1 };
          const id = volume.metadata.id;
          if (isTrashed) state.trash.set(id, { value: { ...volume, trash }, modRevision: 1 });
          else put(state, volume);
          for (const node of on) used.set(`d-${node}`, (used.get(`d-${node}`) ?? 0) + minIops);
        });
        const able = [...state.disks.values()].filter(
          ({ value }) =>
            wanted === 0 || (used.get(value.id) ?? 0) + wanted <= (value.iopsCapacity ?? Infinity),
        );
        // replicas lie on distinct nodes, so there is a choice when as many nodes have such a disk
        const isPossible = new Set(able.map(({ value }) => value.nodeId)).size >= replicas;
        const volume = guaranteed('new', [], wanted);
        try {
          const places = placeReplicas(state, replicas, need(volume, 'new'));
          return (
            isPossible &&
            places.every(({ diskId }) => able.some(({ value }) => value.id === diskId))
          );
        } catch (error) {
          return !isPossible && error instanceof StorError;
        }
      }),
    );
  },
);

t.test('who has no room for a guarantee says so, disk by disk', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  bound(state, 'd-a', 1_000);
  bound(state, 'd-b', 5_000);
  put(state, guaranteed('old', ['a', 'b'], 800));
  const volume = guaranteed('new', [], 300);
  t.equal(
    await errorOf(() => placeReplicas(state, 3, need(volume, 'new'))),
    'FAILED_PRECONDITION: 3 replicas need as many nodes that are up and have a disk with room; 2 nodes qualify: a has no disk that can guarantee 300 requests/s (on /disk/a 800 of 1000 are guaranteed to others)',
  );
  // segments of one volume on a disk count once
  const board = new PlacementBoard(state);
  const [first] = placeReplicas(board, 1, need(guaranteed('new', [], 4_200), 'new'));
  t.ok(first);
  const book = new GuaranteeBook(state);
  book.note('d-b', 'v-new', { iops: 4_200, bps: 0 });
  const disk = state.disks.get('d-b')?.value;
  t.equal(disk && book.lack(disk, 'v-new', { iops: 4_200, bps: 0 }), null);
});

t.test('a lost copy is put where guarantees are short when nothing else is left', async (t) => {
  const state = clusterOf({ a: {}, b: { up: false }, c: {}, d: {} });
  const volume = guaranteed('db', ['a', 'b'], 500);
  put(state, volume);
  bound(state, 'd-c', 100);
  bound(state, 'd-d', 1_000);
  const sites = { taken: new Map([['a', 'has one']]), beside: new Set<string>(), avoid: new Map() };
  t.equal(placeAnother(state, sites, need(volume, 'repair')).place?.nodeId, 'd', 'one that can');
  bound(state, 'd-d', 1);
  const place = placeAnother(state, sites, need(volume, 'repair')).place;
  t.ok(place, 'rather a copy than none');
  const moved = guaranteed('db', ['a', place?.nodeId ?? ''], 500);
  put(state, moved);
  const broken = brokenRules(new PlacementBoard(state), moved);
  t.match(broken, [{ kind: 'guarantee', required: false, message: /can guarantee 500 requests/ }]);
});

t.test('a larger guarantee is refused where the disks cannot keep it', async (t) => {
  const state = clusterOf({ a: {}, b: {} });
  bound(state, 'd-a', 1_000);
  put(state, guaranteed('other', ['a'], 700));
  const was = guaranteed('db', ['a', 'b'], 300);
  put(state, was);
  t.equal(await errorOf(() => checkGuarantee(was, state)), 'no error');
  const more = guaranteed('db', ['a', 'b'], 301);
  t.match(
    await errorOf(() => checkGuarantee(more, state, { iops: 300, bps: 0 })),
    /^FAILED_PRECONDITION: volume db cannot be guaranteed that: node a has no disk that can guarantee 301 requests\/s \(on \/disk\/a 700 of 1000 are guaranteed to others\); ask for less/,
  );
  bound(state, 'd-a', 10);
  t.equal(await errorOf(() => checkGuarantee(was, state, { iops: 300, bps: 0 })), 'no error');
});

t.test('disks are given a capacity, and volumes and policies are admitted by it', async (t) => {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const refused = (promise: Promise<unknown>) => errorOf(() => rig.during(promise));
  const [disk] = (await client.listDisks({})).disks;
  const id = disk?.metadata.id ?? '';
  const set = await rig.during(client.setDisk({ disk: id, iopsCapacity: 1_000 }));
  t.match(set.spec, { iopsCapacity: 1_000 });
  const request = { sizeBytes: 2 ** 30, replicas: 3, labels: {} };
  t.match(
    await refused(client.createVolume({ ...request, name: 'db', qos: { minIops: 1_001 } })),
    /^FAILED_PRECONDITION: 3 replicas need .*n1 has no disk that can guarantee 1001 requests\/s/,
  );
  await rig.during(client.createPolicy({ name: 'fast', qos: { minIops: 600 } }));
  await rig.during(client.createVolume({ ...request, name: 'db', policyName: 'fast' }));
  t.same((await client.inspectDisk({ disk: id })).guaranteed, { iops: 600, bps: 0 });
  t.match(
    await refused(client.createVolume({ ...request, name: 'two', policyName: 'fast' })),
    /on .* 600 of 1000 are guaranteed to others/,
  );
  t.match(
    await refused(client.updatePolicy({ name: 'fast', qos: { minIops: 1_200 } })),
    /^FAILED_PRECONDITION: volume db cannot be guaranteed that: node n1/,
  );
  t.match(
    await refused(client.updateVolume({ name: 'db', qos: { minIops: 2_000 } })),
    /^FAILED_PRECONDITION: volume db cannot be guaranteed that: node n1/,
  );
  const explained = await client.explainPlacement({
    ...{ volume: '', replicas: 3, sizeBytes: 2 ** 30, labels: {}, diskTag: '' },
    qos: { minIops: 500 },
  });
  t.match(explained.refused, [{ node: 'n1', code: 'guarantee' }]);
  t.match(await refused(client.setDisk({ disk: id, iopsCapacity: -1 })), /^INVALID_ARGUMENT/);
  t.match(await refused(client.setDisk({ disk: 'd-9', iopsCapacity: 1 })), /^NOT_FOUND/);
  const freed = await rig.during(client.setDisk({ disk: id, iopsCapacity: 0 }));
  t.equal(freed.spec.iopsCapacity, undefined);
  await rig.during(client.createVolume({ ...request, name: 'two', policyName: 'fast' }));
});
