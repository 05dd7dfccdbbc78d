import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { idPattern, maxVolumeBytes, volumeNamePattern } from '@stor/protocol';
import type { Disk, Node } from '@stor/protocol';
import t from 'tap';
import { needsShared, readAccess, unsupportedBy } from '../src/core/access-modes.ts';
import { availableBytes } from '../src/core/available-capacity.ts';
import { grownSize, newSize, sizeMismatch } from '../src/core/capacity-range.ts';
import { csiError, csiStatusOf } from '../src/core/csi-error.ts';
import { canonicalText, isNamed, isOfCsi, nameLabels, storName } from '../src/core/csi-names.ts';
import { pageOf } from '../src/core/list-page.ts';
import { bindsOfFolder, mountAt, parseMountTable } from '../src/core/mount-table.ts';
import { readChange, readSettings } from '../src/core/parameters.ts';
import { maxPendingOperations, PendingOperations } from '../src/core/pending-operations.ts';
import { TopologyKeys } from '../src/core/topology.ts';
import { timestampOf } from '../src/core/volume-view.ts';
import { StorError } from '@stor/protocol';
import { MemoryCluster } from '../src/testing/index.ts';

const digest = (text: string): string => createHash('sha256').update(text).digest('hex');
const codeOf = (run: () => unknown): string => {
  try {
    run();
    return 'OK';
  } catch (error) {
    return csiStatusOf(error).code;
  }
};

t.test('names of orchestrators become names of volumes', async (t) => {
  t.equal(storName('pvc-0c7b1a3e', digest), 'pvc-0c7b1a3e');
  t.not(storName('v-0123456789abcdef', digest), 'v-0123456789abcdef', 'it would look like an id');
  const hashed = storName('Ωμέγα', digest);
  t.match(hashed, /^csi-[0-9a-f]{40}$/);
  t.not(storName(hashed, digest), hashed, 'nobody else is called like that');
  const names = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 128 });
  fc.assert(
    fc.property(names, names, (one, other) => {
      const name = storName(one, digest);
      if (!volumeNamePattern.test(name) || idPattern.test(name)) return false;
      return (name === storName(other, digest)) === (one === other);
    }),
  );
  fc.assert(
    fc.property(names, names, (one, other) => {
      const labels = nameLabels(one);
      const isKept = Object.values(labels).every((value) =>
        /^[A-Za-z0-9_.:/-]{1,128}$/.test(value),
      );
      return (
        isKept &&
        isOfCsi(labels) &&
        isNamed(labels, one) &&
        isNamed(labels, other) === (one === other)
      );
    }),
  );
  const long = '卷'.repeat(128);
  const text = Buffer.from(long).toString('base64url');
  t.equal(Object.values(nameLabels(long)).join(''), text);
});

t.test('texts of values do not depend on the order of keys', async (t) => {
  t.equal(
    canonicalText({ b: [1, { d: 2, c: null }], a: 'x' }),
    '{"a":"x","b":[1,{"c":null,"d":2}]}',
  );
  t.not(canonicalText({ a: '1' }), canonicalText({ a: 1 }));
});

t.test('capacity ranges', async (t) => {
  const none = { fileSystem: null, sourceBytes: 0 };
  t.equal(newSize(null, none), 2 ** 30);
  t.equal(newSize({ requiredBytes: 5_000, limitBytes: 0 }, none), 8_192);
  t.equal(newSize({ requiredBytes: 0, limitBytes: 8_192 }, none), 8_192);
  t.equal(
    newSize({ requiredBytes: 1, limitBytes: 0 }, { ...none, fileSystem: 'xfs' }),
    300 * 2 ** 20,
  );
  t.equal(newSize(null, { ...none, sourceBytes: 5 * 2 ** 30 }), 5 * 2 ** 30);
  const over: [number, number, object][] = [
    [5_000, 6_000, {}],
    [0, 2 ** 20, { fileSystem: 'ext4' }],
    [0, 2 ** 20, { sourceBytes: 2 ** 21 }],
    [maxVolumeBytes + 1, 0, {}],
    [Number.MAX_SAFE_INTEGER, 0, {}],
  ];
  for (const [requiredBytes, limitBytes, more] of over) {
    const range = { requiredBytes, limitBytes };
    t.equal(
      codeOf(() => newSize(range, { ...none, ...more })),
      'OUT_OF_RANGE',
      `${requiredBytes}`,
    );
  }
  t.equal(grownSize({ requiredBytes: 1, limitBytes: 0 }, 8_192), 8_192, 'never smaller');
  t.equal(
    codeOf(() => grownSize({ requiredBytes: 0, limitBytes: 4_096 }, 8_192)),
    'OUT_OF_RANGE',
  );
  t.equal(sizeMismatch({ requiredBytes: 4_096, limitBytes: 8_192 }, 8_192), '');
  t.not(sizeMismatch({ requiredBytes: 4_096, limitBytes: 8_191 }, 8_192), '');
  t.not(sizeMismatch({ requiredBytes: 8_193, limitBytes: 0 }, 8_192), '');
  fc.assert(
    fc.property(
      fc.nat(2 ** 31 - 1),
      fc.nat(2 ** 31 - 1),
      fc.constantFrom(null, 'ext4' as const, 'xfs' as const),
      (requiredBytes, more, fileSystem) => {
        const range = { requiredBytes, limitBytes: more === 0 ? 0 : requiredBytes + more };
        try {
          const size = newSize(range, { fileSystem, sourceBytes: 0 });
          return size % 4096 === 0 && sizeMismatch(range, size) === '';
        } catch (error) {
          return csiStatusOf(error).code === 'OUT_OF_RANGE' && range.limitBytes > 0;
        }
      },
    ),
  );
});

