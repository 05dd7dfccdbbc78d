// What the driver does beyond single calls: answers that are lost, rivals, restarts, sockets.
import { rename, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { StorError } from '@stor/protocol';
import t from 'tap';
import { CsiDriver } from '../src/index.ts';
import type { CsiSnapshot, CsiVolume, MetadataPart, VolumeEntry } from '../src/messages.ts';
import { CsiClient } from '../src/testing/index.ts';
import { driverRig } from './support/driver-rig.ts';
import type { DriverRig } from './support/driver-rig.ts';

const gib = 2 ** 30;
const lost = new StorError('OUTCOME_UNKNOWN', 'the connection broke');

const access = (kind: 'mount' | 'block', mode: string, mount: object = {}): object => ({
  ...(kind === 'mount' ? { mount } : { block: {} }),
  accessMode: { mode },
});
const writer = access('mount', 'SINGLE_NODE_WRITER');

const request = (name: string, more: object = {}): object => ({
  name,
  capacityRange: { requiredBytes: gib },
  volumeCapabilities: [writer],
  ...more,
});

async function create({ client }: DriverRig, name: string, more: object = {}): Promise<CsiVolume> {
  const answer = await client.call<{ volume: CsiVolume }>(
    'Controller.CreateVolume',
    request(name, more),
  );
  return answer.volume;
}

const idOf = (rig: DriverRig, index = 0): string => rig.nodes[index]?.metadata.id ?? '';

async function stage(
  rig: DriverRig,
  volumeId: string,
  volumeCapability = writer,
  stagingTargetPath = '/stage',
): Promise<object> {
  const { client } = rig;
  const publish = { volumeId, nodeId: idOf(rig), volumeCapability };
  await client.call('Controller.ControllerPublishVolume', publish);
  const order = { volumeId, stagingTargetPath, volumeCapability };
  await client.call('Node.NodeStageVolume', order);
  return order;
}

t.test('an answer that was lost is given to the next request', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  cluster.failNext('createVolume', lost, true);
  t.equal(await client.codeOf('Controller.CreateVolume', request('a')), 'UNAVAILABLE');
  const volume = await create(rig, 'a');
  t.equal((await cluster.listVolumes({})).volumes.length, 1);

  const copy = { volumeContentSource: { volume: { volumeId: volume.volumeId } } };
  cluster.failNext('cloneVolume', lost, true);
  t.equal(await client.codeOf('Controller.CreateVolume', request('b', copy)), 'UNAVAILABLE');
  await create(rig, 'b', copy);
  t.equal((await cluster.listVolumes({})).volumes.length, 2);

  const snapshot = { sourceVolumeId: volume.volumeId, name: 's' };
  cluster.failNext('createSnapshot', lost, true);
  t.equal(await client.codeOf('Controller.CreateSnapshot', snapshot), 'UNAVAILABLE');
  await client.call('Controller.CreateSnapshot', snapshot);
  t.equal((await cluster.listSnapshots({ volume: '' })).snapshots.length, 1);

  const publish = { volumeId: volume.volumeId, nodeId: idOf(rig), volumeCapability: writer };
  for (const [method, call, order] of [
    ['publishVolume', 'Controller.ControllerPublishVolume', publish],
    ['unpublishVolume', 'Controller.ControllerUnpublishVolume', publish],
    ['deleteVolume', 'Controller.DeleteVolume', { volumeId: (await create(rig, 'c')).volumeId }],
  ] as const) {
    cluster.failNext(method, lost, true);
    t.equal(await client.codeOf(call, order), 'UNAVAILABLE', call);
    t.equal(await client.codeOf(call, order), 'OK', call);
  }
});

t.test('a second request waits for nothing: it is told that the first is under way', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const release = cluster.hold('createVolume');
  const first = client.outcome('Controller.CreateVolume', request('slow'));
  // the first one holds the name when another answer has come after it
  await client.call('Controller.ListVolumes');
  t.equal(await client.codeOf('Controller.CreateVolume', request('slow')), 'ABORTED');
  t.equal(
    await client.codeOf('Controller.CreateVolume', request('other', { name: '' })),
    'INVALID_ARGUMENT',
  );
  release();
  t.match(await first, { code: 'OK' });
  t.equal(await client.codeOf('Controller.CreateVolume', request('slow')), 'OK');
});

