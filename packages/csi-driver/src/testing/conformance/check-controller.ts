import type { Test } from 'tap';
import type { CsiVolume, VolumeEntry } from '../../messages.ts';
import { capability, ConformanceBench } from './target.ts';
import type { ConformanceTarget } from './target.ts';

/** An id of the right form that nothing has. */
export const unknownVolume = 'v-ffffffffffffffff';
export const unknownNode = 'n-ffffffffffffffff';

interface Volumes {
  entries: VolumeEntry[];
  nextToken: string;
}

export function checkIdentity(t: Test, target: ConformanceTarget): void {
  t.test('Identity', (t) => triesIdentity(t, target));
}

async function triesIdentity(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller, node } = target;
  for (const client of new Set([controller, node])) {
    const info = await client.call<{ name: string; vendorVersion: string }>(
      'Identity.GetPluginInfo',
    );
    t.match(info.name, /^[a-z0-9A-Z][a-z0-9A-Z.-]{0,61}[a-z0-9A-Z]$/);
    t.not(info.vendorVersion, '');
    const { capabilities } = await client.call<{ capabilities: object[] }>(
      'Identity.GetPluginCapabilities',
    );
    t.ok(capabilities.length > 0);
    t.notMatch(JSON.stringify(capabilities), /UNKNOWN/);
    t.same(await client.call('Identity.Probe'), { ready: { value: true } });
  }
  const rpcs = await controller.call<{ capabilities: { rpc: { type: string } }[] }>(
    'Controller.ControllerGetCapabilities',
  );
  t.ok(rpcs.capabilities.some(({ rpc }) => rpc.type === 'CREATE_DELETE_VOLUME'));
  t.notMatch(JSON.stringify(rpcs), /UNKNOWN/);
}

export function checkCreation(t: Test, target: ConformanceTarget): void {
  t.test('CreateVolume refuses what it cannot make', (t) => triesRefusedCreations(t, target));
  t.test('CreateVolume makes one volume for each name', (t) => triesRepeatedCreations(t, target));
  t.test('CreateVolume takes every name that the specification allows', (t) =>
    triesNames(t, target),
  );
  t.test('CreateVolume of a snapshot and of a volume', (t) => triesSources(t, target));
}

async function triesRefusedCreations(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const create = 'Controller.CreateVolume';
  const bench = new ConformanceBench(t, target);
  const request = (more: object): object => bench.request(bench.name('no'), more);
  const both = { snapshot: { snapshotId: '' } };
  const refused: [string, object][] = [
    ['without a name', { name: '' }],
    ['with a name of control characters', { name: 'a\u0007b' }],
    ['with a name that is too long', { name: 'x'.repeat(129) }],
    ['without capabilities', { volumeCapabilities: [] }],
    ['without an access type', { volumeCapabilities: [{ accessMode: { mode: 1 } }] }],
    ['without an access mode', { volumeCapabilities: [{ mount: {} }] }],
    ['with another file system', { volumeCapabilities: [withFs('fat')] }],
    ['for several hosts with a file system', { volumeCapabilities: [multi('mount')] }],
    ['with one writer among several hosts', { volumeCapabilities: [multiSingle()] }],
    ['with a parameter that there is not', { parameters: { colour: 'blue' } }],
    ['with a mutable one that there is not', { mutableParameters: { replicas: '2' } }],
    ['with a value that is not possible', { parameters: { replicas: 'many' } }],
    ['with a range that is none', { capacityRange: { requiredBytes: 2, limitBytes: 1 } }],
    ['with a negative range', { capacityRange: { requiredBytes: -1 } }],
    ['with a source without an id', { volumeContentSource: both }],
    ['with requirements that say nothing', { accessibilityRequirements: {} }],
    ['with too large a map', { parameters: { labels: 'x'.repeat(5_000) } }],
  ];
  for (const [what, more] of refused) {
    t.equal(await controller.codeOf(create, request(more)), 'INVALID_ARGUMENT', what);
  }
  const range = { requiredBytes: 2 ** 50 };
  t.equal(await controller.codeOf(create, request({ capacityRange: range })), 'OUT_OF_RANGE');
  const tight = { requiredBytes: 5_000, limitBytes: 6_000 };
  t.equal(await controller.codeOf(create, request({ capacityRange: tight })), 'OUT_OF_RANGE');
  for (const source of [{ snapshot: { snapshotId: 's-1' } }, { volume: { volumeId: 'none' } }]) {
    const code = await controller.codeOf(create, request({ volumeContentSource: source }));
    t.equal(code, 'NOT_FOUND', JSON.stringify(source));
  }
  const nowhere = { requisite: [{ segments: { 'csi.stor.internal/zone': 'moon' } }] };
  const code = await controller.codeOf(create, request({ accessibilityRequirements: nowhere }));
  t.equal(code, 'RESOURCE_EXHAUSTED');
}

