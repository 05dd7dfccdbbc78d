// Agents that start on a host on which others have left something.
import { StorError } from '@stor/protocol';
import t from 'tap';
import type { WantedMeans } from '../src/host-volumes.ts';
import type { DeviceUser } from '../src/index.ts';
import { MemoryVolumes } from '../src/testing/index.ts';
import { HostWorld } from './support/host-world.ts';

const signal = new AbortController().signal;
const user: DeviceUser = 'storctl';
const target = '/mnt/db';

function oneHost(): HostWorld {
  const volumes = new MemoryVolumes();
  volumes.addNode('n1');
  volumes.addNode('n2');
  volumes.add('db');
  return new HostWorld(volumes, 'n1');
}

t.test('what an agent has made is there for the next one', async (t) => {
  const world = oneHost();
  const first = await world.start();
  const mount = await first.mount({ volume: 'db', user, target }, signal);
  const before = first.list();
  await first.close();
  const second = await world.start();
  await second.look();
  t.same(second.list(), before);
  t.same(await second.mount({ volume: 'db', user, target }, signal), mount);
  t.equal(world.running('db')?.state.path, before[0]?.path);
  await second.unmount({ target, user }, signal);
  t.same([second.list(), world.volumes.publications('db')], [[], []]);
});

t.test('nothing of an earlier boot is believed', async (t) => {
  const world = oneHost();
  const first = await world.start();
  await first.mount({ volume: 'db', user, target }, signal);
  world.reboot();
  // somebody else has something there now
  world.tools.table = [
    {
      device: '8:1',
      root: '/',
      target,
      readOnly: false,
      type: 'ext4',
      source: '/dev/sda1',
      shared: true,
    },
  ];
  world.volumes.failNext('unpublishVolume', new StorError('UNAVAILABLE', 'no quorum'));
  const second = await world.start();
  t.same(second.list(), []);
  await second.look();
  await second.look();
  t.same(world.volumes.publications('db'), [], 'tried again');
  t.equal(world.tools.table.length, 1, 'what others have mounted is left alone');
  await t.rejects(second.mount({ volume: 'db', user, target }, signal), {
    code: 'ALREADY_EXISTS',
    message: /\/dev\/sda1/,
  });
  world.tools.table = [];
  await second.mount({ volume: 'db', user, target }, signal);
});

t.test('a publication that CSI’s controller made stays over a reboot', async (t) => {
  const world = oneHost();
  await world.volumes.publishVolume({ name: 'db', node: 'n1' });
  const first = await world.start();
  await first.attach({ volume: 'db', user: 'csi' }, signal);
  world.reboot();
  const second = await world.start();
  await second.look();
  t.same(second.list(), []);
  t.equal(world.volumes.publications('db').length, 1);
});

t.test('a device whose process is gone is told, and made anew when it is free', async (t) => {
  const world = oneHost();
  const host = await world.start();
  await host.mount({ volume: 'db', user, target }, signal);
  world.killAll();
  await host.look();
  t.match(host.list()[0]?.failure, /process .* is gone/);
  await host.close();
  const second = await world.start();
  t.match(second.list()[0]?.failure, /process .* is gone/);
  await second.unmount({ target, user, keepAttached: true }, signal);
  const made = await second.attach({ volume: 'db', user }, signal);
  t.equal(made.failure, null);
  t.equal(world.processes.list().length, 1);
});

t.test('a device is told of nodes that come and go, and grows with its volume', async (t) => {
  const world = oneHost();
  const host = await world.start();
  await host.mount({ volume: 'db', user, target }, signal);
  const addresses = (): readonly unknown[] => world.running('db')?.spec.addresses ?? [];
  t.equal(addresses().length, 3);
  world.volumes.addNode('n3');
  world.volumes.resize('db', 2 ** 31);
  await host.look();
  t.equal(addresses().length, 4);
  t.equal(host.list()[0]?.sizeBytes, 2 ** 31);
  t.equal((await host.stats(target)).totalBytes, 2 ** 31);
  // without a control plane it stays as it is
  for (const call of ['listNodes', 'getVolume'] as const) {
    world.volumes.failNext(call, new StorError('UNAVAILABLE', 'no quorum'));
  }
  await host.look();
  t.equal(addresses().length, 4);
});

