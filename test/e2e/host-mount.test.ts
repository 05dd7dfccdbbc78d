// Volumes as devices and mounts of hosts, by storctl on a real cluster: over restarts of the agent, from one
// host to the next, and away without a trace.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { open, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { mustRun, runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { mountsBelow, shareMounts } from '../../benchmarks/src/harness/shared-folder.ts';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { mountTable } from '../../packages/host-attach/src/device/mount-table.ts';
import { SystemDeviceProcesses } from '../../packages/host-attach/src/index.ts';
import type { Device } from '../../packages/protocol/src/index.ts';
import { startCluster } from '../support/cluster.ts';
import { needs, needsFuseDevices } from '../support/needs.ts';

const { signal } = new AbortController();

/** Folders where volumes are mounted; whatever happens, nothing stays there, and no device either. */
async function mountFolder(t: Test, cluster: TestCluster): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'stor-mnt-'));
  t.teardown(async () => {
    for (const target of mountsBelow(dir)) await runCommand('umount', ['-l', target]);
    const processes = new SystemDeviceProcesses();
    for (const agent of cluster.agents) {
      const folder = hostFolder(cluster, agent.place.name);
      const names = existsSync(folder) ? readdirSync(folder) : [];
      for (const name of names.filter((each) => each.endsWith('.sock'))) {
        await processes.stop(name.replace('.sock', ''), folder, { force: true }, signal);
      }
    }
    rmSync(dir, { recursive: true, force: true });
  });
  // what is unmounted here is so in the namespaces of engines that other tests run, too
  await shareMounts(dir);
  return dir;
}

function hostFolder(cluster: TestCluster, node: string): string {
  return join(cluster.agent(cluster.indexOfNode(node)).dataDir, 'host');
}

async function devices(cluster: TestCluster): Promise<Device[]> {
  return JSON.parse(await cluster.must('volume', 'devices', '-o', 'json')) as Device[];
}

/** Neither the cluster nor the host knows anything of it any more. */
async function nothingLeft(t: Test, cluster: TestCluster, volume: string): Promise<void> {
  t.same((await cluster.inspect(volume)).status.publications, []);
  t.same(await devices(cluster), []);
  const ours = mountTable().filter(({ target, source }) =>
    `${target} ${source}`.includes(cluster.dir),
  );
  t.same(ours, []);
  const { stdout } = await mustRun('losetup', ['--list', '--noheadings', '--output', 'BACK-FILE']);
  t.notOk(stdout.includes(cluster.dir), 'no loop device');
  for (const { place } of cluster.agents) {
    const folder = hostFolder(cluster, place.name);
    // the log of one that was lost is kept
    const names = readdirSync(folder).filter((name) => !name.endsWith('.log'));
    t.same(names, ['devices.json']);
  }
}

/**
 * Containers that another test starts at the same time have a copy of every mount in their namespaces for a
 * moment, and the kernel keeps the device for it: the same order again ends what was begun.
 */
async function unmount(cluster: TestCluster, ...args: string[]): Promise<void> {
  await waitFor(
    'the volume to be unmounted',
    async () => {
      const { code, stderr } = await cluster.storctl('volume', 'unmount', ...args);
      if (code === 0) return true;
      if (stderr.includes('claimed elsewhere')) throw new Error(stderr);
      return { stderr };
    },
    { deadlineMs: 90_000, intervalMs: 500 },
  ).then((found) => {
    if (found !== true) throw new Error(found.stderr);
  });
}

async function writeSynced(path: string, text: string): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

