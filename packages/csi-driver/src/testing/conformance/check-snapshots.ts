import type { Test } from 'tap';
import type { CsiGroupSnapshot, CsiSnapshot } from '../../messages.ts';
import { unknownVolume } from './check-controller.ts';
import { ConformanceBench } from './target.ts';
import type { ConformanceTarget } from './target.ts';

const unknownSnapshot = 's-ffffffffffffffff';

interface Snapshots {
  entries: { snapshot: CsiSnapshot }[];
  nextToken: string;
}

export function checkSnapshots(t: Test, target: ConformanceTarget): void {
  t.test('CreateSnapshot, GetSnapshot and DeleteSnapshot', (t) => triesSnapshotCalls(t, target));
  t.test('ListSnapshots', (t) => triesSnapshotLists(t, target));
}

async function triesSnapshotCalls(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const create = 'Controller.CreateSnapshot';
  const bench = new ConformanceBench(t, target);
  const { volumeId: sourceVolumeId, capacityBytes } = await bench.volume();
  const other = await bench.volume();
  const name = bench.name('snap');
  t.equal(await controller.codeOf(create, { sourceVolumeId }), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(create, { name }), 'INVALID_ARGUMENT');
  const odd = { sourceVolumeId, name, parameters: { colour: 'blue' } };
  t.equal(await controller.codeOf(create, odd), 'INVALID_ARGUMENT');
  const unknown = { sourceVolumeId: unknownVolume, name };
  t.equal(await controller.codeOf(create, unknown), 'NOT_FOUND');
  const snapshot = await bench.snapshot(sourceVolumeId, name);
  t.match(snapshot, { sourceVolumeId, sizeBytes: capacityBytes, readyToUse: true });
  t.ok(snapshot.creationTime.seconds > 1_600_000_000);
  const again = await controller.call(create, { sourceVolumeId, name });
  t.same(again, { snapshot }, 'the same request again');
  const elsewhere = { sourceVolumeId: other.volumeId, name };
  t.equal(await controller.codeOf(create, elsewhere), 'ALREADY_EXISTS');
  for (const long of [bench.name('').padEnd(128, 's'), `${bench.name('')} Ω 快照`]) {
    t.ok((await bench.snapshot(sourceVolumeId, long)).readyToUse);
  }
  const get = 'Controller.GetSnapshot';
  const { snapshotId } = snapshot;
  t.same(await controller.call(get, { snapshotId }), { snapshot });
  t.equal(await controller.codeOf(get), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(get, { snapshotId: unknownSnapshot }), 'NOT_FOUND');
  const remove = 'Controller.DeleteSnapshot';
  t.equal(await controller.codeOf(remove), 'INVALID_ARGUMENT');
  for (const id of ['reallyfakesnapshotid', unknownSnapshot, snapshotId, snapshotId]) {
    t.equal(await controller.codeOf(remove, { snapshotId: id }), 'OK', id);
  }
  t.equal(await controller.codeOf(get, { snapshotId }), 'NOT_FOUND');
}

async function triesSnapshotLists(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const list = 'Controller.ListSnapshots';
  const first = await bench.volume();
  const second = await bench.volume();
  const made: string[] = [];
  for (let i = 0; i < 3; i++) made.push((await bench.snapshot(first.volumeId)).snapshotId);
  const { snapshotId } = await bench.snapshot(second.volumeId);
  const idsOf = ({ entries }: Snapshots): string[] =>
    entries.map(({ snapshot }) => snapshot.snapshotId);
  const found = async (request: object): Promise<string[]> =>
    idsOf(await controller.call<Snapshots>(list, request));
  t.same(await found({ snapshotId }), [snapshotId]);
  t.same((await found({ sourceVolumeId: first.volumeId })).sort(), [...made].sort());
  t.same(await found({ sourceVolumeId: first.volumeId, snapshotId }), []);
  for (const request of [
    { snapshotId: unknownSnapshot },
    { snapshotId: 'none-like-that' },
    { sourceVolumeId: unknownVolume },
    { sourceVolumeId: 'none-like-that' },
  ]) {
    t.same(await found(request), [], JSON.stringify(request));
  }
  t.ok((await found({})).length >= 4);
  t.equal(await controller.codeOf(list, { startingToken: 'wrong' }), 'ABORTED');
  const page = { sourceVolumeId: first.volumeId, maxEntries: 2 };
  const one = await controller.call<Snapshots>(list, page);
  t.equal(one.entries.length, 2);
  const two = await controller.call<Snapshots>(list, { ...page, startingToken: one.nextToken });
  t.equal(two.nextToken, '');
  t.same([...idsOf(one), ...idsOf(two)].sort(), [...made].sort());
}

export function checkGroups(t: Test, target: ConformanceTarget): void {
  t.test('GroupController', (t) => triesGroups(t, target));
  t.test('a group of one volume', (t) => triesGroupOfOne(t, target));
}