t.test('what somebody has unmounted by hand is mounted again when it is asked for', async (t) => {
  const world = oneHost();
  const host = await world.start();
  await host.mount({ volume: 'db', user, target }, signal);
  world.tools.table = [];
  await host.mount({ volume: 'db', user, target }, signal);
  t.equal(world.tools.table.length, 1);
  t.equal(host.list()[0]?.mounts.length, 1);
  world.tools.table = [];
  await host.close();
  t.same((await world.start()).list()[0]?.mounts, []);
});

t.test('a failed mkfs leaves an empty volume', async (t) => {
  const world = oneHost();
  const host = await world.start();
  world.tools.failNext('makeFileSystem', new StorError('FAILED_PRECONDITION', 'mkfs: no space'));
  await t.rejects(host.mount({ volume: 'db', user, target }, signal), { message: /mkfs/ });
  t.same([host.list(), world.volumes.content('db').hasData], [[], false]);
  await host.mount({ volume: 'db', user, target }, signal);
  t.equal(world.volumes.content('db').fileSystem, 'ext4');
});

t.test('what was on the device before mkfs began is left as it is', async (t) => {
  const world = oneHost();
  const host = await world.start();
  await host.attach({ volume: 'db', user }, signal);
  world.tools.failNext('makeFileSystem', new StorError('IN_USE', 'mkfs: it is mounted'));
  await t.rejects(host.mount({ volume: 'db', user, target }, signal), { message: /mkfs/ });
  t.notOk(world.tools.calls.some((call) => call.startsWith('discard')));
});

t.test('a path that is no device of the volume any more is not formatted', async (t) => {
  const world = oneHost();
  const host = await world.start();
  const { tools } = world;
  const hold = tools.hold.bind(tools);
  tools.hold = async (path) => {
    world.breakDevice('db', `${path} was taken away`);
    return hold(path);
  };
  await t.rejects(host.mount({ volume: 'db', user, target }, signal), {
    code: 'FAILED_PRECONDITION',
    message: /was taken away\): try again/,
  });
  t.same(tools.calls, []);
  t.same([host.list(), world.volumes.publications('db')], [[], []]);
  tools.hold = hold;
  await host.mount({ volume: 'db', user, target }, signal);
});

t.test('a volume lies over nothing that the host or the agent needs', async (t) => {
  const world = oneHost();
  const host = await world.start();
  const { tools } = world;
  const refused = async (at: string, message: RegExp): Promise<void> => {
    const order = { volume: 'db', user, target: at };
    await t.rejects(host.mount(order, signal), { code: 'INVALID_ARGUMENT', message }, at);
  };
  const system = /a folder of the operating system/;
  for (const at of ['/etc', '/etc/ssh', '//usr//bin/', '/var/', '/proc/1', '/lib64']) {
    await refused(at, system);
  }
  await refused('/data', /would hide \/data, where this agent has its data/);
  const realTarget = tools.realTarget.bind(tools);
  tools.realTarget = async (at) => realTarget(at === '/srv/link' ? '/etc/ssh' : at);
  await refused('/srv/link', system);
  t.same([tools.calls, host.list(), world.volumes.publications('db')], [[], [], []]);
  for (const at of [
    '/var/lib/db',
    '/run/db',
    '/usr/local/db',
    '/data/docker/mounts/x',
    '/etcetera',
  ]) {
    await host.mount({ volume: 'db', user, target: at }, signal);
  }
});

t.test('an unmount that is asked for again waits for the one that is under way', async (t) => {
  const world = oneHost();
  const host = await world.start();
  await host.mount({ volume: 'db', user, target }, signal);
  const { processes } = world;
  const stop = processes.stop.bind(processes);
  const again: Promise<void>[] = [];
  processes.stop = async () => {
    processes.stop = stop;
    again.push(host.unmount({ target, user }, signal));
    throw new StorError('IN_USE', 'a container has a copy of the mount');
  };
  await t.rejects(host.unmount({ target, user }, signal), { code: 'FAILED_PRECONDITION' });
  await Promise.all(again);
  t.same([host.list(), world.volumes.publications('db')], [[], []], 'what was said is so');
});

