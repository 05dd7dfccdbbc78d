import { StorError } from '@stor/protocol';
import t from 'tap';
import { judgeDevice, judgeFileSystem, minDeviceBytes } from '../src/core/devices/judge-device.ts';
import { mountOf, parseMountTable, parseSignatures } from '../src/core/devices/mount-table.ts';
import type { DeviceFindings } from '../src/devices/block-devices.ts';

const empty: DeviceFindings = {
  path: '/dev/sdb',
  sizeBytes: minDeviceBytes,
  readOnly: false,
  mounts: [],
  holders: [],
  partitions: [],
  isInUse: false,
  signatures: [],
  hasData: false,
};

function said(run: () => unknown): string {
  try {
    run();
    return 'accepted';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('what is on a device refuses it, unless it is given up by force', async (t) => {
  const judged = (change: Partial<DeviceFindings>, force = false): string =>
    said(() => {
      judgeDevice({ ...empty, ...change }, force);
    });
  t.equal(judged({}), 'accepted');
  const contents: [Partial<DeviceFindings>, RegExp][] = [
    [
      { signatures: ['a signature of ext4 "data"'], hasData: true },
      /has a signature of ext4 "data":/,
    ],
    [{ signatures: ['a signature of dos'], partitions: ['sdb1'] }, /of dos, partitions sdb1:/],
    [{ hasData: true }, /data of an unknown kind/],
  ];
  for (const [change, message] of contents) {
    t.match(judged(change), /^FOREIGN_DATA: .*nothing was changed.*--force-format/);
    t.match(judged(change), message);
    t.equal(judged(change, true), 'accepted', 'by force');
  }
  const uses: [Partial<DeviceFindings>, RegExp][] = [
    [{ mounts: ['/home', '/var'] }, /^IN_USE: .*is mounted at \/home, \/var/],
    [{ holders: ['dm-0'] }, /^IN_USE: .*is part of dm-0/],
    [{ isInUse: true }, /^IN_USE: .*is in use/],
    [{ readOnly: true }, /^FAILED_PRECONDITION: .*read-only/],
    [{ sizeBytes: minDeviceBytes - 1 }, /^FAILED_PRECONDITION: .*at least 320MiB/],
  ];
  for (const [change, message] of uses) {
    t.match(judged(change), message);
    t.match(judged(change, true), message, 'what is in use stays, whatever is asked');
  }
});

t.test('file systems that cannot hold replicas are refused with the reason', async (t) => {
  t.equal(judgeFileSystem('/d', 'xfs'), '');
  t.equal(judgeFileSystem('/d', 'ext4'), '');
  t.match(judgeFileSystem('/d', 'btrfs'), /btrfs; only ext4 and xfs are tested/);
  t.match(
    said(() => judgeFileSystem('/d', 'tmpfs')),
    /^FAILED_PRECONDITION: .*\(tmpfs\) is in memory/,
  );
  t.match(
    said(() => judgeFileSystem('/d', 'nfs4')),
    /on the network/,
  );
});

t.test('the table of mounts, and what wipefs prints', async (t) => {
  const table = parseMountTable(
    [
      '22 1 254:0 / / rw,relatime - ext4 /dev/vda rw',
      '23 22 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw',
      '44 22 7:0 / /mnt/my\\040disk rw,noatime shared:7 master:1 - xfs /dev/loop0 rw,inode64',
      '45 44 7:1 / /mnt/my\\040disk rw - xfs /dev/loop1 rw',
      'nonsense',
      '',
    ].join('\n'),
  );
  t.equal(table.length, 4);
  t.same(table[2], { device: '7:0', directory: '/mnt/my disk', type: 'xfs', source: '/dev/loop0' });
  t.equal(mountOf(table, '/mnt/my disk/x')?.source, '/dev/loop1', 'the last one hides the others');
  t.equal(mountOf(table, '/mnt/my diskette')?.source, '/dev/vda');
  t.equal(mountOf(table, '/dev')?.type, 'devtmpfs');
  t.equal(mountOf([], '/'), null);
  t.same(parseSignatures(''), []);
  t.same(parseSignatures('{"signatures": []}'), []);
  t.same(
    parseSignatures(
      '{"signatures": [{"device":"sdb","type":"ext4","label":"data"},{"type":"dos","label":null}]}',
    ),
    ['a signature of ext4 "data"', 'a signature of dos'],
  );
});