async function triesRepeatedCreations(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const create = 'Controller.CreateVolume';
  const bench = new ConformanceBench(t, target);
  const name = bench.name('once');
  const volume = await bench.volume({}, name);
  t.ok(volume.capacityBytes >= target.volumeBytes);
  t.not(volume.volumeId, '');
  t.ok(volume.accessibleTopology.length > 0, 'it says from where it can be used');
  const again = await controller.call<{ volume: CsiVolume }>(create, bench.request(name));
  t.same(again.volume, volume);
  const twice = 2 * target.volumeBytes;
  const others: [string, object][] = [
    ['another size', { capacityRange: { requiredBytes: twice, limitBytes: twice } }],
    ['a smaller limit', { capacityRange: { limitBytes: target.volumeBytes - 4096 } }],
    ['other parameters', { parameters: { ...target.parameters, labels: 'app=other' } }],
    ['other mutable parameters', { mutableParameters: { 'qos.iops': '777' } }],
    ['for several hosts', { volumeCapabilities: [multi('block')] }],
    ['with a source', { volumeContentSource: { volume: { volumeId: volume.volumeId } } }],
  ];
  for (const [what, more] of others) {
    t.equal(await controller.codeOf(create, bench.request(name, more)), 'ALREADY_EXISTS', what);
  }
  const enough = { capacityRange: { requiredBytes: 4096 } };
  t.equal(await controller.codeOf(create, bench.request(name, enough)), 'OK', 'it is enough');
  await t.rejects(bench.volume({ volumeCapabilities: [] }));
}

async function triesNames(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const create = 'Controller.CreateVolume';
  const bench = new ConformanceBench(t, target);
  const names = [
    bench.name('').padEnd(128, 'n'),
    `${bench.name('ü')} Ωμέγα 卷 🦀`,
    `${bench.name('')}\t/..\\"'\n`,
    '卷'.repeat(118).concat(bench.name('').slice(-10)),
    `-${bench.name('leading')}`,
  ];
  const ids = new Set<string>();
  for (const name of names) {
    const { volumeId } = await bench.volume({}, name);
    ids.add(volumeId);
    const again = await controller.call<{ volume: CsiVolume }>(create, bench.request(name));
    t.equal(again.volume.volumeId, volumeId, name);
  }
  t.equal(ids.size, names.length);
}

async function triesSources(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const create = 'Controller.CreateVolume';
  const bench = new ConformanceBench(t, target);
  const source = await bench.volume();
  const snapshot = await bench.snapshot(source.volumeId);
  const sources = [
    { snapshot: { snapshotId: snapshot.snapshotId } },
    { volume: { volumeId: source.volumeId } },
  ];
  for (const volumeContentSource of sources) {
    const name = bench.name('copy');
    const more = { volumeContentSource };
    const copy = await bench.volume(more, name);
    t.not(copy.volumeId, source.volumeId);
    t.match(copy.contentSource, volumeContentSource);
    const again = await controller.call<{ volume: CsiVolume }>(create, bench.request(name, more));
    t.equal(again.volume.volumeId, copy.volumeId);
    t.equal(await controller.codeOf(create, bench.request(name)), 'ALREADY_EXISTS');
  }
  const larger = { requiredBytes: 2 * source.capacityBytes };
  const more = { volumeContentSource: sources[0], capacityRange: larger };
  t.equal((await bench.volume(more)).capacityBytes, larger.requiredBytes);
  const limited = { limitBytes: source.capacityBytes - 4096 };
  const small = { volumeContentSource: sources[0], capacityRange: limited };
  const code = await controller.codeOf(create, bench.request(bench.name('small'), small));
  t.equal(code, 'OUT_OF_RANGE');
}

