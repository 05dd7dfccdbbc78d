// Raw devices become disks, are refused when something is on them, come back after a reboot, are
// emptied and taken out.
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Disk } from '../../packages/protocol/src/index.ts';
import t from 'tap';
import type { Test } from 'tap';
import { LoopDisk, unmountBelow } from '../../benchmarks/src/harness/loop-disk.ts';
import { mustRun } from '../../benchmarks/src/harness/run-command.ts';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { startCluster } from '../support/cluster.ts';
import { needs, needsLoopDevices } from '../support/needs.ts';

const MiB = 1024 * 1024;
const deviceBytes = 512 * MiB;
const imageBytes = 24 * MiB;

interface Devices {
  make(name: string): Promise<LoopDisk>;
}

/** Devices that are unmounted and taken away with the test, before the cluster's folder goes. */
function devicesOf(t: Test, cluster: TestCluster): Devices {
  const made: LoopDisk[] = [];
  t.teardown(async () => {
    await unmountBelow(cluster.dir);
    for (const disk of made) await disk.close();
  });
  return {
    make: async (name) => {
      const disk = await LoopDisk.create({ dir: cluster.dir, name, sizeBytes: deviceBytes });
      made.push(disk);
      return disk;
    },
  };
}

async function diskAt(cluster: TestCluster, device: string): Promise<Disk> {
  const disks = (await cluster.api.listDisks({})).disks;
  const found = disks.find(({ spec }) => spec.device === device || spec.path === device);
  if (!found) throw new Error(`no disk at ${device}: ${JSON.stringify(disks)}`);
  return found;
}

function headOf(device: string): string {
  return createHash('sha256').update(readFileSync(device)).digest('hex');
}

t.test('raw devices: added, refused, formatted by force, mounted again', async (t) => {
  if (!needsLoopDevices(t) || !needs(t, 'mkfs.ext4', 'e2fsprogs')) return;
  const cluster = await startCluster(t);
  const devices = devicesOf(t, cluster);
  const first = await devices.make('first');
  const added = await cluster.must('disk', 'add', 'n1', first.device, '--tag', 'ssd');
  t.match(added, /disk d-[0-9a-f]{16} added to node n1: \/dev\/loop\d+ at .*\/disks\/d-/);
  const disk = await diskAt(cluster, first.device);
  t.match(disk, {
    spec: { tag: 'ssd', evacuate: false },
    status: { state: 'online', space: 'ok' },
  });
  t.ok(disk.status.reservedBytes > 0);
  t.ok(existsSync(join(disk.spec.path, 'disk.json')), 'in its own file system');
  const twice = await cluster.storctl('disk', 'add', 'n1', first.device, '--force-format');
  t.match(twice.stderr, /already has a disk|is mounted at/);
  t.not(twice.code, 0, 'a disk that is used is never formatted');

  const second = await devices.make('second');
  await mustRun('mkfs.ext4', ['-q', '-L', 'precious', second.device]);
  const before = headOf(second.device);
  const refused = await cluster.storctl('disk', 'add', 'n2', second.device);
  t.not(refused.code, 0);
  t.match(refused.stderr, /not empty, it has a signature of ext4 "precious".*--force-format/);
  t.equal(headOf(second.device), before, 'not a byte was changed');
  await cluster.must('disk', 'add', 'n2', second.device, '--force-format', '--tag', 'ssd');
  t.match(await diskAt(cluster, second.device), { status: { state: 'online' } });

  const third = await devices.make('third');
  writeFileSync(third.device, Buffer.from('nobody knows this format'), { flag: 'r+' });
  const unknown = await cluster.storctl('disk', 'add', 'n2', third.device);
  t.match(unknown.stderr, /data of an unknown kind/);
  await mustRun('wipefs', ['--all', third.device]);
  const mountPoint = join(cluster.dir, 'mounted');
  mkdirSync(mountPoint);
  await mustRun('mkfs.ext4', ['-q', '-F', third.device]);
  await mustRun('mount', [third.device, mountPoint]);
  const mounted = await cluster.storctl('disk', 'add', 'n2', third.device, '--force-format');
  t.match(mounted.stderr, /is mounted at .*mounted/, 'not even by force');

  // a reboot: the agent is gone, and so are its mounts
  const image = join(cluster.dir, 'image');
  writeFileSync(image, randomBytes(imageBytes));
  const size = ['--size', String(imageBytes)];
  await cluster.must('volume', 'create', 'db', ...size, '--replicas', '2', '--disk-tag', 'ssd');
  await cluster.must('volume', 'import', 'db', image);
  await cluster.must('volume', 'detach', 'db');
  const agent = cluster.agent(0);
  await agent.kill9();
  await mustRun('umount', [disk.spec.path]);
  agent.start();
  await agent.waitReady();
  await waitFor('the disk to be online again', async () => {
    return (await diskAt(cluster, first.device)).status.state === 'online';
  });
  await cluster.waitHealth('db', 'healthy');
  const copy = join(cluster.dir, 'copy');
  await cluster.must('volume', 'export', 'db', copy);
  t.ok(readFileSync(copy).equals(readFileSync(image)), 'the data is there');
});

