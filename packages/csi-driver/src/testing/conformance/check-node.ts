import type { Test } from 'tap';
import type { VolumeCondition, VolumeUsage } from '../../messages.ts';
import { unknownVolume } from './check-controller.ts';
import { capability, ConformanceBench } from './target.ts';
import type { AccessKind, ConformanceTarget } from './target.ts';

const kinds: readonly AccessKind[] = ['mount', 'block'];

export function checkNode(t: Test, target: ConformanceTarget): void {
  t.test('NodeGetInfo and NodeGetCapabilities', (t) => triesInfo(t, target));
  t.test('Node calls refuse what is missing or unknown', (t) => triesRefusedCalls(t, target));
  for (const kind of kinds) {
    t.test(`staged and published: ${kind}`, (t) => triesPlaces(t, target, kind));
    t.test(`one place or several: ${kind}`, (t) => triesSeveralPlaces(t, target, kind));
    t.test(`expanded while it is used: ${kind}`, (t) => triesNodeExpansion(t, target, kind));
  }
  t.test('read-only', (t) => triesReadOnly(t, target));
  t.test('what is staged one way is not used the other', (t) => triesOtherWay(t, target));
}

async function triesInfo(t: Test, { node }: ConformanceTarget): Promise<void> {
  const info = await node.call<{ nodeId: string; maxVolumesPerNode: number }>('Node.NodeGetInfo');
  t.not(info.nodeId, '');
  t.ok(info.maxVolumesPerNode >= 0);
  const answer = await node.call<{ capabilities: object[] }>('Node.NodeGetCapabilities');
  t.ok(answer.capabilities.length > 0);
  t.notMatch(JSON.stringify(answer), /UNKNOWN/);
}

async function triesRefusedCalls(t: Test, target: ConformanceTarget): Promise<void> {
  const { node } = target;
  const bench = new ConformanceBench(t, target);
  const { volumeId } = await bench.volume();
  const stagingTargetPath = bench.path('stage');
  const targetPath = bench.path('target');
  const volumePath = bench.path('nothing');
  const volumeCapability = capability('mount');
  const stage = { volumeId, stagingTargetPath, volumeCapability };
  const publish = { ...stage, targetPath };
  const none = { volumeCapability: null };
  const bad = 'INVALID_ARGUMENT';
  const several = { volumeCapability: capability('block', 'MULTI_NODE_MULTI_WRITER') };
  const calls: [string, object, string][] = [
    ['NodeStageVolume', { ...stage, volumeId: '' }, bad],
    ['NodeStageVolume', { ...stage, stagingTargetPath: '' }, bad],
    ['NodeStageVolume', { ...stage, stagingTargetPath: 'relative' }, bad],
    ['NodeStageVolume', { ...stage, stagingTargetPath: '/a/../b' }, bad],
    ['NodeStageVolume', { ...stage, ...none }, bad],
    ['NodeStageVolume', { ...stage, volumeId: unknownVolume }, 'NOT_FOUND'],
    ['NodeStageVolume', { ...stage, ...several }, 'FAILED_PRECONDITION'],
    ['NodeStageVolume', stage, 'FAILED_PRECONDITION'],
    ['NodeUnstageVolume', { stagingTargetPath }, bad],
    ['NodeUnstageVolume', { volumeId }, bad],
    ['NodeUnstageVolume', { volumeId, stagingTargetPath }, 'OK'],
    ['NodeUnstageVolume', { volumeId: unknownVolume, stagingTargetPath }, 'OK'],
    ['NodePublishVolume', { ...publish, volumeId: '' }, bad],
    ['NodePublishVolume', { ...publish, targetPath: '' }, bad],
    ['NodePublishVolume', { ...publish, targetPath: '/' }, bad],
    ['NodePublishVolume', { ...publish, ...none }, bad],
    ['NodePublishVolume', { ...publish, stagingTargetPath: '' }, 'FAILED_PRECONDITION'],
    ['NodePublishVolume', { ...publish, volumeId: unknownVolume }, 'NOT_FOUND'],
    ['NodePublishVolume', publish, 'FAILED_PRECONDITION'],
    ['NodeUnpublishVolume', { targetPath }, bad],
    ['NodeUnpublishVolume', { volumeId }, bad],
    ['NodeUnpublishVolume', { volumeId, targetPath }, 'OK'],
    ['NodeUnpublishVolume', { volumeId: unknownVolume, targetPath }, 'OK'],
    ['NodeGetVolumeStats', { volumePath }, bad],
    ['NodeGetVolumeStats', { volumeId }, bad],
    ['NodeGetVolumeStats', { volumeId: unknownVolume, volumePath }, 'NOT_FOUND'],
    ['NodeExpandVolume', { volumePath }, bad],
    ['NodeExpandVolume', { volumeId }, bad],
    ['NodeExpandVolume', { volumeId: unknownVolume, volumePath }, 'NOT_FOUND'],
  ];
  for (const [call, request, code] of calls) {
    t.equal(await node.codeOf(`Node.${call}`, request), code, `${call} ${JSON.stringify(request)}`);
  }
}