t.test('closing waits for what is under way, and refuses the rest', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster, driver } = rig;
  const release = cluster.hold('createVolume');
  const under = client.outcome('Controller.CreateVolume', request('slow'));
  await client.call('Controller.ListVolumes');
  let isClosed = false;
  const closed = driver.close().then(() => {
    isClosed = true;
  });
  const late = await client.outcome('Controller.ListVolumes');
  t.equal(late.code, 'UNAVAILABLE');
  t.equal(isClosed, false);
  release();
  t.match(await under, { code: 'UNAVAILABLE' }, 'it was told to give up');
  await closed;
  await driver.close();
});

t.test('what is staged is known to the driver that comes next', async (t) => {
  const rig = await driverRig(t);
  const { volumeId } = await create(rig, 'db');
  const staged = await stage(rig, volumeId);
  const publish = { ...staged, targetPath: '/target' };
  await rig.client.call('Node.NodePublishVolume', publish);
  await rig.restart();
  const { client } = rig;
  for (const [call, order] of [
    ['Controller.CreateVolume', request('db')],
    ['Node.NodeStageVolume', staged],
    ['Node.NodePublishVolume', publish],
    ['Node.NodeGetVolumeStats', { volumeId, volumePath: '/target' }],
    ['Node.NodeUnpublishVolume', { volumeId, targetPath: '/target' }],
    ['Node.NodeUnstageVolume', staged],
  ] as const) {
    t.equal(await client.codeOf(call, order), 'OK', call);
  }
  t.same(rig.host.list(), []);
  const [publication] = rig.cluster.volumes.publications('db');
  t.equal(publication?.owner, 'csi SINGLE_NODE_WRITER', 'the controller ends it');
});

t.test('a volume belongs to one host at a time', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const { volumeId } = await create(rig, 'db');
  const publish = (index: number, more: object = {}): object => ({
    volumeId,
    nodeId: idOf(rig, index),
    volumeCapability: writer,
    ...more,
  });
  const call = 'Controller.ControllerPublishVolume';
  t.equal(await client.codeOf(call, publish(1)), 'OK');
  const refused = await client.outcome(call, publish(0));
  t.match(refused, { code: 'FAILED_PRECONDITION', message: /node n2/ });
  const late = { volumeId, stagingTargetPath: '/stage', volumeCapability: writer };
  t.equal(await client.codeOf('Node.NodeStageVolume', late), 'FAILED_PRECONDITION');
  t.same(rig.host.list(), [], 'a call that comes late takes nothing from the other host');
  cluster.volumes.setNode('n2', 'down');
  t.equal(await client.codeOf(call, publish(0)), 'OK', 'its host is dead');
  const unknown = { volumeId, nodeId: 'n-ffffffffffffffff' };
  t.equal(await client.codeOf('Controller.ControllerUnpublishVolume', unknown), 'OK');
  t.equal(cluster.volumes.publications('db').length, 1);
});