t.test('a disk is emptied and taken out, and several share a node', async (t) => {
  if (!needsLoopDevices(t)) return;
  const cluster = await startCluster(t);
  const devices = devicesOf(t, cluster);
  const [one, two, three] = await Promise.all(['one', 'two', 'three'].map((n) => devices.make(n)));
  if (!one || !two || !three) throw new Error('no devices');
  await cluster.must('disk', 'add', 'n1', one.device, '--tag', 'ssd', '--reserve', '20%');
  await cluster.must('disk', 'add', 'n2', two.device, '--tag', 'ssd');
  const size = ['--size', String(imageBytes)];
  const few = await cluster.storctl(
    ...['volume', 'create', 'db', ...size, '--replicas', '3', '--disk-tag', 'ssd'],
  );
  t.match(few.stderr, /2 nodes qualify: n3 has no disk with tag ssd/);
  await cluster.must('volume', 'create', 'db', ...size, '--replicas', '2', '--disk-tag', 'ssd');
  const image = join(cluster.dir, 'image');
  writeFileSync(image, randomBytes(imageBytes));
  await cluster.must('volume', 'import', 'db', image);

  const disk = await diskAt(cluster, one.device);
  t.ok(disk.status.reservedBytes > disk.status.capacityBytes * 0.19, 'a reserve of its own');
  const { id } = disk.metadata;
  const early = await cluster.storctl('disk', 'rm', id);
  t.match(early.stderr, /has replicas of db: run "storctl disk evacuate/);
  const blocked = await cluster.storctl('disk', 'evacuate', one.device);
  t.match(
    blocked.stderr,
    /1 of 1 replicas can go nowhere; that of volume db: .*n3 has no disk with tag/,
  );
  t.match(await diskAt(cluster, one.device), { spec: { evacuate: false } }, 'nothing was changed');
  await cluster.must('disk', 'add', 'n3', three.device, '--tag', 'ssd');
  const plan = await cluster.must('disk', 'evacuate', one.device, '--plan');
  t.match(plan, /db .* n3:.*1 of 1 replica can move/s);
  await cluster.must('disk', 'evacuate', one.device);
  const { status } = await cluster.inspect('db');
  t.same(status.replicas.map(({ node }) => node).sort(), ['n2', 'n3']);
  t.equal(status.health, 'healthy');
  await waitFor('the disk to be empty', () => cluster.must('disk', 'rm', id));
  t.notOk(existsSync(join(disk.spec.path, 'disk.json')), 'unmounted');
  await t.rejects(diskAt(cluster, one.device));
  const copy = join(cluster.dir, 'copy');
  await cluster.must('volume', 'export', 'db', copy);
  t.ok(readFileSync(copy).equals(readFileSync(image)));
  const again = await cluster.storctl('disk', 'add', 'n1', one.device);
  t.match(again.stderr, /a signature of xfs/, 'what it was is not forgotten');
  await cluster.must('disk', 'add', 'n1', one.device, '--force-format', '--tag', 'ssd');
  t.match(await cluster.must('pool', 'ls'), /ssd +3\/3 +3/);
});

t.test('a directory of somebody else is refused', async (t) => {
  const cluster = await startCluster(t, { nodes: 1 });
  const foreign = join(cluster.dir, 'foreign');
  mkdirSync(foreign);
  const identity = {
    kind: 'stor-disk',
    formatVersion: 1,
    clusterId: 'c-00000000000000ff',
    nodeId: 'n-00000000000000ff',
    diskId: 'd-00000000000000ff',
  };
  writeFileSync(join(foreign, 'disk.json'), JSON.stringify(identity));
  const refused = await cluster.storctl('disk', 'add', 'n1', foreign);
  t.match(refused.stderr, /belongs to cluster c-00000000000000ff/);
  writeFileSync(join(foreign, 'disk.json'), JSON.stringify({ ...identity, formatVersion: 99 }));
  const newer = await cluster.storctl('disk', 'add', 'n1', foreign);
  t.match(newer.stderr, /has format 99, this version of Stor reads up to/);
  t.match(JSON.parse(readFileSync(join(foreign, 'disk.json'), 'utf8')), { formatVersion: 99 });
  const full = join(cluster.dir, 'full');
  mkdirSync(full);
  writeFileSync(join(full, 'letter.txt'), 'dear');
  t.match((await cluster.storctl('disk', 'add', 'n1', full)).stderr, /is not empty \(letter.txt\)/);
  const own = join(cluster.dir, 'own');
  await cluster.must('disk', 'add', 'n1', own, '--tag', 'hdd', '--tag', 'shelf=3');
  const disk = await diskAt(cluster, own);
  t.match(disk, { spec: { tag: 'hdd', device: '' }, metadata: { labels: { shelf: '3' } } });
  await cluster.must('disk', 'rm', own);
  t.notOk(existsSync(join(own, 'disk.json')), 'its files are taken out');
  await cluster.must('disk', 'add', 'n1', own);
});