t.test('access modes', async (t) => {
  const access = (kind: 'mount' | 'block', mode: string) =>
    readAccess({
      ...(kind === 'block'
        ? { block: {} }
        : { mount: { fsType: '', mountFlags: [], volumeMountGroup: '' } }),
      accessMode: { mode: mode as 'SINGLE_NODE_WRITER' },
    });
  const single = ['WRITER', 'READER_ONLY', 'SINGLE_WRITER', 'MULTI_WRITER'];
  for (const mode of single.map((each) => `SINGLE_NODE_${each}`)) {
    for (const kind of ['mount', 'block'] as const) {
      t.equal(unsupportedBy({ shared: false }, access(kind, mode)), '', `${mode} ${kind}`);
    }
  }
  for (const mode of ['MULTI_NODE_READER_ONLY', 'MULTI_NODE_MULTI_WRITER']) {
    t.equal(unsupportedBy({ shared: true }, access('block', mode)), '', mode);
    t.not(unsupportedBy({ shared: false }, access('block', mode)), '');
    t.not(unsupportedBy({ shared: true }, access('mount', mode)), '');
  }
  t.not(unsupportedBy({ shared: true }, access('mount', 'SINGLE_NODE_WRITER')), '');
  t.not(unsupportedBy({ shared: true }, access('block', 'MULTI_NODE_SINGLE_WRITER')), '');
  t.equal(needsShared([access('block', 'SINGLE_NODE_WRITER')]), false);
  const both = [access('block', 'MULTI_NODE_MULTI_WRITER'), access('mount', 'SINGLE_NODE_WRITER')];
  t.equal(
    codeOf(() => needsShared(both)),
    'INVALID_ARGUMENT',
  );
  const grouped = (volumeMountGroup: string) => () =>
    readAccess({
      mount: { fsType: 'xfs', mountFlags: ['noatime'], volumeMountGroup },
      accessMode: { mode: 'SINGLE_NODE_WRITER' },
    });
  t.match(grouped('1000')(), { gid: 1000, fileSystem: 'xfs', mountFlags: ['noatime'] });
  for (const group of ['staff', '-1', '4294967295', '1.5']) {
    t.equal(codeOf(grouped(group)), 'INVALID_ARGUMENT', group);
  }
  const flags = { fsType: '', mountFlags: ['x'.repeat(4_097)], volumeMountGroup: '' };
  const large = { mount: flags, accessMode: { mode: 'SINGLE_NODE_WRITER' as const } };
  t.equal(
    codeOf(() => readAccess(large)),
    'INVALID_ARGUMENT',
  );
  t.equal(
    codeOf(() => readAccess({ block: {}, accessMode: { mode: 42 } })),
    'INVALID_ARGUMENT',
  );
});