t.test('a volume for several hosts', async (t) => {
  const rig = await driverRig(t);
  const { client } = rig;
  const many = access('block', 'MULTI_NODE_MULTI_WRITER');
  const single = access('block', 'SINGLE_NODE_WRITER');
  const { volumeId } = await create(rig, 'shared', { volumeCapabilities: [many, single] });
  t.equal(rig.cluster.volumes.find('shared').spec.policy.shared, true);
  const call = 'Controller.ControllerPublishVolume';
  const at = (index: number, volumeCapability: object): object => ({
    volumeId,
    nodeId: idOf(rig, index),
    volumeCapability,
  });
  t.equal(await client.codeOf(call, at(0, many)), 'OK');
  t.equal(await client.codeOf(call, at(1, many)), 'OK');
  t.equal(await client.codeOf(call, at(2, single)), 'FAILED_PRECONDITION');
  const { status } = await client.call<VolumeEntry>('Controller.ControllerGetVolume', { volumeId });
  t.same(status.publishedNodeIds.sort(), [idOf(rig, 0), idOf(rig, 1)].sort());
  t.equal(await client.codeOf('Controller.ControllerUnpublishVolume', { volumeId }), 'OK');
  t.equal(await client.codeOf(call, at(2, single)), 'OK');
  t.equal(await client.codeOf(call, at(0, many)), 'FAILED_PRECONDITION', 'one has it for itself');
  t.equal(await client.codeOf(call, at(0, writer)), 'INVALID_ARGUMENT', 'no file system');
  const readers = access('block', 'MULTI_NODE_READER_ONLY');
  await client.call('Controller.ControllerUnpublishVolume', { volumeId });
  await client.call(call, at(1, readers));
  t.equal(rig.cluster.volumes.publications('shared')[0]?.readOnly, true);
});

t.test('no more volumes than a host may have', async (t) => {
  const rig = await driverRig(t, { maxVolumesPerNode: 2 });
  const { client } = rig;
  t.match(await client.call('Node.NodeGetInfo'), { maxVolumesPerNode: 2, nodeId: idOf(rig) });
  const call = 'Controller.ControllerPublishVolume';
  const orders: object[] = [];
  for (const name of ['a', 'b', 'c']) {
    const { volumeId } = await create(rig, name);
    orders.push({ volumeId, nodeId: idOf(rig), volumeCapability: writer });
  }
  const codes: string[] = [];
  for (const order of [...orders, orders[0] ?? {}]) codes.push(await client.codeOf(call, order));
  t.same(codes, ['OK', 'OK', 'RESOURCE_EXHAUSTED', 'OK']);
  t.equal(await client.codeOf(call, { ...orders[2], nodeId: idOf(rig, 1) }), 'OK');
});

t.test('what parameters say is on the volume', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const parameters = {
    ...{ replicas: '2', fs: 'xfs', diskTag: 'ssd', labels: 'tenant=acme', policy: 'gold' },
    'csi.storage.k8s.io/pvc/name': 'data-db-0',
  };
  const mutableParameters = { 'qos.iops': '500', failureMode: 'hard' };
  const { volumeId, volumeContext } = await create(rig, 'db', { parameters, mutableParameters });
  const { spec, metadata } = cluster.volumes.find('db');
  t.match(spec, { replicas: 2, diskTag: 'ssd', policyName: 'gold', qos: { iops: 500 } });
  t.equal(spec.policy.failureMode, 'hard');
  t.match(metadata.labels, { tenant: 'acme', 'csi/name': 'db', 'csi/pvc': 'data-db-0' });
  t.same(volumeContext, { fs: 'xfs' });
  await stage(rig, volumeId);
  t.equal(rig.host.list()[0]?.mounts[0]?.fileSystem, 'xfs');

  const modify = (mutable: object): Promise<string> =>
    client.codeOf('Controller.ControllerModifyVolume', { volumeId, mutableParameters: mutable });
  const before = structuredClone(cluster.volumes.find('db').spec);
  t.equal(await modify({ failureMode: 'soft', policy: 'platinum' }), 'INVALID_ARGUMENT');
  t.equal(await modify({ failureMode: 'soft', replicas: '3' }), 'INVALID_ARGUMENT');
  cluster.failNext('updateVolume', new StorError('FAILED_PRECONDITION', 'not ready'));
  t.equal(await modify({ failureMode: 'soft' }), 'FAILED_PRECONDITION');
  t.same(cluster.volumes.find('db').spec, before, 'nothing has changed');
  t.equal(await modify({ failureMode: 'soft', policy: 'none', 'qos.iops': 'none' }), 'OK');
  const after = cluster.volumes.find('db').spec;
  t.equal(after.policy.failureMode, 'soft');
  t.equal(after.policyName, undefined);
  t.same(after.qos, {});
  const unknown = { parameters: { policy: 'platinum' } };
  t.equal(
    await client.codeOf('Controller.CreateVolume', request('x', unknown)),
    'INVALID_ARGUMENT',
  );
});

