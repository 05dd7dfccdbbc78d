import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { silentLogger, systemClock, systemFiles, type Clock } from '@stor/runtime';
import type { FakeHostVolumes } from '@stor/host-attach/testing';
import t, { type Test } from 'tap';
import { DockerPlugin } from '../src/docker-plugin.ts';
import { callPlugin, MemoryFolders, pluginCompliance } from '../src/testing/index.ts';
import { MemoryCluster } from './plugin-rig.ts';

/** So that the suite does not wait out the lease of a node that lives: time that runs ahead. */
const timesFaster = 50;
const fastClock: Clock = {
  ...systemClock,
  monotonicMs: () => systemClock.monotonicMs() * timesFaster,
  after: (delayMs, fn) => systemClock.after(delayMs / timesFaster, fn),
};

function temporaryFolder(t: Test): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'stor-docker-'));
  t.teardown(() => {
    rmSync(dir, { recursive: true, force: true });
  });
  return dir;
}

interface Plugin {
  plugin: DockerPlugin;
  hosts: FakeHostVolumes;
  socket: string;
}

type Given = Partial<Parameters<typeof DockerPlugin.open>[0]>;

async function openPlugin(
  t: Test,
  { cluster, name, dir }: { cluster: MemoryCluster; name: string; dir: string },
  given: Given = {},
): Promise<Plugin> {
  const hosts = cluster.host(name);
  const socket = path.join(dir, `${name}.sock`);
  const plugin = await DockerPlugin.open({
    socket,
    dir: path.join(dir, name),
    bootId: 'boot-1',
    api: cluster.api,
    hosts,
    files: systemFiles,
    folders: new MemoryFolders(),
    clock: fastClock,
    logger: silentLogger,
    ...given,
  });
  t.teardown(() => plugin.close());
  return { plugin, hosts, socket };
}

t.test('it does what dockerd relies on', async (t) => {
  const cluster = new MemoryCluster();
  const dir = temporaryFolder(t);
  const first = await openPlugin(t, { cluster, name: 'n1', dir });
  const second = await openPlugin(t, { cluster, name: 'n2', dir });
  await pluginCompliance(t, {
    first: first.socket,
    second: second.socket,
    firstNode: 'n1',
    size: '64MiB',
  });
  t.same([...first.hosts.list(), ...second.hosts.list()], [], 'nothing is left');
});

t.test('only root may use the socket, and one of a killed agent is replaced', async (t) => {
  const cluster = new MemoryCluster();
  const dir = temporaryFolder(t);
  const socket = path.join(dir, 'n1.sock');
  const old = net.createServer();
  await new Promise<void>((resolve) => old.listen(path.join(dir, 'old.sock'), resolve));
  // as a kill leaves it: the name stays, and nobody listens
  renameSync(path.join(dir, 'old.sock'), socket);
  await new Promise((resolve) => old.close(resolve));
  t.ok(existsSync(socket));

  const { plugin } = await openPlugin(t, { cluster, name: 'n1', dir });
  t.equal(statSync(socket).mode & 0o777, 0o600);
  t.equal((await callPlugin(socket, '/Plugin.Activate', '')).status, 200);

  await t.test('one of a living agent is refused', async (t) => {
    const other = openPlugin(t, { cluster, name: 'n1', dir }, { dir: path.join(dir, 'other') });
    await t.rejects(other, { code: 'IN_USE', message: /another process serves/ });
    t.equal((await callPlugin(socket, '/Plugin.Activate', '')).status, 200, 'it serves still');
  });

  await Promise.all([plugin.close(), plugin.close()]);
  t.notOk(existsSync(socket));
  await plugin.close();
  const { plugin: next } = await openPlugin(t, { cluster, name: 'n1', dir });
  await next.close();

  writeFileSync(socket, '');
  await t.rejects(openPlugin(t, { cluster, name: 'n1', dir }), { message: /is no socket/ });
  for (const [bad, pattern] of [
    ['plugins/n1.sock', /is not absolute/],
    [`${dir}/${'x'.repeat(100)}.sock`, /room for 107/],
  ] as const) {
    const opened = openPlugin(t, { cluster, name: 'n1', dir }, { socket: bad });
    await t.rejects(opened, { code: 'INVALID_ARGUMENT', message: pattern });
  }
});

