// The pure parts: what the host says, and what is made of it.
import type { Node } from '@stor/protocol';
import t from 'tap';
import { checkMountOrder } from '../src/core/check-order.ts';
import { nbdPlaces } from '../src/core/device-addresses.ts';
import { judgeContent } from '../src/core/judge-content.ts';
import { mountAt, mountOf, parseMountInfo } from '../src/core/mount-info.ts';
import { parseBlkid, parseSignatures } from '../src/core/parse-probe.ts';
import { exportAddresses } from '../src/export-addresses.ts';
import { MemoryVolumes } from '../src/testing/index.ts';

const mountinfo = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
35 22 0:31 / /tmp rw,nosuid - tmpfs tmpfs rw
99 22 7:3 / /mnt/my\\040data\\134x rw,noatime shared:7 master:2 - ext4 /dev/loop3 rw
100 22 7:3 /sub /mnt/read ro,relatime - ext4 /dev/loop3 rw
101 22 7:4 / /mnt/read rw - xfs /dev/loop4 rw,nouuid
102 22 0:44 / /mnt/tab\\011line\\012end rw - fuse.stor a\\040source rw
nonsense
103 22 7:5
`;

t.test('mountinfo is read, with blanks and all', (t) => {
  const table = parseMountInfo(mountinfo);
  t.equal(table.length, 6);
  t.same(table[2], {
    device: '7:3',
    root: '/',
    target: '/mnt/my data\\x',
    readOnly: false,
    type: 'ext4',
    source: '/dev/loop3',
    shared: true,
  });
  t.match(table[3], { root: '/sub', readOnly: true, shared: false });
  t.match(table[5], { target: '/mnt/tab\tline\nend', source: 'a source' });
  t.equal(mountAt(table, '/mnt/read')?.device, '7:4', 'the last one lies above');
  t.equal(mountAt(table, '/mnt'), null);
  t.equal(mountOf(table, '/tmp/x')?.type, 'tmpfs');
  t.equal(mountOf(table, '/tmpx')?.target, '/');
  t.equal(mountOf(table, '/mnt/my data\\x/deep')?.device, '7:3');
  t.same(parseMountInfo(''), []);
  t.end();
});

t.test('what blkid and wipefs say', (t) => {
  const facts = parseBlkid('DEVNAME=/dev/loop0\nLABEL=a=b\nTYPE=ext4\nUSAGE=filesystem\n\n');
  t.same([facts.get('TYPE'), facts.get('LABEL'), facts.size], ['ext4', 'a=b', 4]);
  t.equal(parseBlkid('').size, 0);
  const signatures = [{ type: 'dos' }, { type: 'dos' }, { type: 'swap', label: 'old' }, {}];
  t.same(parseSignatures(JSON.stringify({ signatures })), [
    'a signature of dos',
    'a signature of swap "old"',
    'a signature of unknown kind',
  ]);
  t.same(parseSignatures('\n'), []);
  t.end();
});

t.test('only what has no signature at all may become a file system', (t) => {
  const about = { volume: 'db', path: '/dev/loop0', readOnly: false };
  const empty = { fileSystem: null, signatures: [] };
  t.same(judgeContent(empty, about), { type: 'format', fileSystem: 'ext4' });
  t.same(judgeContent(empty, { ...about, fileSystem: 'xfs' }), {
    type: 'format',
    fileSystem: 'xfs',
  });
  const ext4 = { fileSystem: 'ext4', signatures: ['a signature of ext4'] };
  t.same(judgeContent(ext4, about), { type: 'mount', fileSystem: 'ext4' });
  t.same(judgeContent(ext4, { ...about, readOnly: true }), { type: 'mount', fileSystem: 'ext4' });
  const refused = (content: Parameters<typeof judgeContent>[0], more = {}): unknown =>
    t.throws(() => judgeContent(content, { ...about, ...more }), { code: 'FOREIGN_DATA' });
  refused(ext4, { fileSystem: 'xfs' });
  refused({ fileSystem: 'btrfs', signatures: [] });
  refused({ fileSystem: null, signatures: ['a signature of crypto_LUKS'] });
  refused({ fileSystem: null, signatures: ['a signature of dos'] }, { readOnly: true });
  t.throws(() => judgeContent(empty, { ...about, readOnly: true }), {
    code: 'FAILED_PRECONDITION',
  });
  t.end();
});

t.test('orders that cannot be given to mount(8) and mkfs(8)', (t) => {
  const order = { volume: 'db', user: 'storctl', target: '/mnt/a b' } as const;
  checkMountOrder({
    ...order,
    options: ['noatime', 'data=ordered'],
    formatOptions: ['-L', 'my x'],
  });
  for (const bad of [
    { target: '' },
    { target: 'mnt' },
    { target: '//' },
    { target: '/a/../b' },
    { target: '/a\nb' },
    { target: `/${'x'.repeat(5000)}` },
    { options: [''] },
    { options: ['a b'] },
    { options: ['a,b'] },
    { options: ['bind'] },
    { options: Array.from({ length: 33 }, () => 'x') },
    { formatOptions: ['a\0b'] },
    { formatOptions: ['name=/dev/sda'] },
    { fileSystem: 'btrfs' as 'ext4' },
  ]) {
    t.throws(() => checkMountOrder({ ...order, ...bad }), { code: 'INVALID_ARGUMENT' });
  }
  t.end();
});

t.test('a device asks this node first, then those that are up', async (t) => {
  const volumes = new MemoryVolumes();
  for (const name of ['n1', 'n3', 'n2', 'n4']) volumes.addNode(name);
  volumes.setNode('n2', 'down');
  const { nodes } = await volumes.listNodes({});
  const local = nodes.find(({ metadata }) => metadata.name === 'n3') as Node;
  const n4 = nodes.find(({ metadata }) => metadata.name === 'n4') as Node;
  n4.status.addresses.nbd = ['[fd00::4]:17143'];
  n4.status.addresses.nbdTls = 'required';
  const none = { nbdUri: '' };
  const places = nbdPlaces(nodes, local.metadata.id, none);
  t.same(places, [
    { path: '/run/stor/n3.sock' },
    { host: '127.0.0.1', port: 17123, tls: '' },
    { host: '127.0.0.1', port: 17113, tls: '' },
    { host: 'fd00::4', port: 17143, tls: 'required' },
    { host: '127.0.0.1', port: 17133, tls: '' },
  ]);
  const addresses = exportAddresses(places, 'published:u-1:db', { certificates: '/tls' });
  t.same(addresses.slice(0, 2), [
    { path: '/run/stor/n3.sock' },
    { host: '127.0.0.1', port: 17123 },
  ]);
  t.equal(addresses[3], 'nbds://[fd00::4]:17143/published%3Au-1%3Adb?tls-certificates=%2Ftls');
  n4.status.addresses.nbd = ['nonsense'];
  t.equal(nbdPlaces(nodes, local.metadata.id, none).length, 4);
  // of a node with several lanes the one that has the volume
  local.status.addresses.nbd = ['127.0.0.1:17123', '127.0.0.1:17124'];
  local.status.addresses.nbdUnix = ['/run/0.sock', '/run/1.sock'];
  const nbdUri = 'nbds://127.0.0.1:17124/db';
  t.same(nbdPlaces(nodes, local.metadata.id, { nbdUri }).slice(0, 2), [
    { path: '/run/1.sock' },
    { host: '127.0.0.1', port: 17124, tls: '' },
  ]);
});