t.test('a volume of somebody else is not taken for one that was asked for', async (t) => {
  const rig = await driverRig(t);
  rig.cluster.volumes.add('db', { sizeBytes: gib });
  const outcome = await rig.client.outcome('Controller.CreateVolume', request('db'));
  t.match(outcome, { code: 'ALREADY_EXISTS', message: /not made by this driver/ });
  const { id } = rig.cluster.volumes.find('db').metadata;
  t.equal(await rig.client.codeOf('Controller.ControllerGetVolume', { volumeId: id }), 'OK');
  t.equal(
    await rig.client.codeOf('Controller.ControllerGetVolume', { volumeId: 'db' }),
    'NOT_FOUND',
  );
  t.equal(await rig.client.codeOf('Controller.DeleteVolume', { volumeId: 'db' }), 'OK');
  t.ok(rig.cluster.volumes.has('db'), 'a name is no id');
  const volumeId = 'v-00000000000000ab';
  rig.cluster.volumes.add(volumeId);
  const get = 'Controller.ControllerGetVolume';
  t.equal(await rig.client.codeOf(get, { volumeId }), 'NOT_FOUND', 'although it looks like one');
});

t.test('a copy gets what its class says', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const source = await create(rig, 'db', { parameters: { replicas: '2', fs: 'xfs' } });
  await stage(rig, source.volumeId);
  const volumeContentSource = { volume: { volumeId: source.volumeId } };
  const more = {
    volumeContentSource,
    parameters: { replicas: '3', 'qos.iops': '100' },
    capacityRange: { requiredBytes: 2 * gib },
  };
  // the second of its two steps fails once
  cluster.failNext('updateVolume', new StorError('UNAVAILABLE', 'no quorum'));
  t.equal(await client.codeOf('Controller.CreateVolume', request('copy', more)), 'UNAVAILABLE');
  const copy = await create(rig, 'copy', more);
  t.match(cluster.volumes.find('copy').spec, { replicas: 3, qos: { iops: 100 } });
  await stage(rig, copy.volumeId, writer, '/copy');
  const device = rig.host.list().find(({ volumeId }) => volumeId === copy.volumeId);
  t.equal(device?.mounts[0]?.fileSystem, 'xfs', 'it has the file system of its source');
  t.equal((await rig.host.stats('/copy')).totalBytes, 2 * gib, 'which was made larger');

  const range = { requiredBytes: 3 * gib };
  const expand = { volumeId: copy.volumeId, capacityRange: range };
  await client.call('Controller.ControllerExpandVolume', expand);
  const again = { volumeId: copy.volumeId, stagingTargetPath: '/copy', volumeCapability: writer };
  await client.call('Node.NodeStageVolume', again);
  t.equal((await rig.host.stats('/copy')).totalBytes, 3 * gib, 'as large as it is by now');

  const elsewhere = { volumeContentSource, parameters: { diskTag: 'hdd' } };
  const tagged = await client.codeOf('Controller.CreateVolume', request('tag', elsewhere));
  t.equal(tagged, 'INVALID_ARGUMENT');
  const impossible = { volumeContentSource, parameters: { policy: 'platinum' } };
  const code = await client.codeOf('Controller.CreateVolume', request('bad', impossible));
  t.equal(code, 'INVALID_ARGUMENT');
  t.notOk(cluster.volumes.has('bad'), 'nothing is left of a copy that can never be right');
  t.equal(cluster.trash.size, 1);
});