t.test('a spec file tells dockerd of a socket elsewhere', async (t) => {
  const cluster = new MemoryCluster();
  const dir = temporaryFolder(t);
  const specFile = path.join(dir, 'etc/stor.spec');
  const { plugin, socket } = await openPlugin(t, { cluster, name: 'n1', dir }, { specFile });
  t.equal(readFileSync(specFile, 'utf8'), `unix://${socket}\n`);
  await plugin.close();
  t.ok(existsSync(specFile), 'dockerd waits for the next agent');
});

t.test('a data folder may be a symbolic link', async (t) => {
  const cluster = new MemoryCluster();
  cluster.volumes.add('db');
  const dir = temporaryFolder(t);
  mkdirSync(path.join(dir, 'real'));
  symlinkSync(path.join(dir, 'real'), path.join(dir, 'n1'));
  const { hosts, socket } = await openPlugin(t, { cluster, name: 'n1', dir });
  await callPlugin(socket, '/VolumeDriver.Mount', { Name: 'db', ID: 'c1' });
  const [mount] = hosts.list()[0]?.mounts ?? [];
  t.match(mount?.target, new RegExp(`^${dir}/real/mounts/`));
});

t.test('a call goes on when its client does not, and is not counted twice', async (t) => {
  const cluster = new MemoryCluster();
  cluster.volumes.add('db');
  const { hosts, socket } = await openPlugin(
    t,
    { cluster, name: 'n1', dir: temporaryFolder(t) },
    // nobody waits out here for dockerd to give up
    { clock: systemClock },
  );
  const isMounted = (): boolean => hosts.list().some(({ mounts }) => mounts.length > 0);
  const release = hosts.hold('mount');
  const gone = new AbortController();
  const body = { Name: 'db', ID: 'c1' };
  const { signal } = gone;
  const lost = callPlugin(socket, '/VolumeDriver.Mount', body, { signal });
  while (hosts.calls.length === 0) await new Promise((resolve) => setImmediate(resolve));
  gone.abort();
  await t.rejects(lost);
  // that the connection is gone is known before a call that comes after it is answered
  const again = callPlugin(socket, '/VolumeDriver.Mount', body);
  await callPlugin(socket, '/VolumeDriver.Capabilities', {});
  release();
  t.match((await again).body, { Err: '' });
  t.ok(isMounted());
  await callPlugin(socket, '/VolumeDriver.Unmount', body);
  t.notOk(isMounted(), 'one unmount is enough');
});

t.test('what is under way when the agent stops is cut off or answered', async (t) => {
  const cluster = new MemoryCluster();
  cluster.volumes.add('db');
  cluster.volumes.add('web');
  const { plugin, hosts, socket } = await openPlugin(t, {
    cluster,
    name: 'n1',
    dir: temporaryFolder(t),
  });
  await callPlugin(socket, '/VolumeDriver.Mount', { Name: 'db', ID: 'c1' });
  const [releaseMount, releaseUnmount] = [hosts.hold('mount'), hosts.hold('unmount')];
  const unmounting = callPlugin(socket, '/VolumeDriver.Unmount', { Name: 'db', ID: 'c1' });
  const first = callPlugin(socket, '/VolumeDriver.Mount', { Name: 'web', ID: 'c1' });
  while (hosts.calls.length < 3) await new Promise((resolve) => setImmediate(resolve));
  const waiting = callPlugin(socket, '/VolumeDriver.Mount', { Name: 'web', ID: 'c2' });
  await callPlugin(socket, '/VolumeDriver.Capabilities', {});
  const cut = t.rejects(waiting, 'dockerd asks the next agent');
  const closed = plugin.close();
  releaseMount();
  releaseUnmount();
  await cut;
  t.match((await unmounting).body, { Err: '' });
  t.match((await first).body, { Mountpoint: /stor-data$/ });
  await closed;
  t.notOk(existsSync(socket));
});
