import { StorError } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock, FaultyFiles, MemoryNetwork, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import type { Test } from 'tap';
import { DataFolder } from '../src/data-folder.ts';
import type { LaneOptions, MainMethods } from '../src/lane/lane-protocol.ts';
import { Lane } from '../src/lane/lane.ts';
import { ThreadLock } from '../src/lane/thread-lock.ts';
import { NodeDisks } from '../src/node-disks.ts';
import { FakeBlockDevices } from '../src/testing/index.ts';

const ids = { clusterId: 'c-0123456789abcdef', nodeId: 'n-0123456789abcdef' };
const order = { tag: 'ssd', labels: {}, reserve: '', forceFormat: false };

/** One node's disks on files in memory; `restart` is a new process on the same host. */
class Host {
  readonly files = new FaultyFiles({ seed: 1 });
  readonly devices: FakeBlockDevices;
  readonly clock = new FakeClock();
  autoDisk = true;
  #random = new SeededRandom(3);
  lane!: Lane;
  disks!: NodeDisks;

  constructor() {
    this.files.defer = (step) => {
      setImmediate(step);
    };
    this.devices = new FakeBlockDevices(this.files.process());
  }

  async restart(): Promise<void> {
    await (this.lane as Lane | undefined)?.close();
    const files = this.files.process();
    const options: LaneOptions = {
      ...ids,
      lane: 0,
      lanes: 1,
      failureLock: ThreadLock.newMemory(),
      nodeName: 'n1',
      agentInstance: 'i',
      bootId: this.files.bootId,
      dataDir: '/data',
      host: 'h',
      peersPort: 0,
      nbdPort: 0,
      nbdUnixPath: null,
      diskReserveBytes: null,
      autoDetachMs: 30_000,
      logLevel: 'silent',
    };
    const network = new MemoryNetwork({ clock: this.clock }).host('h');
    const folder = DataFolder.open('/data', ids, files);
    this.lane = new Lane(options, {} as MainMethods, this.clock, silentLogger, { files, network });
    this.disks = new NodeDisks({
      lanes: this.lane,
      folder,
      files,
      devices: this.devices,
      random: this.#random,
      logger: silentLogger,
      autoDisk: this.autoDisk,
    });
    await this.disks.open();
  }
}

async function started(t: Test): Promise<Host> {
  const host = new Host();
  await host.restart();
  t.teardown(() => host.lane.close());
  return host;
}