t.test('deletions keep what may be wanted back', async (t) => {
  const rig = await driverRig(t, { trashKeepMs: 60_000 });
  const { client, cluster } = rig;
  const { volumeId } = await create(rig, 'db');
  // somebody takes a snapshot while it is looked at
  cluster.failNext('deleteVolume', new StorError('CONFLICT', 'changed'));
  t.equal(await client.codeOf('Controller.DeleteVolume', { volumeId }), 'OK');
  t.equal(cluster.trash.get(volumeId), 60_000);
  const second = await create(rig, 'second');
  const order = { volume: 'second', selector: {}, name: 'nightly', labels: {} };
  await cluster.createSnapshot(order);
  const remove = { volumeId: second.volumeId };
  t.equal(await client.codeOf('Controller.DeleteVolume', remove), 'OK', 'an operator’s goes along');
  const third = { volumeId: (await create(rig, 'third')).volumeId };
  for (let i = 0; i < 5; i++)
    cluster.failNext('deleteVolume', new StorError('CONFLICT', 'changed'));
  t.equal(await client.codeOf('Controller.DeleteVolume', third), 'ABORTED');
});

t.test('a snapshot that is taken while its volume is being deleted does not vanish', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const { volumeId } = await create(rig, 'db');
  const release = cluster.hold('deleteVolume');
  const removed = client.outcome('Controller.DeleteVolume', { volumeId });
  await client.call('Controller.ListVolumes');
  const order = { sourceVolumeId: volumeId, name: 's' };
  await client.call('Controller.CreateSnapshot', order);
  release();
  t.match(await removed, { code: 'FAILED_PRECONDITION', message: /has snapshots/ });
  t.ok(cluster.volumes.has('db'));
});

t.test('a snapshot and a group may have the same name', async (t) => {
  const rig = await driverRig(t);
  const { client } = rig;
  const [one, other] = [await create(rig, 'one'), await create(rig, 'other')];
  await client.call('GroupController.CreateVolumeGroupSnapshot', {
    name: 'nightly',
    sourceVolumeIds: [one.volumeId],
  });
  const { snapshot } = await client.call<{ snapshot: CsiSnapshot }>('Controller.CreateSnapshot', {
    name: 'nightly',
    sourceVolumeId: other.volumeId,
  });
  t.equal(snapshot.groupSnapshotId, '');
});

t.test('snapshots under way', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const { volumeId } = await create(rig, 'db');
  const order = { sourceVolumeId: volumeId, name: 's' };
  const { snapshot } = await client.call<{ snapshot: CsiSnapshot }>(
    'Controller.CreateSnapshot',
    order,
  );
  const { snapshotId } = snapshot;
  const copy = request('copy', { volumeContentSource: { snapshot: { snapshotId } } });
  cluster.setSnapshotState(snapshotId, 'creating');
  t.equal(await client.codeOf('Controller.CreateSnapshot', order), 'ABORTED');
  t.equal(await client.codeOf('Controller.CreateVolume', copy), 'FAILED_PRECONDITION');
  t.equal(await client.codeOf('Controller.DeleteVolume', { volumeId }), 'FAILED_PRECONDITION');
  t.same(await client.call('Controller.ListSnapshots', { snapshotId }), {
    entries: [],
    nextToken: '',
  });
  cluster.setSnapshotState(snapshotId, 'deleting');
  t.equal(await client.codeOf('Controller.GetSnapshot', { snapshotId }), 'NOT_FOUND');
  t.equal(await client.codeOf('Controller.CreateVolume', copy), 'NOT_FOUND');
  t.equal(await client.codeOf('Controller.DeleteSnapshot', { snapshotId }), 'OK');
});