t.test('volumes as devices and mounts of hosts', async (t) => {
  if (!needsFuseDevices(t) || !needs(t, 'mkfs.xfs', 'xfsprogs')) return;
  const cluster = await startCluster(t);
  const dir = await mountFolder(t, cluster);
  const target = join(dir, 'db');
  const create = (name: string, size: string): Promise<string> =>
    cluster.must('volume', 'create', name, '--size', size, '--replicas', '2');
  // the smallest for XFS, which needs less of the kernel to grow than ext4 (CAP_SYS_RESOURCE)
  await create('db', '320MiB');

  await t.test('doctor finds what is needed', async (t) => {
    const text = await cluster.must('doctor', '--node', 'n1', '--exit-code');
    t.match(text, /^fuse +ok/m);
    t.match(text, /^nbd-kernel /m);
  });

  await t.test(
    'attach gives a device, which is refused to others, and detach takes it away',
    async (t) => {
      const path = await cluster.must('volume', 'attach', 'db', '--device', '--node', 'n1');
      t.match(path, /^\/dev\/loop[0-9]+$/);
      t.equal(await cluster.must('volume', 'attach', 'db', '--device', '--node', 'n1'), path);
      const other = await cluster.storctl('volume', 'attach', 'db', '--device', '--node', 'n2');
      t.equal(other.code, 5);
      t.match(other.stderr, /used as a device on node n1 .*\(storctl\)/);
      const device = await open(path, 'r+');
      const inUse = await cluster.storctl('volume', 'detach', 'db');
      t.equal(inUse.code, 5);
      t.match(inUse.stderr, /in use .*end that first/);
      await device.close();
      await cluster.must('volume', 'detach', 'db');
      await nothingLeft(t, cluster, 'db');
    },
  );

  await t.test('a mount lives over its agent, grows, and leaves nothing', async (t) => {
    const mount = ['volume', 'mount', 'db', target, '--node', 'n1', '--options', 'noatime'];
    await cluster.must(...mount, '--fs', 'xfs');
    await writeSynced(join(target, 'one'), 'one');
    await cluster.agent(0).kill9();
    // no agent is asked: the device has found another node
    await writeSynced(join(target, 'two'), 'two');
    cluster.agent(0).start();
    await cluster.agent(0).waitReady();
    t.match(await devices(cluster), [
      { node: 'n1', volume: 'db', failure: '', mounts: [{ target, options: ['noatime'] }] },
    ]);
    await cluster.must(...mount);
    const before = statfsSync(target).blocks;
    await cluster.must('volume', 'resize', 'db', '640MiB');
    t.ok(statfsSync(target).blocks > 1.5 * before, 'df shows it');
    t.equal(await readFile(join(target, 'one'), 'utf8'), 'one');
    t.equal(await readFile(join(target, 'two'), 'utf8'), 'two');
    const second = join(dir, 'second');
    await cluster.must('volume', 'mount', 'db', second, '--node', 'n1', '--read-only');
    t.equal(await readFile(join(second, 'one'), 'utf8'), 'one');
    await t.rejects(writeFile(join(second, 'three'), ''), { code: 'EROFS' });
    await unmount(cluster, second, '--node', 'n1');
    // a clone has the UUID of what it was made of
    await cluster.must('snapshot', 'create', 'db@now');
    await cluster.must('volume', 'clone', 'db@now', 'copy', '--size', '768MiB');
    await cluster.must('volume', 'mount', 'copy', second, '--node', 'n1');
    t.equal(await readFile(join(second, 'two'), 'utf8'), 'two');
    t.ok(statfsSync(second).blocks > statfsSync(target).blocks, 'as large as the clone is');
    await unmount(cluster, 'copy');
    const file = await open(join(target, 'one'), 'r');
    const busy = await cluster.storctl('volume', 'unmount', 'db');
    t.equal(busy.code, 5);
    t.match(busy.stderr, new RegExp(`\\(${process.pid}\\) has files open`));
    await file.close();
    await unmount(cluster, target, '--node', 'n1');
    await nothingLeft(t, cluster, 'db');
  });

  await t.test('what carries anything is not formatted', async (t) => {
    await create('raw', '64MiB');
    const path = await cluster.must('volume', 'attach', 'raw', '--device', '--node', 'n2');
    await writeFile(path, 'neither a file system nor a signature', { flag: 'r+' });
    const mount = ['volume', 'mount', 'raw', target, '--node', 'n2'];
    const data = await cluster.storctl(...mount);
    t.equal(data.code, 5);
    t.match(data.stderr, /holds data, so it is not formatted/);
    t.match(readFileSync(path).subarray(0, 7).toString(), 'neither');
    await mustRun('mkswap', [path]);
    t.match((await cluster.storctl(...mount)).stderr, /signature of swap/);
    await mustRun('blkdiscard', ['-f', path]);
    await cluster.must(...mount, '--fs', 'ext4');
    await cluster.must('volume', 'detach', 'raw', '--device', '--force');
    await nothingLeft(t, cluster, 'raw');
  });

  await t.test('the next host takes over from one that is dead', async (t) => {
    await cluster.must('volume', 'mount', 'db', target, '--node', 'n1');
    await writeSynced(join(target, 'three'), 'three');
    // the device lives on, cut off from its own agent only
    await cluster.agent(0).kill9();
    await writeSynced(join(target, 'four'), 'four');
    const elsewhere = join(dir, 'elsewhere');
    await waitFor('n1 to be down', async () => {
      const { code } = await cluster.storctl('volume', 'mount', 'db', elsewhere, '--node', 'n3');
      return code === 0;
    });
    t.equal(await readFile(join(elsewhere, 'four'), 'utf8'), 'four');
    await t.rejects(writeSynced(join(target, 'five'), 'five'));
    // the first host comes back, and has nothing any more
    cluster.agent(0).start();
    await cluster.agent(0).waitReady();
    const back = (await devices(cluster)).find(({ node }) => node === 'n1');
    t.match(back?.failure, /another host uses it/);
    const mount = await cluster.storctl('volume', 'mount', 'db', target, '--node', 'n1');
    t.match(mount.stderr, /does not work any more|used as a device on node n3/);
    await unmount(cluster, target, '--node', 'n1');
    t.equal(await readFile(join(elsewhere, 'three'), 'utf8'), 'three');
    await unmount(cluster, 'db');
    await nothingLeft(t, cluster, 'db');
  });
});
