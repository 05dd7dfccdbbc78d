import { MemoryVolumes } from '@stor/host-attach/testing';
import type { Volume } from '@stor/protocol';
import t from 'tap';
import { differences } from '../src/core/volume-differences.ts';
import { checkCloneOptions, cloneOrder, createOrder } from '../src/core/volume-orders.ts';
import { parseVolumeOptions } from '../src/core/volume-options.ts';
import { dataFolderChoice } from '../src/core/data-folder-choice.ts';

const parse = parseVolumeOptions;

t.test('a volume is created as the options say, then the defaults', async (t) => {
  t.same(createOrder('db', {}), {
    name: 'db',
    sizeBytes: 10 * 2 ** 30,
    replicas: 0,
    labels: { 'docker.stor/fs': 'ext4' },
  });
  const defaults = parse({ size: '1GiB', replicas: '2', fs: 'xfs', labels: 'by=docker,app=none' });
  t.same(createOrder('db', parse({ replicas: '3', labels: 'app=db' }), defaults), {
    name: 'db',
    sizeBytes: 2 ** 30,
    replicas: 3,
    labels: { 'docker.stor/fs': 'xfs', by: 'docker', app: 'db' },
  });
  t.same(createOrder('db', parse({ 'failure-mode': 'hard', policy: 'gold', 'qos.iops': '5' })), {
    name: 'db',
    sizeBytes: 10 * 2 ** 30,
    replicas: 0,
    labels: { 'docker.stor/fs': 'ext4' },
    policy: { failureMode: 'hard' },
    qos: { iops: 5 },
    policyName: 'gold',
  });
  const xfs = parse({ fs: 'xfs', 'mkfs-options': '-m reflink=0' });
  const other = createOrder('db', parse({ fs: 'ext4' }), xfs);
  t.same(other.labels, { 'docker.stor/fs': 'ext4' }, 'mkfs of another file system');
  t.equal(createOrder('db', {}, xfs).labels['docker.stor/mkfs-options'], '-m:20reflink:3D0');
});

t.test('a volume that no file system fits on is refused', async (t) => {
  t.throws(() => createOrder('db', parse({ size: '1MiB' })), /ext4 needs at least 8MiB/);
  t.throws(
    () => createOrder('db', parse({ size: '128MiB', fs: 'xfs' })),
    /xfs needs at least 300MiB/,
  );
});

t.test('a clone has what its source has', async (t) => {
  const volumes = new MemoryVolumes();
  const labels = { app: 'db', 'docker.stor/fs': 'xfs', 'docker.stor/mount-options': 'noatime' };
  const source = volumes.add('db', { labels });
  const from = { volume: 'db', snapshot: 'mo' };
  t.same(cloneOrder('db2', { from }, source, parse({ size: '5GiB', labels: 'by=docker' })), {
    source: 'db',
    snapshot: 'mo',
    name: 'db2',
    sizeBytes: 0,
    labels: { by: 'docker', 'docker.stor/fs': 'xfs', 'docker.stor/mount-options': 'noatime' },
  });
  const options = parse({ size: '5GiB', 'failure-mode': 'hard', 'mount-options': 'discard' });
  t.same(cloneOrder('db2', { ...options, from }, source), {
    source: 'db',
    snapshot: 'mo',
    name: 'db2',
    sizeBytes: 5 * 2 ** 30,
    labels: { 'docker.stor/fs': 'xfs', 'docker.stor/mount-options': 'discard' },
    policy: { failureMode: 'hard' },
  });
  for (const [name, text] of [
    ['replicas', '2'],
    ['fs', 'xfs'],
    ['policy', 'gold'],
    ['qos.iops', '5'],
    ['mkfs-options', '-K'],
  ] as const) {
    t.throws(() => checkCloneOptions(parse({ from: 'db', [name]: text })), /does not go with from/);
    t.doesNotThrow(() => checkCloneOptions(parse({ [name]: text })));
  }
});

t.test('an existing volume is compared with what was said, and with nothing else', async (t) => {
  const volume: Volume = new MemoryVolumes().add('db', {
    sizeBytes: 2 ** 30,
    labels: { app: 'db', 'docker.stor/fs': 'ext4', 'docker.stor/mkfs-options': '-m:201' },
  });
  volume.spec.qos = { iops: 5000, burst: { factor: 2, seconds: 30 } };
  volume.spec.policyName = 'gold';
  const differs = (options: Record<string, string>): string[] =>
    differences(parse(options), volume);
  t.same(differs({}), []);
  const same = { size: '1GiB', replicas: '3', fs: 'ext4', policy: 'gold', 'failure-mode': 'soft' };
  const more = {
    'qos.iops': '5k',
    'qos.burst': '2x/30s',
    labels: 'app=db',
    'mkfs-options': '-m 1',
  };
  t.same(differs({ ...same, ...more }), []);
  t.same(
    differs({
      size: '1073741825',
      replicas: '2',
      fs: 'xfs',
      policy: 'silver',
      'failure-mode': 'hard',
      'qos.iops': '1',
      'qos.bps': '1MiB',
      labels: 'app=web,new=',
      'mkfs-options': '-m 2',
      'mount-options': 'noatime',
      from: 'x@y',
    }),
    [
      'size: 1GiB, not 1073741825 bytes',
      'replicas: 3, not 2',
      'policy: gold, not silver',
      'failure-mode: soft, not hard',
      'fs: ext4, not xfs',
      'mkfs-options: -m 1, not -m 2',
      'mount-options: none, not noatime',
      'label app: db, not web',
      'label new: none, not (empty)',
      'qos.iops: 5000, not 1',
      'qos.bps: none, not 1MiB',
      'from: none, not x@y',
    ],
  );
  const { id } = volume.metadata;
  volume.status.origin = { volumeId: id, volume: 'x', snapshotId: 's-1', snapshot: 'y' };
  t.same(differs({ from: 'x@y' }), []);
  t.same(differs({ from: `${id}@s-1` }), [], 'by ids');
  t.same(differs({ from: 'x' }), ['from: x@y, not x']);
});

t.test('containers get a folder without lost+found, and what others have put there', async (t) => {
  t.equal(dataFolderChoice([]), 'make');
  t.equal(dataFolderChoice(['lost+found']), 'make');
  t.equal(dataFolderChoice(['lost+found', 'stor-data']), 'folder');
  t.equal(dataFolderChoice(['stor-data', 'x']), 'folder');
  t.equal(dataFolderChoice(['lost+found', 'PG_VERSION']), 'root');
});