t.test('what differs between snapshots comes in parts', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const { volumeId } = await create(rig, 'db');
  const { snapshot } = await client.call<{ snapshot: CsiSnapshot }>('Controller.CreateSnapshot', {
    sourceVolumeId: volumeId,
    name: 's',
  });
  const { snapshotId } = snapshot;
  const extents = [0, 10, 20, 30, 40].map((n) => ({ offset: n * 262_144, length: 262_144 }));
  cluster.setExtents(snapshotId, extents);
  const all = async (more: object): Promise<MetadataPart[]> => {
    const call = 'SnapshotMetadata.GetMetadataAllocated';
    const { code, messages } = await client.stream<MetadataPart>(call, { snapshotId, ...more });
    t.equal(code, 'OK');
    return messages;
  };
  const offsets = (parts: MetadataPart[]): number[] =>
    parts.flatMap(({ blockMetadata }) => blockMetadata.map(({ byteOffset }) => byteOffset));
  const parts = await all({});
  t.same(
    offsets(parts),
    extents.map(({ offset }) => offset),
  );
  for (const part of parts) {
    t.match(part, { blockMetadataType: 'VARIABLE_LENGTH', volumeCapacityBytes: gib });
  }
  const single = await all({ maxResults: 1 });
  t.equal(single.length, 5);
  t.same(
    offsets(await all({ startingOffset: 25 * 262_144 })),
    [30, 40].map((n) => n * 262_144),
  );
});

t.test('places on the host', async (t) => {
  const rig = await driverRig(t);
  const { client, binds, host } = rig;
  binds.link('/var/lib/kubelet', '/data/kubelet');
  const { volumeId } = await create(rig, 'db');
  const grouped = access('mount', 'SINGLE_NODE_MULTI_WRITER', {
    mountFlags: ['noatime'],
    volumeMountGroup: '2000',
  });
  const staged = await stage(rig, volumeId, grouped, '/var/lib/kubelet/stage');
  t.match(host.list()[0]?.mounts, [{ target: '/data/kubelet/stage', options: ['noatime'] }]);
  t.equal(binds.groups.get('/data/kubelet/stage'), 2000);
  const publish = { ...staged, targetPath: '/var/lib/kubelet/pods/a//' };
  await client.call('Node.NodePublishVolume', publish);
  t.ok(binds.exists('/data/kubelet/pods/a'));
  const stats = { volumeId, volumePath: '/var/lib/kubelet/pods/a' };
  t.equal(await client.codeOf('Node.NodeGetVolumeStats', stats), 'OK');
  host.setFailure('db', 'no node answers');
  t.match(await client.call('Node.NodeGetVolumeStats', stats), {
    volumeCondition: { abnormal: true, message: 'no node answers' },
  });

  host.setFailure('db', null);
  binds.mountForeign('/data/kubelet/pods/b');
  const foreign = { ...staged, targetPath: '/var/lib/kubelet/pods/b' };
  t.equal(await client.codeOf('Node.NodePublishVolume', foreign), 'ALREADY_EXISTS');
  const left = await client.outcome('Node.NodeUnpublishVolume', foreign);
  t.match(left, { code: 'FAILED_PRECONDITION', message: /left alone/ });
  t.ok(binds.exists('/data/kubelet/pods/b'));
  binds.leave('/data/kubelet/pods/c', 'full');
  const full = { volumeId, targetPath: '/var/lib/kubelet/pods/c' };
  t.equal(await client.codeOf('Node.NodeUnpublishVolume', full), 'FAILED_PRECONDITION');
  t.ok(binds.exists('/data/kubelet/pods/c'), 'somebody’s files stay');
  binds.failNext('unbind', new StorError('IN_USE', 'busy'));
  t.equal(await client.codeOf('Node.NodeUnpublishVolume', publish), 'FAILED_PRECONDITION');
  t.equal(await client.codeOf('Node.NodeUnpublishVolume', publish), 'OK');
});

t.test('nobody writes beneath a file system', async (t) => {
  const rig = await driverRig(t);
  const { client, host } = rig;
  const signal = new AbortController().signal;
  const { volumeId } = await create(rig, 'db');
  const raw = access('block', 'SINGLE_NODE_WRITER');
  await stage(rig, volumeId, raw);
  const publish = {
    volumeId,
    stagingTargetPath: '/stage',
    targetPath: '/raw',
    volumeCapability: raw,
  };
  await client.call('Node.NodePublishVolume', publish);
  const mount = { volumeId, stagingTargetPath: '/stage', volumeCapability: writer };
  t.equal(await client.codeOf('Node.NodeStageVolume', mount), 'ALREADY_EXISTS');
  await client.call('Node.NodeUnpublishVolume', publish);
  await client.call('Node.NodeUnstageVolume', publish);
  await host.mount({ volume: volumeId, user: 'docker', target: '/docker' }, signal);
  const refused = await client.outcome('Node.NodeStageVolume', publish);
  t.match(refused, { code: 'FAILED_PRECONDITION', message: /mounted at \/docker by docker/ });
  t.equal(await client.codeOf('Node.NodeStageVolume', mount), 'OK', 'one more mount is fine');
});