t.test('parameters', async (t) => {
  const settings = readSettings(
    {
      ...{ replicas: '2', fs: 'xfs', diskTag: 'ssd', failureMode: 'hard', onLoss: 'error' },
      ...{
        ioTimeout: '30s',
        policy: 'gold',
        requiredDomains: 'rack',
        preferredDomains: 'zone,rack',
      },
      ...{ nodeSelector: 'class=fast', labels: 'tenant=acme,app=db', 'qos.iops': '5k' },
      ...{ 'qos.read-bps': '10MiB', 'qos.burst': '2.5x/30s', 'qos.weight': '200' },
      'csi.storage.k8s.io/pvc/name': 'data-db-0',
      'csi.storage.k8s.io/pv/name': 'pvc-1',
    },
    { 'qos.iops': '700', policy: 'none' },
  );
  t.match(settings, {
    replicas: 2,
    fileSystem: 'xfs',
    diskTag: 'ssd',
    policy: { failureMode: 'hard', onLoss: 'error', ioTimeoutMs: 30_000 },
    policyName: '',
    placement: { required: ['rack'], preferred: ['zone', 'rack'], nodeSelector: { class: 'fast' } },
    labels: { tenant: 'acme', app: 'db', 'csi/pvc': 'data-db-0', 'csi/pv': 'pvc-1' },
    qos: {
      set: {
        iops: 700,
        readBps: 10 * 2 ** 20,
        burst: { factor: 2.5, seconds: 30 },
        weight: 200,
      },
      clear: [],
    },
  });
  t.match(readChange({ 'qos.min-iops': 'none', 'qos.bps': 'unlimited' }), {
    qos: { set: { bps: 0 }, clear: ['minIops'] },
  });
  const wrong: Record<string, string>[] = [
    { replicas: '0' },
    { replicas: '6' },
    { replicas: '2.0' },
    { fs: 'btrfs' },
    { failureMode: 'maybe' },
    { failureMode: 'threshold=9' },
    { onLoss: 'panic' },
    { ioTimeout: 'soon' },
    { ioTimeout: '999999s' },
    { policy: 'not a name' },
    { nodeSelector: 'class' },
    { labels: 'csi/name=mine' },
    { labels: 'tenant=a b' },
    { 'qos.iops': '-1' },
    { 'qos.iops': '5000.5' },
    { 'qos.bps': 'fast' },
    { 'qos.burst': '2x' },
    { 'qos.weight': '0' },
    { 'qos.weight': '99999' },
    { 'qos.iops': '100', 'qos.read-iops': '200' },
    { 'qos.colour': '1' },
    { size: '1GiB' },
    { encryption: 'on' },
    { 'csi.storage.k8s.io/fstype': 'ext4' },
  ];
  for (const parameters of wrong) {
    const code = codeOf(() => readSettings(parameters, {}));
    t.equal(code, 'INVALID_ARGUMENT', JSON.stringify(parameters));
  }
  for (const fixed of ['replicas', 'fs', 'diskTag', 'labels', 'nodeSelector']) {
    t.equal(
      codeOf(() => readChange({ [fixed]: '1' })),
      'INVALID_ARGUMENT',
      fixed,
    );
  }
});

t.test('pages in the order of ids', async (t) => {
  const id = (n: number): string => `v-${String(n).padStart(16, '0')}`;
  const all = [5, 3, 9, 1, 7].map(id);
  const page = (items: string[], maxEntries: number, startingToken: string) =>
    pageOf(items, (each) => each, { maxEntries, startingToken });
  const first = page(all, 2, '');
  t.same(first.page, [1, 3].map(id));
  // what was shown last is deleted, and another one is made behind it
  const later = [...all.filter((each) => each !== id(3)), id(4), id(2)];
  t.same(page(later, 2, first.nextToken).page, [4, 5].map(id));
  t.same(page(all, 0, '').page, [1, 3, 5, 7, 9].map(id));
  t.equal(page(all, 5, '').nextToken, '', 'nothing more');
  for (const token of ['x', 'after:', 'after:zzz', '3']) {
    t.equal(
      codeOf(() => page(all, 1, token)),
      'ABORTED',
      token,
    );
  }
});

t.test('one operation at a time', async (t) => {
  const pending = new PendingOperations();
  const end = pending.begin(['volume a', 'volume b'], 'CreateVolume');
  t.equal(
    codeOf(() => pending.begin(['volume b'], 'DeleteVolume')),
    'ABORTED',
  );
  pending.begin(['volume c'], 'DeleteVolume')();
  end();
  pending.begin(['volume b'], 'DeleteVolume')();
  t.equal(pending.size, 0);
  for (let i = 0; i < maxPendingOperations; i++) pending.begin([`volume ${i}`], 'DeleteVolume');
  t.equal(
    codeOf(() => pending.begin(['volume x'], 'DeleteVolume')),
    'ABORTED',
    'bounded',
  );
});