const withFs = (fsType: string): object => ({ mount: { fsType }, accessMode: { mode: 1 } });
const multi = (kind: 'mount' | 'block'): object => capability(kind, 'MULTI_NODE_MULTI_WRITER');
const multiSingle = (): object => capability('block', 'MULTI_NODE_SINGLE_WRITER');

export function checkVolumeCalls(t: Test, target: ConformanceTarget): void {
  t.test('DeleteVolume', (t) => triesDeletion(t, target));
  t.test('ValidateVolumeCapabilities', (t) => triesValidation(t, target));
  t.test('ListVolumes and ControllerGetVolume', (t) => triesLists(t, target));
  t.test('GetCapacity', (t) => triesCapacity(t, target));
  t.test('ControllerExpandVolume', (t) => triesExpansion(t, target));
  t.test('ControllerModifyVolume', (t) => triesChanges(t, target));
}

async function triesDeletion(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const remove = 'Controller.DeleteVolume';
  t.equal(await controller.codeOf(remove), 'INVALID_ARGUMENT');
  for (const volumeId of ['anything', unknownVolume]) {
    t.equal(await controller.codeOf(remove, { volumeId }), 'OK', volumeId);
  }
  const { volumeId } = await bench.volume();
  const { snapshotId } = await bench.snapshot(volumeId);
  t.equal(await controller.codeOf(remove, { volumeId }), 'FAILED_PRECONDITION');
  await controller.call('Controller.DeleteSnapshot', { snapshotId });
  t.equal(await controller.codeOf(remove, { volumeId }), 'OK');
  t.equal(await controller.codeOf(remove, { volumeId }), 'OK', 'once more');
  t.equal(await controller.codeOf('Controller.ControllerGetVolume', { volumeId }), 'NOT_FOUND');
}

async function triesValidation(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const validate = 'Controller.ValidateVolumeCapabilities';
  const { volumeId, volumeContext } = await bench.volume();
  const volumeCapabilities = [capability('mount'), capability('block', 'SINGLE_NODE_MULTI_WRITER')];
  t.equal(await controller.codeOf(validate, { volumeCapabilities }), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(validate, { volumeId }), 'INVALID_ARGUMENT');
  const unknown = { volumeId: unknownVolume, volumeCapabilities };
  t.equal(await controller.codeOf(validate, unknown), 'NOT_FOUND');
  const good = { volumeId, volumeContext, volumeCapabilities, parameters: target.parameters };
  const answer = await controller.call<{ confirmed: { volumeCapabilities: object[] } | null }>(
    validate,
    good,
  );
  t.equal(answer.confirmed?.volumeCapabilities.length, 2);
  const bad: [string, object][] = [
    ['several hosts', { volumeCapabilities: [capability('block', 'MULTI_NODE_MULTI_WRITER')] }],
    ['another context', { volumeContext: { fs: 'other' } }],
    ['other parameters', { parameters: { colour: 'blue' } }],
  ];
  for (const [what, more] of bad) {
    const refused = await controller.call<{ confirmed: object | null; message: string }>(validate, {
      ...good,
      ...more,
    });
    t.equal(refused.confirmed, null, what);
    t.not(refused.message, '', what);
  }
}