t.test('a device that fails is given to no workload, and not made anew beneath one', async (t) => {
  const rig = await driverRig(t);
  const { client, host, binds } = rig;
  const { volumeId } = await create(rig, 'db');
  const raw = access('block', 'SINGLE_NODE_WRITER');
  const staged = await stage(rig, volumeId, raw);
  const publish = { ...staged, targetPath: '/raw' };
  host.setFailure('db', 'its process is gone');
  const refused = await client.outcome('Node.NodePublishVolume', publish);
  t.match(refused, { code: 'FAILED_PRECONDITION', message: /its process is gone/ });
  t.same(binds.all, []);
  host.setFailure('db', null);
  t.equal(await client.codeOf('Node.NodePublishVolume', publish), 'OK');
  host.setFailure('db', 'its process is gone');
  const before = host.list();
  const again = await client.outcome('Node.NodeStageVolume', staged);
  t.match(again, { code: 'FAILED_PRECONDITION', message: /published at \/raw/ });
  t.same(host.list(), before);
  await client.call('Node.NodeUnpublishVolume', publish);
  await client.call('Node.NodeUnstageVolume', staged);
  await client.call('Node.NodeStageVolume', staged);
  t.equal(await client.codeOf('Node.NodePublishVolume', publish), 'OK');
});

t.test('a connection that is counted for a moment longer', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const { volumeId } = await create(rig, 'db');
  const order = { volumeId, nodeId: idOf(rig), volumeCapability: writer };
  await client.call('Controller.ControllerPublishVolume', order);
  cluster.failNext('unpublishVolume', new StorError('FAILED_PRECONDITION', 'connected'));
  t.equal(await client.codeOf('Controller.ControllerUnpublishVolume', order), 'OK');
});

t.test('a host that is dead lets go of its volume, whatever is connected still', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster } = rig;
  const { volumeId } = await create(rig, 'db');
  const order = { volumeId, nodeId: idOf(rig, 1), volumeCapability: writer };
  await client.call('Controller.ControllerPublishVolume', order);
  const [publication] = cluster.volumes.publications('db');
  cluster.volumes.setConnected(publication?.id ?? '', true);
  const unpublish = 'Controller.ControllerUnpublishVolume';
  t.equal(await client.codeOf(unpublish, order), 'FAILED_PRECONDITION', 'it lives');
  cluster.volumes.setNode('n2', 'down');
  t.equal(await client.codeOf(unpublish, order), 'OK');
  t.same(cluster.volumes.publications('db'), []);
});

t.test('a device whose volume another host has by now is given up', async (t) => {
  const rig = await driverRig(t);
  const { client, cluster, host } = rig;
  const { volumeId } = await create(rig, 'db');
  const staged = await stage(rig, volumeId);
  cluster.volumes.setNode('n1', 'down');
  const order = { volumeId, nodeId: idOf(rig, 1), volumeCapability: writer };
  await client.call('Controller.ControllerPublishVolume', order);
  cluster.volumes.setNode('n1', 'up');
  t.equal(await client.codeOf('Node.NodeUnstageVolume', staged), 'OK');
  t.equal(host.calls.at(-1), `detach ${volumeId} csi force`, 'nothing is written back any more');
  t.same(host.list(), []);
  t.equal(cluster.volumes.publications('db')[0]?.node, 'n2');
  const own = await create(rig, 'own');
  const another = await stage(rig, own.volumeId, writer, '/own');
  await client.call('Node.NodeUnstageVolume', another);
  t.equal(host.calls.at(-1), `detach ${own.volumeId} csi`, 'else everything is');
});