t.test('topology', async (t) => {
  const keys = new TopologyKeys('CSI.stor.internal');
  const cluster = new MemoryCluster();
  const nodes = [
    cluster.addNode('n1', { zone: 'a', rack: 'r1' }),
    cluster.addNode('n2', { zone: 'b', rack: 'with:colon' }),
  ];
  const [first, second] = nodes;
  if (!first || !second) throw new Error('no nodes');
  const prefix = 'csi.stor.internal';
  t.same(keys.ofNode(first, 'c-1'), {
    segments: {
      [`${prefix}/cluster`]: 'c-1',
      [`${prefix}/node`]: 'n1',
      [`${prefix}/zone`]: 'a',
      [`${prefix}/rack`]: 'r1',
    },
  });
  t.notOk(`${prefix}/rack` in keys.ofNode(second, 'c-1').segments, 'no value of a segment');
  t.same(keys.ofVolume('c-1'), [{ segments: { [`${prefix}/cluster`]: 'c-1' } }]);
  const at = (node: Node) => keys.ofNode(node, 'c-1');
  const chosen = (requisite: Node[], preferred: Node[]): string =>
    keys.chosenNode({ requisite: requisite.map(at), preferred: preferred.map(at) }, nodes, 'c-1');
  t.equal(keys.chosenNode(null, nodes, 'c-1'), '');
  t.equal(chosen([first, second], [second, first]), second.metadata.id);
  t.equal(chosen([first], []), '', 'nobody prefers a node');
  second.status.computeOnly = true;
  t.equal(chosen([first, second], [second, first]), first.metadata.id, 'it takes no replica');
  const zone = { requisite: [], preferred: [{ segments: { [`${prefix}/zone`]: 'b' } }] };
  t.equal(keys.chosenNode(zone, nodes, 'c-1'), '', 'a zone is no node');
  t.equal(
    codeOf(() => keys.chosenNode(zone, nodes, 'c-2')),
    'OK',
  );
  const other = { requisite: [at(first)], preferred: [] };
  t.equal(
    codeOf(() => keys.chosenNode(other, nodes, 'c-2')),
    'RESOURCE_EXHAUSTED',
  );
});

t.test('room for a volume', async (t) => {
  const cluster = new MemoryCluster();
  for (const name of ['n1', 'n2', 'n3']) cluster.addNode(name);
  const { nodes } = await cluster.listNodes({});
  const { disks } = await cluster.listDisks({});
  const { settings } = await cluster.listPools({});
  const gib = 2 ** 30;
  const room = (gibs: number[], replicas: number, diskTag = ''): number => {
    const filled = disks.map((disk, index): Disk => {
      const provisionedBytes = (100 - (gibs[index] ?? 0)) * gib;
      return { ...disk, status: { ...disk.status, provisionedBytes } };
    });
    return availableBytes(nodes, filled, { replicas, diskTag }, settings) / gib;
  };
  t.equal(room([100, 100, 100], 3), 100);
  t.equal(room([100, 50, 20], 3), 20);
  t.equal(room([100, 50, 20], 2), 70, 'segments may lie on different pairs');
  t.equal(room([100, 50, 20], 1), 170);
  t.equal(room([100, 100, 100], 4), 0);
  t.equal(room([100, 100, 100], 1, 'hdd'), 0);
  const [node] = nodes;
  if (node) node.status.state = 'down';
  t.equal(room([100, 50, 20], 2), 20);
});

t.test('the kernel’s table of mounts', async (t) => {
  const table = parseMountTable(
    [
      '22 28 0:20 / /proc rw,nosuid - proc proc rw',
      '30 28 7:3 / /stage\\040one rw,noatime - ext4 /dev/loop3 rw',
      '31 28 7:3 / /pods/a ro,noatime - ext4 /dev/loop3 rw',
      '32 28 7:3 /sub /pods/b rw - ext4 /dev/loop3 rw',
      '33 28 0:5 /loop3 /pods/dev rw shared:2 - devtmpfs udev rw',
      '34 28 7:4 / /pods/a rw - ext4 /dev/loop4 ro',
      'nonsense',
      '',
    ].join('\n'),
  );
  t.equal(table.length, 6);
  t.match(bindsOfFolder(table, '/stage one'), [{ directory: '/pods/a', readOnly: true }]);
  t.equal(bindsOfFolder(table, '/stage one').length, 1, 'not of a folder within it');
  t.same(bindsOfFolder(table, '/nowhere'), []);
  t.match(mountAt(table, '/pods/a'), { device: '7:4', readOnly: true });
  t.equal(mountAt(table, '/pods'), null);
});

t.test('errors', async (t) => {
  t.same(csiStatusOf(csiError('OUT_OF_RANGE', 'too large')), {
    code: 'OUT_OF_RANGE',
    number: 11,
    message: 'too large',
  });
  const codes: [StorError, string][] = [
    [new StorError('NO_SPACE', 'x'), 'RESOURCE_EXHAUSTED'],
    [new StorError('OUTCOME_UNKNOWN', 'x'), 'UNAVAILABLE'],
    [new StorError('TIMEOUT', 'x'), 'DEADLINE_EXCEEDED'],
    [new StorError('ATTACHED_ELSEWHERE', 'x'), 'FAILED_PRECONDITION'],
    [new StorError('CONFLICT', 'x', { details: { csiCode: 'nonsense' } }), 'ABORTED'],
  ];
  for (const [error, code] of codes) t.equal(csiStatusOf(error).code, code);
  t.equal(csiStatusOf(new TypeError('a fault')).code, 'INTERNAL');
  t.same(timestampOf(1_700_000_000_250), { seconds: 1_700_000_000, nanos: 250_000_000 });
});
