// Volumes as block devices of this host (ADR 20): real agents, real device processes, FUSE and loop
// devices, ext4. What is on a device survives its agent, its primary's node and its own growth.
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import { checkoutRoot } from '../../benchmarks/src/harness/checkout.ts';
import { mustRun, runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { mountsBelow, shareMounts } from '../../benchmarks/src/harness/shared-folder.ts';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { isLoopOf, loopDevicesOf } from '../../packages/host-attach/src/device/loop-device.ts';
import { mountTable } from '../../packages/host-attach/src/device/mount-table.ts';
import { processRecordOf } from '../../packages/host-attach/src/device/process-record.ts';
import { SystemDeviceProcesses, type DeviceSpec } from '../../packages/host-attach/src/index.ts';
import { deviceProcessesSuite } from '../../packages/host-attach/src/testing/index.ts';
import type { Volume } from '../../packages/protocol/src/index.ts';
import { startCluster } from '../support/cluster.ts';
import { needsFuseDevices } from '../support/needs.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
const processes = new SystemDeviceProcesses({
  mainFile: join(checkoutRoot(), 'packages/host-attach/dist/src/device/device-main.js'),
});

/** A short path: a socket's is bounded. */
async function folder(t: Test): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'stor-dev-'));
  t.teardown(async () => {
    for (const target of mountsBelow(dir)) await runCommand('umount', ['-l', target]);
    for (const name of readdirSync(dir, { recursive: true }) as string[]) {
      if (!name.endsWith('.process.json')) continue;
      const id = basename(name, '.process.json');
      await processes.stop(id, join(dir, dirname(name)), { force: true }, signal);
    }
    rmSync(dir, { recursive: true, force: true });
  });
  // what is unmounted here is so in the namespaces of engines that other tests run, too
  await shareMounts(dir);
  return dir;
}

async function killed(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL');
  await waitFor('the process to end', () => processRecordOf(pid) === null);
}

function nothingLeft(t: Test, { id, dir }: DeviceSpec): void {
  t.strictSame(loopDevicesOf(join(dir, `${id}.fuse`, 'disk')), []);
  const mounts = mountTable().filter(({ target }) => target.startsWith(join(dir, `${id}.`)));
  t.strictSame(mounts, []);
  const names = existsSync(dir) ? readdirSync(dir) : [];
  const left = names.filter((name) => name.startsWith(`${id}.`) && name !== `${id}.log`);
  t.strictSame(left, []);
}

function addressesOf(cluster: TestCluster): DeviceSpec['addresses'] {
  const { dir } = cluster.agent(0).place;
  const others = cluster.agents.map(({ place }) => ({ host: place.host, port: place.nbdPort }));
  return [{ path: join(dir, 'run', 'nbd-0.sock') }, ...others];
}

/** Of a volume that is not published; anybody may use it by its name. */
function specOf(cluster: TestCluster, dir: string): DeviceSpec {
  return {
    id: 'suite',
    exportName: 'suite',
    addresses: addressesOf(cluster),
    readOnly: false,
    sizeBytes: 16 * MiB,
    means: 'fuse-loop',
    dir,
  };
}

/** Writes files with fsync, one after another, and knows what is in them. */
class FileWriter {
  readonly #dir: string;
  readonly hashes = new Map<string, string>();
  #written = 0;
  #stopped = false;
  readonly running: Promise<void>;

  constructor(dir: string) {
    this.#dir = dir;
    this.running = this.#run();
    // told by `stop`
    this.running.catch(() => {});
  }

  async goesOn(): Promise<void> {
    const before = this.#written;
    await waitFor('more files', () => this.#written > before + 5, { deadlineMs: 60_000 });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.running;
  }

  async #run(): Promise<void> {
    for (let n = 0; !this.#stopped; n += 1) {
      // the last hundred are kept
      const name = `file-${n % 100}`;
      const bytes = randomBytes(64 * 1024 + n);
      this.hashes.delete(name);
      const file = await open(join(this.#dir, name), 'w');
      await file.write(bytes);
      await file.sync();
      await file.close();
      this.hashes.set(name, hashOf(bytes));
      this.#written += 1;
    }
  }
}

async function readAt(path: string, offset: number): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.read(Buffer.alloc(4096), 0, 4096, offset);
  } finally {
    await file.close();
  }
}

const hashOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

async function wrongFiles(dir: string, hashes: ReadonlyMap<string, string>): Promise<string[]> {
  const wrong: string[] = [];
  for (const [name, hash] of hashes) {
    if (hashOf(await readFile(join(dir, name))) !== hash) wrong.push(name);
  }
  return wrong;
}

t.test('volumes are block devices of a host', async (t) => {
  if (!needsFuseDevices(t)) return;
  const cluster = await startCluster(t);

  await t.test('device processes keep their contract', async (t) => {
    await cluster.must('volume', 'create', 'suite', '--size', '64MiB', '--replicas', '1');
    deviceProcessesSuite(t, async (t) => {
      const dir = join(await folder(t), 'host');
      return {
        processes,
        exportBytes: 64 * MiB,
        spec: (id) => ({ ...specOf(cluster, dir), id }),
        use: async (_, path) => {
          const file = await open(path, 'r');
          return () => file.close();
        },
        nothingLeft: (spec) => nothingLeft(t, spec),
        kill: (_, pid) => killed(pid),
      };
    });
  });

  await t.test('a start that is given up leaves nothing', async (t) => {
    const dir = await folder(t);
    const spec = { ...specOf(cluster, dir), id: 'given-up' };
    const stop = new AbortController();
    const started = processes.start(spec, stop.signal);
    started.catch(() => {});
    await waitFor('the process to begin', () => existsSync(join(dir, 'given-up.process.json')), {
      intervalMs: 1,
    });
    stop.abort();
    await t.rejects(started, { code: 'ABORTED' });
    nothingLeft(t, spec);
    t.equal(await processes.find(spec.id, dir, signal), null);
  });

  await t.test('a file system lives through failures of nodes', (t) => failures(t, cluster));
});