async function triesPlaces(t: Test, target: ConformanceTarget, kind: AccessKind): Promise<void> {
  const { node } = target;
  const bench = new ConformanceBench(t, target);
  const { volumeId, capacityBytes } = await bench.volume({
    volumeCapabilities: [capability(kind)],
  });
  const stagingTargetPath = await bench.staged(volumeId, kind);
  const stage = { volumeId, stagingTargetPath, volumeCapability: capability(kind) };
  t.equal(await node.codeOf('Node.NodeStageVolume', stage), 'OK', 'staged once more');
  const targetPath = await bench.at(volumeId, stagingTargetPath, kind);
  t.ok(await target.exists(targetPath));
  const publish = { ...stage, targetPath };
  t.equal(await node.codeOf('Node.NodePublishVolume', publish), 'OK', 'published once more');

  const stats = { volumeId, volumePath: targetPath };
  const { usage, volumeCondition } = await node.call<{
    usage: VolumeUsage[];
    volumeCondition: VolumeCondition;
  }>('Node.NodeGetVolumeStats', stats);
  t.equal(volumeCondition.abnormal, false);
  t.same(
    usage.map(({ unit }) => unit),
    kind === 'mount' ? ['BYTES', 'INODES'] : ['BYTES'],
  );
  const [bytes] = usage;
  if (kind === 'block') t.equal(bytes?.total, capacityBytes);
  else t.ok((bytes?.total ?? 0) > 0 && (bytes?.available ?? 0) > 0);
  const elsewhere = { volumeId, volumePath: bench.path('wrong') };
  t.equal(await node.codeOf('Node.NodeGetVolumeStats', elsewhere), 'NOT_FOUND');

  const unstage = { volumeId, stagingTargetPath };
  t.equal(await node.codeOf('Node.NodeUnstageVolume', unstage), 'FAILED_PRECONDITION');
  for (let time = 0; time < 2; time++) {
    const code = await node.codeOf('Node.NodeUnpublishVolume', { volumeId, targetPath });
    t.equal(code, 'OK');
    t.equal(await target.exists(targetPath), false, 'the target is gone');
  }
  const nodeId = await bench.nodeId();
  const unpublish = { volumeId, nodeId };
  const early = await target.controller.codeOf('Controller.ControllerUnpublishVolume', unpublish);
  t.equal(early, 'FAILED_PRECONDITION', 'it is a device of the host still');
  for (let time = 0; time < 2; time++) {
    t.equal(await node.codeOf('Node.NodeUnstageVolume', unstage), 'OK');
  }
}

async function triesSeveralPlaces(
  t: Test,
  target: ConformanceTarget,
  kind: AccessKind,
): Promise<void> {
  const { node } = target;
  const bench = new ConformanceBench(t, target);
  const { volumeId } = await bench.volume({ volumeCapabilities: [capability(kind)] });
  const stagingTargetPath = await bench.staged(volumeId, kind, 'SINGLE_NODE_SINGLE_WRITER');
  await bench.at(volumeId, stagingTargetPath, kind, 'SINGLE_NODE_SINGLE_WRITER');
  const second = (mode: string): object => ({
    volumeId,
    stagingTargetPath,
    targetPath: bench.path('second'),
    volumeCapability: capability(kind, mode),
  });
  for (const mode of ['SINGLE_NODE_SINGLE_WRITER', 'SINGLE_NODE_WRITER']) {
    const code = await node.codeOf('Node.NodePublishVolume', second(mode));
    t.equal(code, 'FAILED_PRECONDITION', mode);
  }
  await bench.at(volumeId, stagingTargetPath, kind, 'SINGLE_NODE_MULTI_WRITER');
  const elsewhere = { ...second('SINGLE_NODE_MULTI_WRITER'), stagingTargetPath: bench.path('no') };
  const code = await node.codeOf('Node.NodePublishVolume', elsewhere);
  // a block device is at no place while it is staged
  t.equal(code, kind === 'mount' ? 'FAILED_PRECONDITION' : 'OK');
  const { targetPath } = elsewhere as unknown as { targetPath: string };
  await node.call('Node.NodeUnpublishVolume', { volumeId, targetPath });
}