async function triesLists(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const list = 'Controller.ListVolumes';
  t.equal(await controller.codeOf(list, { startingToken: 'invalid-token' }), 'ABORTED');
  t.equal(await controller.codeOf(list, { maxEntries: -1 }), 'INVALID_ARGUMENT');
  const made: string[] = [];
  for (let i = 0; i < 3; i++) made.push((await bench.volume()).volumeId);
  const idsOf = ({ entries }: Volumes): string[] => entries.map(({ volume }) => volume.volumeId);
  const all = await controller.call<Volumes>(list);
  for (const id of made) t.ok(idsOf(all).includes(id));
  t.equal(all.nextToken, '');
  const paged: string[] = [];
  let startingToken = '';
  for (let page = 0; page <= all.entries.length; page++) {
    const answer: Volumes = await controller.call(list, { maxEntries: 2, startingToken });
    t.ok(answer.entries.length <= 2);
    paged.push(...idsOf(answer));
    startingToken = answer.nextToken;
    if (startingToken === '') break;
  }
  t.same([...paged].sort(), idsOf(all).sort(), 'each once');
  const [volumeId = ''] = made;
  const get = 'Controller.ControllerGetVolume';
  const one = await controller.call<VolumeEntry>(get, { volumeId });
  t.equal(one.volume.volumeId, volumeId);
  t.type(one.status.volumeCondition.abnormal, 'boolean');
  t.not(one.status.volumeCondition.message, '');
  t.equal(await controller.codeOf(get), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(get, { volumeId: unknownVolume }), 'NOT_FOUND');
  await controller.call('Controller.DeleteVolume', { volumeId });
  t.notOk(idsOf(await controller.call<Volumes>(list)).includes(volumeId));
}

async function triesCapacity(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const capacity = 'Controller.GetCapacity';
  const free = async (request: object): Promise<number> =>
    (await controller.call<{ availableCapacity: number }>(capacity, request)).availableCapacity;
  t.ok((await free({})) > 0);
  const { accessibleTopology } = await target.node.call<{ accessibleTopology: object }>(
    'Node.NodeGetInfo',
  );
  const volumeCapabilities = [capability('mount')];
  const { parameters } = target;
  t.ok((await free({ parameters, volumeCapabilities, accessibleTopology })) > 0);
  t.equal(await free({ accessibleTopology: { segments: { nowhere: 'x' } } }), 0);
  t.equal(await free({ volumeCapabilities: [capability('mount', 'MULTI_NODE_MULTI_WRITER')] }), 0);
  t.equal(await controller.codeOf(capacity, { parameters: { no: '1' } }), 'INVALID_ARGUMENT');
}

async function triesExpansion(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const expand = 'Controller.ControllerExpandVolume';
  const { volumeId, capacityBytes } = await bench.volume();
  const requiredBytes = 2 * capacityBytes;
  const capacityRange = { requiredBytes };
  t.equal(await controller.codeOf(expand, { capacityRange }), 'INVALID_ARGUMENT');
  t.equal(await controller.codeOf(expand, { volumeId }), 'INVALID_ARGUMENT');
  const unknown = { volumeId: unknownVolume, capacityRange };
  t.equal(await controller.codeOf(expand, unknown), 'NOT_FOUND');
  for (const range of [{ limitBytes: capacityBytes - 4096 }, { requiredBytes: 2 ** 52 }]) {
    const code = await controller.codeOf(expand, { volumeId, capacityRange: range });
    t.equal(code, 'OUT_OF_RANGE', JSON.stringify(range));
  }
  const wrong = { volumeCapability: capability('mount', 'MULTI_NODE_MULTI_WRITER') };
  const code = await controller.codeOf(expand, { volumeId, capacityRange, ...wrong });
  t.equal(code, 'INVALID_ARGUMENT');
  for (let time = 0; time < 2; time++) {
    const answer = await controller.call(expand, { volumeId, capacityRange });
    t.same(answer, { capacityBytes: requiredBytes, nodeExpansionRequired: true });
  }
  const smaller = { volumeId, capacityRange: { requiredBytes: 4096 } };
  t.match(await controller.call(expand, smaller), { capacityBytes: requiredBytes });
}