t.test('a host that lacks something says what', async (t) => {
  const world = oneHost();
  const host = await world.start();
  const text = '/dev/fuse is not there: run "modprobe fuse"';
  world.tools.hostChecks[1] = { name: 'fuse', state: 'failed', text };
  await t.rejects(host.attach({ volume: 'db', user }, signal), {
    code: 'FAILED_PRECONDITION',
    message: /modprobe fuse/,
  });
  t.same([host.list(), world.volumes.publications('db')], [[], []]);
  t.equal((await host.checks(signal))[1]?.state, 'failed');
});

t.test('devices are made by the NBD of the kernel where it is there', async (t) => {
  const volumes = new MemoryVolumes();
  volumes.addNode('n1');
  volumes.add('db');
  const world = new HostWorld(volumes, 'n1', ['nbd-kernel', 'fuse-loop']);
  const means = async (wanted: WantedMeans): Promise<string> => {
    const host = await world.start(world.ports(), wanted);
    const { means } = await host.attach({ volume: 'db', user }, signal);
    await host.detach({ volume: 'db', user }, signal);
    await host.close();
    return means;
  };
  t.equal(await means('auto'), 'fuse-loop');
  t.equal(await means('nbd-kernel'), 'nbd-kernel');
  world.tools.hostChecks.push({ name: 'nbd-kernel', state: 'failed', text: 'there is no nbd.ko' });
  await t.rejects(means('nbd-kernel'), { message: /there is no nbd\.ko/ });
  world.tools.hostChecks.pop();
  world.tools.kernelNbd = true;
  t.equal(await means('auto'), 'nbd-kernel');
  t.equal(await means('fuse-loop'), 'fuse-loop');
});

t.test('an NBD of the kernel that is of no use is not asked again', async (t) => {
  const world = oneHost();
  world.volumes.add('log');
  world.tools.kernelNbd = true;
  const tried: string[] = [];
  const ports = world.ports();
  const { processes } = ports;
  const start = processes.start.bind(processes);
  processes.start = (spec, signal) => {
    tried.push(spec.means);
    return start(spec, signal);
  };
  const host = await world.start(ports);
  t.equal((await host.attach({ volume: 'db', user }, signal)).means, 'fuse-loop');
  await host.attach({ volume: 'log', user }, signal);
  t.same(tried, ['nbd-kernel', 'fuse-loop', 'fuse-loop']);
  await host.close();
  // what failed for another reason says nothing of it
  tried.length = 0;
  world.killAll();
  const next = await world.start(ports);
  await next.detach({ volume: 'db', user, force: true }, signal);
  const error = new StorError('FAILED_PRECONDITION', 'there is no server');
  world.processes.startErrors.push(error, error);
  await t.rejects(next.attach({ volume: 'db', user }, signal), error);
  world.processes.startErrors.push(new StorError('UNAVAILABLE', 'no node answers'));
  await t.rejects(next.attach({ volume: 'db', user }, signal), { code: 'UNAVAILABLE' });
  t.same(tried, ['nbd-kernel', 'fuse-loop', 'nbd-kernel']);
  t.same(world.volumes.publications('db'), []);
  // only asked for
  const asked = await world.start(ports, 'nbd-kernel');
  await t.rejects(asked.attach({ volume: 'db', user }, signal), { code: 'FAILED_PRECONDITION' });
  t.same(tried.slice(3), ['nbd-kernel']);
});

t.test('the state of a newer agent, or one that is damaged, is refused', async (t) => {
  const world = oneHost();
  const host = await world.start();
  await host.attach({ volume: 'db', user }, signal);
  await host.close();
  const files = world.disk.process();
  const rewrite = (text: string): void => {
    files.remove('/data/host/devices.json');
    const file = files.create('/data/host/devices.json');
    file.writeSync(Buffer.from(text), 0, text.length, 0);
    file.close();
  };
  for (const [text, message] of [
    ['{"formatVersion":2}', /format version 2/],
    ['{"formatVersion":1}', /damaged: bootId/],
    ['{', /cannot be read/],
  ] as const) {
    rewrite(text);
    await t.rejects(world.start(), { code: 'FOREIGN_DATA', message });
  }
});