async function triesGroups(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const create = 'GroupController.CreateVolumeGroupSnapshot';
  const get = 'GroupController.GetVolumeGroupSnapshot';
  const remove = 'GroupController.DeleteVolumeGroupSnapshot';
  const bench = new ConformanceBench(t, target);
  const { capabilities } = await controller.call<{ capabilities: object[] }>(
    'GroupController.GroupControllerGetCapabilities',
  );
  t.ok(capabilities.length > 0);
  const sourceVolumeIds = [(await bench.volume()).volumeId, (await bench.volume()).volumeId];
  const name = bench.name('group');
  t.equal(await controller.codeOf(create, { sourceVolumeIds }), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(create, { name }), 'INVALID_ARGUMENT');
  const unknown = { name, sourceVolumeIds: [...sourceVolumeIds, unknownVolume] };
  t.equal(await controller.codeOf(create, unknown), 'NOT_FOUND');
  const { groupSnapshot } = await controller.call<{ groupSnapshot: CsiGroupSnapshot }>(create, {
    name,
    sourceVolumeIds,
  });
  const { groupSnapshotId, snapshots } = groupSnapshot;
  const snapshotIds = snapshots.map(({ snapshotId }) => snapshotId);
  t.teardown(() => controller.call(remove, { groupSnapshotId, snapshotIds }));
  t.ok(groupSnapshot.readyToUse);
  t.same(snapshots.map(({ sourceVolumeId }) => sourceVolumeId).sort(), [...sourceVolumeIds].sort());
  for (const each of snapshots) t.equal(each.groupSnapshotId, groupSnapshotId);
  const turned = { name, sourceVolumeIds: [...sourceVolumeIds].reverse() };
  const again = await controller.call<{ groupSnapshot: CsiGroupSnapshot }>(create, turned);
  t.equal(again.groupSnapshot.groupSnapshotId, groupSnapshotId);
  const fewer = { name, sourceVolumeIds: sourceVolumeIds.slice(1) };
  t.equal(await controller.codeOf(create, fewer), 'ALREADY_EXISTS');
  const found = await controller.call<{ groupSnapshot: CsiGroupSnapshot }>(get, {
    groupSnapshotId,
    snapshotIds,
  });
  t.equal(found.groupSnapshot.snapshots.length, 2);
  t.equal(await controller.codeOf(get), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(get, { groupSnapshotId: 'none' }), 'NOT_FOUND');
  const some = { groupSnapshotId, snapshotIds: snapshotIds.slice(1) };
  t.equal(await controller.codeOf(remove, some), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(remove), 'INVALID_ARGUMENT');
  for (const id of ['none', groupSnapshotId, groupSnapshotId]) {
    t.equal(await controller.codeOf(remove, { groupSnapshotId: id, snapshotIds }), 'OK', id);
  }
  t.equal(await controller.codeOf(get, { groupSnapshotId }), 'NOT_FOUND');
}

async function triesGroupOfOne(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const create = 'GroupController.CreateVolumeGroupSnapshot';
  const get = 'GroupController.GetVolumeGroupSnapshot';
  const remove = 'GroupController.DeleteVolumeGroupSnapshot';
  const bench = new ConformanceBench(t, target);
  const { volumeId } = await bench.volume();
  const request = { name: bench.name('alone'), sourceVolumeIds: [volumeId] };
  const { groupSnapshot } = await controller.call<{ groupSnapshot: CsiGroupSnapshot }>(
    create,
    request,
  );
  const { groupSnapshotId } = groupSnapshot;
  t.not(groupSnapshotId, '');
  t.equal(await controller.codeOf(get, { groupSnapshotId }), 'OK');
  t.equal(await controller.codeOf(remove, { groupSnapshotId }), 'OK');
}

export function checkMetadata(t: Test, target: ConformanceTarget): void {
  t.test('SnapshotMetadata', (t) => triesMetadata(t, target));
}

async function triesMetadata(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const { volumeId, capacityBytes } = await bench.volume();
  const first = (await bench.snapshot(volumeId)).snapshotId;
  const second = (await bench.snapshot(volumeId)).snapshotId;
  const foreign = (await bench.snapshot((await bench.volume()).volumeId)).snapshotId;
  const allocated = (request: object): Promise<{ code: string }> =>
    controller.stream('SnapshotMetadata.GetMetadataAllocated', request);
  const delta = (request: object): Promise<{ code: string }> =>
    controller.stream('SnapshotMetadata.GetMetadataDelta', request);
  t.match(await allocated({ snapshotId: first }), { code: 'OK' });
  t.match(await allocated({}), { code: 'INVALID_ARGUMENT' });
  t.match(await allocated({ snapshotId: unknownSnapshot }), { code: 'NOT_FOUND' });
  const beyond = { snapshotId: first, startingOffset: capacityBytes };
  t.match(await allocated(beyond), { code: 'OUT_OF_RANGE' });
  t.match(await allocated({ snapshotId: first, startingOffset: -1 }), {
    code: 'INVALID_ARGUMENT',
  });
  const pair = { baseSnapshotId: first, targetSnapshotId: second };
  t.match(await delta(pair), { code: 'OK' });
  t.match(await delta({ targetSnapshotId: second }), { code: 'INVALID_ARGUMENT' });
  t.match(await delta({ ...pair, baseSnapshotId: unknownSnapshot }), { code: 'NOT_FOUND' });
  t.match(await delta({ ...pair, baseSnapshotId: foreign }), { code: 'INVALID_ARGUMENT' });
  t.match(await delta({ ...pair, startingOffset: capacityBytes }), { code: 'OUT_OF_RANGE' });
}