t.test('a dying volume is shown as it is', async (t) => {
  const rig = await driverRig(t);
  const { volumeId } = await create(rig, 'db');
  const { status } = rig.cluster.volumes.find('db');
  status.health = 'degraded';
  status.message = 'a replica is missing';
  const entry = await rig.client.call<VolumeEntry>('Controller.ControllerGetVolume', { volumeId });
  t.same(entry.status.volumeCondition, {
    abnormal: true,
    message: 'degraded: a replica is missing',
  });
  status.health = 'creating';
  t.same(await rig.client.call('Controller.ListVolumes'), { entries: [], nextToken: '' });
  t.equal(await rig.client.codeOf('Controller.CreateVolume', request('db')), 'ABORTED');
  rig.cluster.failNext('getClusterStatus', new StorError('UNAVAILABLE', 'no quorum'));
  t.equal(await rig.client.codeOf('Identity.Probe'), 'FAILED_PRECONDITION');
});

t.test('sockets', async (t) => {
  const rig = await driverRig(t);
  const { folder, cluster, host, binds } = rig;
  const path = join(folder, 'csi.sock');
  const stale = join(folder, 'deep/stale.sock');
  t.equal((await stat(path)).mode & 0o777, 0o600);
  const options = {
    ...{ nodeId: idOf(rig), clusterId: cluster.clusterId, version: '1', api: cluster },
    ...{ host, binds },
  };
  const { systemClock: clock, silentLogger: logger } = await import('@stor/runtime');
  const open = (endpoints: object): Promise<CsiDriver> =>
    CsiDriver.open({ ...options, clock, logger, endpoints });
  await t.rejects(open({ endpoint: path }), { code: 'IN_USE' });
  await t.rejects(open({ endpoint: `/${'x'.repeat(120)}` }), { code: 'INVALID_ARGUMENT' });
  await t.rejects(open({}), { code: 'INVALID_ARGUMENT' });
  const without = { ...options, clock, logger, host: null };
  const controllerEndpoint = join(folder, 'only.sock');
  const only = await CsiDriver.open({ ...without, endpoints: { controllerEndpoint } });
  await only.close();
  for (const endpoints of [{ endpoint: stale }, { nodeEndpoint: stale }]) {
    const opened = CsiDriver.open({ ...without, endpoints });
    await t.rejects(opened, { code: 'FAILED_PRECONDITION' }, 'a host without devices');
  }
  await writeFile(join(folder, 'file'), '');
  await t.rejects(open({ endpoint: join(folder, 'file') }), { code: 'FOREIGN_DATA' });

  // what a killed agent leaves behind
  const first = await open({ controllerEndpoint: stale, nodeEndpoint: join(folder, 'node.sock') });
  const controller = await CsiClient.open(stale);
  const node = await CsiClient.open(join(folder, 'node.sock'));
  for (const client of [controller, node]) t.equal(await client.codeOf('Identity.Probe'), 'OK');
  t.equal(await controller.codeOf('Controller.ListVolumes'), 'OK');
  t.equal(await controller.codeOf('Node.NodeGetInfo'), 'UNIMPLEMENTED');
  t.equal(await node.codeOf('Node.NodeGetInfo'), 'OK');
  t.equal(await node.codeOf('Controller.ListVolumes'), 'UNIMPLEMENTED');
  controller.close();
  node.close();
  await first.close();
  await t.rejects(stat(stale), { code: 'ENOENT' }, 'it takes its socket with it');
  const dead = createServer();
  await new Promise<void>((resolve) => dead.listen(`${stale}.old`, resolve));
  await rename(`${stale}.old`, stale);
  await new Promise((resolve) => dead.close(resolve));
  t.ok((await stat(stale)).isSocket());
  const second = await open({ endpoint: stale });
  const client = await CsiClient.open(stale);
  t.equal(await client.codeOf('Identity.Probe'), 'OK');
  client.close();
  await second.close();
});