async function triesChanges(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const modify = 'Controller.ControllerModifyVolume';
  const { volumeId } = await bench.volume({ mutableParameters: { 'qos.iops': '900' } });
  const mutableParameters = { 'qos.iops': '1000', failureMode: 'soft', 'qos.burst': '2x/5s' };
  t.equal(await controller.codeOf(modify, { mutableParameters }), 'INVALID_ARGUMENT');
  const unknown = { volumeId: unknownVolume, mutableParameters };
  t.equal(await controller.codeOf(modify, unknown), 'NOT_FOUND');
  for (const bad of [{ colour: 'blue' }, { 'qos.iops': 'lots' }, { policy: 'no-such-policy' }]) {
    const request = { volumeId, mutableParameters: { 'qos.weight': '7', ...bad } };
    t.equal(await controller.codeOf(modify, request), 'INVALID_ARGUMENT', JSON.stringify(bad));
  }
  for (let time = 0; time < 2; time++) {
    t.equal(await controller.codeOf(modify, { volumeId, mutableParameters }), 'OK');
  }
  const back = { 'qos.iops': 'none', 'qos.burst': 'none' };
  t.equal(await controller.codeOf(modify, { volumeId, mutableParameters: back }), 'OK');
  t.equal(await controller.codeOf(modify, { volumeId }), 'OK', 'nothing to change');
}

export function checkPublishing(t: Test, target: ConformanceTarget): void {
  t.test('ControllerPublishVolume and ControllerUnpublishVolume', (t) =>
    triesPublishing(t, target),
  );
}

async function triesPublishing(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const publish = 'Controller.ControllerPublishVolume';
  const unpublish = 'Controller.ControllerUnpublishVolume';
  const nodeId = await bench.nodeId();
  const { volumeId } = await bench.volume();
  const good = { volumeId, nodeId, volumeCapability: capability('mount') };
  const refused: [string, object, string][] = [
    ['without a volume', { volumeId: '' }, 'INVALID_ARGUMENT'],
    ['without a node', { nodeId: '' }, 'INVALID_ARGUMENT'],
    ['without a capability', { volumeCapability: null }, 'INVALID_ARGUMENT'],
    ['more than it can do', { volumeCapability: multi('block') }, 'INVALID_ARGUMENT'],
    ['an unknown volume', { volumeId: unknownVolume }, 'NOT_FOUND'],
    ['an unknown node', { nodeId: unknownNode }, 'NOT_FOUND'],
  ];
  for (const [what, more, code] of refused) {
    t.equal(await controller.codeOf(publish, { ...good, ...more }), code, what);
  }
  t.equal(await controller.codeOf(unpublish), 'INVALID_ARGUMENT');
  for (let time = 0; time < 2; time++) t.equal(await controller.codeOf(publish, good), 'OK');
  t.equal(await controller.codeOf(publish, { ...good, readonly: true }), 'ALREADY_EXISTS');
  const { status } = await controller.call<VolumeEntry>('Controller.ControllerGetVolume', {
    volumeId,
  });
  t.same(status.publishedNodeIds, [nodeId]);
  t.equal(await controller.codeOf('Controller.DeleteVolume', { volumeId }), 'FAILED_PRECONDITION');
  t.equal(await controller.codeOf(unpublish, { volumeId, nodeId: unknownNode }), 'OK');
  for (let time = 0; time < 2; time++) {
    t.equal(await controller.codeOf(unpublish, { volumeId, nodeId }), 'OK');
  }
  t.equal(await controller.codeOf(publish, { ...good, readonly: true }), 'OK');
  t.equal(await controller.codeOf(unpublish, { volumeId }), 'OK', 'of all nodes');
  t.equal(await controller.codeOf(unpublish, { volumeId: unknownVolume, nodeId }), 'OK');
}
