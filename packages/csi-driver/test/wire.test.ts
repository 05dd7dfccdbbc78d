// Bytes as any other client of the specification writes and reads them: the numbers of fields and the values of
// enums, which no test of ours alone would miss.
import t from 'tap';
import { loadCsiServices } from '../src/index.ts';
import { asRpcs, controllerCapabilities, nodeCapabilities } from '../src/core/driver-info.ts';

const services = await loadCsiServices();

function method(service: keyof typeof services, name: string) {
  const found = services[service][name];
  if (!found) throw new Error(`no call ${name}`);
  return found;
}

/** Hexadecimal digits, blanks for people. */
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');

t.test('paths of calls', async (t) => {
  t.equal(method('Controller', 'CreateVolume').path, '/csi.v1.Controller/CreateVolume');
  t.equal(method('Node', 'NodeStageVolume').path, '/csi.v1.Node/NodeStageVolume');
  t.equal(
    method('SnapshotMetadata', 'GetMetadataDelta').path,
    '/csi.v1.SnapshotMetadata/GetMetadataDelta',
  );
});

t.test('requests', async (t) => {
  const read = (service: keyof typeof services, name: string, bytes: string): unknown =>
    method(service, name).requestDeserialize(hex(bytes));
  t.match(
    read(
      'Controller',
      'CreateVolume',
      // name, capacity_range, a capability (mount: xfs, group 5; mode 7), a parameter, a mutable one
      '0a0161 1205 0880808001 1a0e 1208 0a03786673 1a0135 1a02 0807 2206 0a016b 120176 4206 0a016d 120178',
    ),
    {
      name: 'a',
      capacityRange: { requiredBytes: 2 ** 21, limitBytes: 0 },
      volumeCapabilities: [
        {
          mount: { fsType: 'xfs', mountFlags: [], volumeMountGroup: '5' },
          accessMode: { mode: 'SINGLE_NODE_MULTI_WRITER' },
        },
      ],
      parameters: { k: 'v' },
      mutableParameters: { m: 'x' },
      volumeContentSource: null,
      accessibilityRequirements: null,
    },
  );
  t.match(read('Node', 'NodePublishVolume', '0a0176 1a0173 220174 2a06 0a00 1a02 0801 3001'), {
    volumeId: 'v',
    stagingTargetPath: 's',
    targetPath: 't',
    volumeCapability: { block: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } },
    readonly: true,
  });
  t.match(read('Controller', 'ControllerModifyVolume', '0a0176 1a06 0a016b 120176'), {
    volumeId: 'v',
    mutableParameters: { k: 'v' },
  });
  t.match(read('Controller', 'ListSnapshots', '0802 120174 1a0176 220173'), {
    maxEntries: 2,
    startingToken: 't',
    sourceVolumeId: 'v',
    snapshotId: 's',
  });
  t.match(read('Node', 'NodeExpandVolume', '0a0176 120170 1a02 1005 220173'), {
    volumePath: 'p',
    capacityRange: { requiredBytes: 0, limitBytes: 5 },
  });
  t.match(read('GroupController', 'CreateVolumeGroupSnapshot', '0a0167 120161 120162'), {
    name: 'g',
    sourceVolumeIds: ['a', 'b'],
  });
  const negative = read('Controller', 'ControllerExpandVolume', '120b 08ffffffffffffffffff01');
  t.match(negative, { capacityRange: { requiredBytes: -1 } });
});

t.test('answers', async (t) => {
  const written = (service: keyof typeof services, name: string, answer: object): string =>
    method(service, name).responseSerialize(answer).toString('hex');
  const same = (got: string, wanted: string, what: string): unknown =>
    t.equal(got, wanted.replaceAll(' ', ''), what);
  const volume = { volumeId: 'v', capacityBytes: 5, volumeContext: { k: 'v' } };
  same(
    written('Controller', 'CreateVolume', { volume }),
    '0a0d 0805 120176 1a06 0a016b 120176',
    'a volume',
  );
  const status = { publishedNodeIds: ['n'], volumeCondition: { abnormal: true, message: 'm' } };
  same(
    written('Controller', 'ListVolumes', { entries: [{ status }], nextToken: 't' }),
    '0a0c 120a 0a016e 1205 0801 12016d 120174',
    'a list',
  );
  const snapshot = {
    sizeBytes: 5,
    snapshotId: 's',
    sourceVolumeId: 'v',
    creationTime: { seconds: 7, nanos: 0 },
    readyToUse: true,
    groupSnapshotId: 'g',
  };
  same(
    written('Controller', 'CreateSnapshot', { snapshot }),
    '0a13 0805 120173 1a0176 2204 0807 1000 2801 320167',
    'a snapshot',
  );
  same(
    written('Controller', 'GetCapacity', {
      availableCapacity: 1,
      maximumVolumeSize: { value: 2 },
      minimumVolumeSize: { value: 3 },
    }),
    '0801 1202 0802 1a02 0803',
    'capacity',
  );
  same(written('Identity', 'Probe', { ready: { value: true } }), '0a02 0801', 'ready');
  const numbers = (types: readonly string[]): number[] => {
    const bytes = method('Controller', 'ControllerGetCapabilities').responseSerialize({
      capabilities: asRpcs(types),
    });
    return [...bytes].filter((_byte, index) => index % 6 === 5);
  };
  t.same(numbers(controllerCapabilities), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
  const node = method('Node', 'NodeGetCapabilities').responseSerialize({
    capabilities: asRpcs(nodeCapabilities),
  });
  t.same(
    [...node].filter((_byte, index) => index % 6 === 5),
    [1, 2, 3, 4, 5, 6],
  );
});