async function refusal(adding: Promise<unknown>): Promise<string> {
  try {
    await adding;
    return 'accepted';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('a device is formatted, mounted, mounted again, and taken out', async (t) => {
  const host = await started(t);
  const { devices } = host;
  devices.add('/dev/sdb');
  const labels = { shelf: '3' };
  const disk = await host.disks.add({ ...order, path: '/dev/sdb', labels, reserve: '20%' });
  const path = `/data/disks/${disk.diskId}`;
  t.match(disk, { path, device: '/dev/sdb', tag: 'ssd', labels, state: 'online' });
  t.ok((disk.reservedBytes ?? 0) >= disk.capacityBytes * 0.19, 'a reserve of its own');
  t.same(devices.calls, ['format /dev/sdb', `mount ${path}`]);
  t.match(
    await refusal(host.disks.add({ ...order, path: '/dev/sdb', forceFormat: true })),
    /^ALREADY_EXISTS/,
  );
  await host.lane.createReplica(disk.diskId, {
    replicaId: 'r-1',
    volumeId: 'v-1',
    segment: 0,
    sizeBytes: 4096,
  });

  await host.restart();
  t.equal(devices.calls.length, 2, 'what is mounted still is not mounted twice');
  devices.mounts.clear();
  await host.restart();
  t.equal(devices.calls.at(-1), `mount ${path}`, 'after a reboot');
  t.match((await host.lane.disks()).at(-1), { diskId: disk.diskId, state: 'online', labels });

  t.match(
    await refusal(host.disks.remove(disk.diskId, false)),
    /^FAILED_PRECONDITION: .*1 replica/,
  );
  await host.lane.deleteReplica(disk.diskId, 'r-1');
  await host.disks.remove(disk.diskId, false);
  t.equal(devices.calls.at(-1), `unmount ${path}`);
  await host.disks.remove(disk.diskId, false);
  t.equal((await host.lane.disks()).length, 1, 'the first disk of the node is left');
  t.match(await refusal(host.disks.add({ ...order, path: '/dev/sdb' })), /^FOREIGN_DATA: .*xfs/);
});

t.test('a device that is gone harms nothing and comes back', async (t) => {
  const host = await started(t);
  const { devices } = host;
  devices.add('/dev/sdb');
  const { diskId } = await host.disks.add({ ...order, path: '/dev/sdb' });
  const device = devices.devices.get('/dev/sdb');
  if (!device) throw new Error('no device');
  devices.mounts.clear();
  devices.devices.delete('/dev/sdb');
  await host.restart();
  const lost = (await host.lane.disks()).find((disk) => disk.diskId === diskId);
  t.match(lost, { state: 'failed', isLost: false, message: /device \/dev\/sdb is not there/ });
  devices.devices.set('/dev/sdc', device);
  await host.restart();
  const back = (await host.lane.disks()).find((disk) => disk.diskId === diskId);
  t.match(back, { state: 'online' }, 'under another name: its file system is what counts');
});

t.test('an order that was cut off leaves a mount that the next start ends', async (t) => {
  const host = await started(t);
  const { devices } = host;
  devices.mounts.set('/data/disks/d-00000000000000ff', 'some-uuid');
  await host.restart();
  t.same(devices.calls, ['unmount /data/disks/d-00000000000000ff']);
});

t.test('what cannot be a disk is refused before anything is touched', async (t) => {
  const host = await started(t);
  const { devices } = host;
  devices.add('/dev/sdb', { mounts: ['/home'] });
  devices.add('/dev/sdc', { signatures: ['a signature of ext4'] });
  const add = (path: string, change: Partial<typeof order> = {}): Promise<string> =>
    refusal(host.disks.add({ ...order, path, ...change }));
  t.match(await add('/dev/sdb', { forceFormat: true }), /^IN_USE: .*mounted at \/home/);
  t.match(await add('/dev/sdc'), /^FOREIGN_DATA: .*ext4/);
  t.match(await add('relative/path'), /^INVALID_ARGUMENT: .*not absolute/);
  t.match(await add('/new', { reserve: 'much' }), /^INVALID_ARGUMENT/);
  t.match(await add('/new', { forceFormat: true }), /^INVALID_ARGUMENT: .*is a directory/);
  devices.fileSystem = 'tmpfs';
  t.match(await add('/new'), /^FAILED_PRECONDITION: .*in memory/);
  t.same(devices.calls, []);
  devices.fileSystem = 'btrfs';
  t.match(await host.disks.add({ ...order, path: '/new' }), { message: /only ext4 and xfs/ });
});

t.test('a directory is given back empty, and can be given again', async (t) => {
  const host = await started(t);
  const disk = await host.disks.add({ ...order, path: '/srv/d2' });
  // one that held something once
  const replica = { replicaId: 'r-1', volumeId: 'v-1', segment: 0, sizeBytes: 1024 * 1024 };
  await host.lane.createReplica(disk.diskId, replica);
  await host.lane.deleteReplica(disk.diskId, 'r-1');
  t.match(await refusal(host.disks.add({ ...order, path: '/srv/d2' })), /^ALREADY_EXISTS/);
  await host.disks.remove(disk.diskId, false);
  t.same(host.files.process().list('/srv/d2'), []);
  await host.restart();
  t.equal((await host.lane.disks()).length, 1);
  const again = await host.disks.add({ ...order, path: '/srv/d2' });
  t.not(again.diskId, disk.diskId, 'a new disk');
});

t.test('a disk that had errors with a replica says so, also after a restart', async (t) => {
  const host = await started(t);
  const disk = await host.disks.add({ ...order, path: '/srv/d2' });
  const replica = { replicaId: 'r-1', volumeId: 'v-1', segment: 0, sizeBytes: 1024 * 1024 };
  await host.lane.createReplica(disk.diskId, replica);
  const store = host.lane.stores.find((each) => each.diskId === disk.diskId)?.replica('r-1');
  if (!store) throw new Error('no replica');
  const write = (): Promise<StorError | null> =>
    new Promise((resolve) => {
      store.write(0, 4096, new Uint8Array(4096).fill(1), 0, new Uint32Array(1), 0, (error) => {
        if (error) resolve(error);
        else store.flush(resolve);
      });
    });
  t.equal(await write(), null);
  host.files.hook = (operation, path) =>
    operation === 'datasync' && /^\/srv\/d2\/.*data/.test(path) ? 'EIO' : null;
  t.match(await write(), { code: 'DISK_FAILED' });
  host.files.hook = () => null;
  const seen = async () => (await host.lane.disks()).find(({ path }) => path === '/srv/d2');
  t.match(await seen(), {
    state: 'online',
    trouble: /it had errors with a replica \(r-1: fdatasync/,
  });
  await host.restart();
  t.match(await seen(), { state: 'online', trouble: /r-1/ });
});

t.test('the first disk is made once, and only when it is wanted', async (t) => {
  const host = await started(t);
  const paths = async (): Promise<string[]> => (await host.lane.disks()).map(({ path }) => path);
  t.same(await paths(), ['/data/disks/d1']);
  const [disk] = await host.lane.disks();
  await host.disks.remove(disk?.diskId ?? '', false);
  await host.restart();
  t.same(await paths(), [], 'a node whose last disk was removed stays without');

  const bare = new Host();
  bare.autoDisk = false;
  await bare.restart();
  t.teardown(() => bare.lane.close());
  t.same(await bare.lane.disks(), []);
  await bare.disks.add({ path: '/more', tag: '', labels: {}, reserve: '', forceFormat: false });
  await bare.restart();
  t.same(
    (await bare.lane.disks()).map(({ path }) => path),
    ['/more'],
  );
});