async function triesNodeExpansion(
  t: Test,
  target: ConformanceTarget,
  kind: AccessKind,
): Promise<void> {
  const { node, controller } = target;
  const bench = new ConformanceBench(t, target);
  const { volumeId, capacityBytes } = await bench.volume({
    volumeCapabilities: [capability(kind)],
  });
  const stagingTargetPath = await bench.staged(volumeId, kind);
  const volumePath = await bench.at(volumeId, stagingTargetPath, kind);
  const requiredBytes = 2 * capacityBytes;
  const capacityRange = { requiredBytes };
  const early = await node.codeOf('Node.NodeExpandVolume', { volumeId, volumePath, capacityRange });
  t.equal(early, 'OUT_OF_RANGE', 'the controller comes first');
  await controller.call('Controller.ControllerExpandVolume', { volumeId, capacityRange });
  for (let time = 0; time < 2; time++) {
    const answer = await node.call('Node.NodeExpandVolume', {
      volumeId,
      volumePath,
      capacityRange,
    });
    t.same(answer, { capacityBytes: requiredBytes });
  }
  const { usage } = await node.call<{ usage: VolumeUsage[] }>('Node.NodeGetVolumeStats', {
    volumeId,
    volumePath,
  });
  const total = usage[0]?.total ?? 0;
  t.ok(total > capacityBytes && total <= requiredBytes, `${total}`);
}

async function triesReadOnly(t: Test, target: ConformanceTarget): Promise<void> {
  const { node, controller } = target;
  const bench = new ConformanceBench(t, target);
  const { volumeId } = await bench.volume();
  const stagingTargetPath = await bench.staged(volumeId, 'mount', 'SINGLE_NODE_MULTI_WRITER');
  const targetPath = bench.path('reader');
  const mode = 'SINGLE_NODE_MULTI_WRITER';
  const publish = {
    volumeId,
    stagingTargetPath,
    targetPath,
    volumeCapability: capability('mount', mode),
    readonly: true,
  };
  for (let time = 0; time < 2; time++) {
    t.equal(await node.codeOf('Node.NodePublishVolume', publish), 'OK');
  }
  const writing = { ...publish, readonly: false };
  t.equal(await node.codeOf('Node.NodePublishVolume', writing), 'ALREADY_EXISTS');
  await bench.at(volumeId, stagingTargetPath, 'mount', mode);
  t.equal(await node.codeOf('Node.NodeUnpublishVolume', { volumeId, targetPath }), 'OK');

  const block = await bench.volume({ volumeCapabilities: [capability('block')] });
  const nodeId = await bench.nodeId();
  const readOnly = {
    volumeId: block.volumeId,
    nodeId,
    volumeCapability: capability('block'),
    readonly: true,
  };
  await controller.call('Controller.ControllerPublishVolume', readOnly);
  const staging = bench.path('stage');
  const stage = {
    volumeId: block.volumeId,
    stagingTargetPath: staging,
    volumeCapability: capability('block'),
  };
  t.equal(await node.codeOf('Node.NodeStageVolume', stage), 'OK');
  const place = { ...stage, targetPath: bench.path('device'), readonly: true };
  t.equal(await node.codeOf('Node.NodePublishVolume', place), 'OK');
  t.equal(await node.codeOf('Node.NodeUnpublishVolume', place), 'OK');
  t.equal(await node.codeOf('Node.NodeUnstageVolume', stage), 'OK');
  const unpublish = 'Controller.ControllerUnpublishVolume';
  t.equal(await controller.codeOf(unpublish, readOnly), 'OK');
}

async function triesOtherWay(t: Test, target: ConformanceTarget): Promise<void> {
  const { node } = target;
  const bench = new ConformanceBench(t, target);
  const pairs: [AccessKind, AccessKind][] = [
    ['mount', 'block'],
    ['block', 'mount'],
  ];
  for (const [kind, other] of pairs) {
    const { volumeId } = await bench.volume({ volumeCapabilities: [capability(kind)] });
    const stagingTargetPath = await bench.staged(volumeId, kind);
    const publish = {
      volumeId,
      stagingTargetPath,
      targetPath: bench.path('target'),
      volumeCapability: capability(other),
    };
    const code = await node.codeOf('Node.NodePublishVolume', publish);
    t.equal(code, 'FAILED_PRECONDITION', `${other} of what is staged as ${kind}`);
    if (kind === 'block') {
      const readonly = { ...publish, volumeCapability: capability('block'), readonly: true };
      t.equal(await node.codeOf('Node.NodePublishVolume', readonly), 'FAILED_PRECONDITION');
      continue;
    }
    t.equal(await node.codeOf('Node.NodeStageVolume', publish), 'ALREADY_EXISTS');
    const elsewhere = {
      ...publish,
      stagingTargetPath: bench.path('elsewhere'),
      volumeCapability: capability(kind),
    };
    t.equal(await node.codeOf('Node.NodeStageVolume', elsewhere), 'ALREADY_EXISTS');
  }
}