async function failures(t: Test, cluster: TestCluster): Promise<void> {
  await cluster.must('volume', 'create', 'db', '--size', '96MiB', '--replicas', '3');
  const text = await cluster.must('volume', 'publish', 'db', '--node', 'n1', '-o', 'json');
  const exportName = (JSON.parse(text) as Volume).status.publications?.[0]?.exportName ?? '';
  const dir = await folder(t);
  const mnt = join(dir, 'mnt');
  const spec = { ...specOf(cluster, dir), id: 'db', exportName, sizeBytes: 96 * MiB };
  const { path, pid } = await processes.start(spec, signal);
  t.teardown(() => t.passing() || t.comment(readFileSync(join(dir, 'db.log'), 'utf8')));
  const loop = path.replace('/dev/', '');
  t.equal(readFileSync(`/sys/block/${loop}/loop/dio`, 'utf8').trim(), '1', 'direct I/O');
  await mustRun('mkfs.ext4', ['-q', '-b', '4096', path]);
  mkdirSync(mnt);
  await mustRun('mount', [path, mnt]);
  await t.rejects(processes.stop('db', dir, {}, signal), {
    code: 'IN_USE',
    message: new RegExp(`mounted at ${mnt}`),
  });
  const writer = new FileWriter(mnt);
  await writer.goesOn();

  t.comment('the agent of this host is killed');
  await cluster.agent(0).kill9();
  await writer.goesOn();
  cluster.agent(0).start();
  await cluster.agent(0).waitReady();

  t.comment('the primary is moved');
  const from = await cluster.primary('db');
  const to = from === 1 ? 'n3' : 'n2';
  await cluster.waitHealth('db', 'healthy');
  await cluster.must('volume', 'move-primary', 'db', '--to', to);
  await writer.goesOn();

  t.comment('the node of the primary is killed');
  const primary = (await cluster.primary('db')) ?? -1;
  await cluster.agent(primary).kill9();
  await writer.goesOn();
  cluster.agent(primary).start();
  await cluster.agent(primary).waitReady();
  t.match(await processes.find('db', dir, signal), { path, pid, failure: null });

  t.comment('the volume grows');
  await cluster.waitHealth('db', 'healthy');
  await cluster.must('volume', 'resize', 'db', '160MiB');
  const grown = await processes.grow('db', dir, 160 * MiB, signal);
  t.equal(grown.sizeBytes, 160 * MiB);
  const size = await mustRun('blockdev', ['--getsize64', path]);
  t.equal(Number(size.stdout), 160 * MiB);
  const resized = await runCommand('resize2fs', [path]);
  // root of a container may not: ext4 wants CAP_SYS_RESOURCE
  if (/Permission denied to resize/.test(resized.stderr))
    t.comment('SKIPPED: no right to grow ext4');
  else t.equal(resized.code, 0, resized.stderr);
  await writer.goesOn();
  await writer.stop();
  t.strictSame(await wrongFiles(mnt, writer.hashes), []);

  t.comment('its process is killed, after somebody has hidden its file');
  await mustRun('umount', ['-l', join(dir, 'db.fuse')]);
  t.match(await processes.find('db', dir, signal), { path, failure: null });
  await killed(pid);
  t.equal(await processes.find('db', dir, signal), null);
  await mustRun('umount', [mnt]);
  await processes.stop('db', dir, {}, signal);
  nothingLeft(t, spec);
  // namespaces of others, as those of containers that start, may have a copy of its mount for a moment
  await waitFor('its loop device to go', () => !isLoopOf(path, join(dir, 'db.fuse', 'disk')));
  const larger = { ...spec, sizeBytes: 160 * MiB };
  const second = await processes.start(larger, signal);
  await mustRun('mount', [second.path, mnt]);
  t.strictSame(await wrongFiles(mnt, writer.hashes), [], 'all that was fsynced');
  await mustRun('umount', [mnt]);
  await mustRun('e2fsck', ['-f', '-n', second.path]);
  await processes.stop('db', dir, {}, signal);
  nothingLeft(t, spec);
  t.equal(processRecordOf(second.pid), null);

  t.comment('a device to read shows what was written');
  const third = await processes.start({ ...larger, readOnly: true }, signal);
  await mustRun('mount', ['-o', 'ro', third.path, mnt]);
  t.strictSame(await wrongFiles(mnt, writer.hashes), []);
  await mustRun('umount', [mnt]);

  t.comment('the right of this host ends');
  await cluster.must('volume', 'unpublish', 'db', '--force');
  await t.rejects(readAt(third.path, 64 * MiB), { code: 'EIO' });
  const ended = await processes.find('db', dir, signal);
  t.match(ended?.failure, /is not published as/);
  await processes.stop('db', dir, { force: true }, signal);
  nothingLeft(t, spec);
}
