// What the API asks of a host, and how its agent reaches other nodes for it.
import { mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { HostOrder } from '@stor/control-plane';
import {
  FakeHostVolumes,
  FakeDeviceProcesses,
  FakeHostTools,
  MemoryVolumes,
} from '@stor/host-attach/testing';
import { silentLogger, systemClock, systemFiles } from '@stor/runtime';
import t from 'tap';
import { checkAgentConfig, type AgentConfig } from '../src/config.ts';
import { AgentHost } from '../src/host/agent-host.ts';
import { orderHost } from '../src/host/host-orders.ts';
import { hostTls } from '../src/host/host-tls.ts';

const { signal } = new AbortController();

function order(type: HostOrder['type'], more: Partial<HostOrder> = {}): HostOrder {
  const none = { target: '', fileSystem: '', options: [], formatOptions: [] };
  return { type, volume: 'db', ...none, readOnly: false, force: false, ...more };
}

t.test('orders become those of the host', async (t) => {
  const volumes = new MemoryVolumes();
  const host = new FakeHostVolumes(volumes, volumes.addNode('n1').metadata.id);
  const ask = (asked: HostOrder) => orderHost(host, asked, signal);
  volumes.add('db');
  const attached = await ask(order('attach'));
  t.match(attached, { devices: [{ volume: 'db', users: ['storctl'], failure: '' }], checks: [] });
  t.same((await ask(order('list'))).devices, attached.devices);
  const mount = order('mount', { target: '/mnt/db', fileSystem: 'xfs', options: ['noatime'] });
  t.match((await ask(mount)).devices, [
    { mounts: [{ target: '/mnt/db', fileSystem: 'xfs', options: ['noatime'], user: 'storctl' }] },
  ]);
  await ask(order('mount', { target: '/mnt/db/inner' }));
  volumes.resize('db', 2 ** 31);
  t.match((await ask(order('grow'))).devices, [{ sizeBytes: 2 ** 31 }]);
  t.match((await ask(order('check'))).checks, [{ name: 'fuse', state: 'ok' }, { name: 'loop' }]);
  t.same(await ask(order('unmount')), { devices: [], checks: [] });
  t.same(host.calls.slice(-2), ['unmount /mnt/db/inner storctl', 'unmount /mnt/db storctl']);
  t.same([host.list(), volumes.publications('db')], [[], []]);
  await ask(order('unmount', { volume: '', target: '/mnt/db' }));
  await ask(order('detach'));
  await t.rejects(ask(order('mount', { target: '/mnt/db', fileSystem: 'zfs' })), {
    code: 'INVALID_ARGUMENT',
  });
  await t.rejects(ask({ ...order('list'), type: 'polish' as 'list' }), {
    code: 'FAILED_PRECONDITION',
    message: /polish/,
  });
});

t.test('a container’s volume is not taken away from it by mistake', async (t) => {
  const volumes = new MemoryVolumes();
  const host = new FakeHostVolumes(volumes, volumes.addNode('n1').metadata.id);
  volumes.add('db');
  await host.mount({ volume: 'db', user: 'docker', target: '/mnt/db' }, signal);
  await t.rejects(orderHost(host, order('detach'), signal), {
    code: 'FAILED_PRECONDITION',
    message: /for docker/,
  });
  await orderHost(host, order('unmount'), signal);
  t.equal(host.list().length, 1, 'what others have mounted is none of ours');
  await orderHost(host, order('detach', { force: true }), signal);
  t.same(host.list(), []);
});

const config: AgentConfig = checkAgentConfig(
  {
    ...{ clusterId: 'c-0000000000000001', nodeId: 'n-0000000000000001', nodeName: 'n1' },
    dataDir: '/nowhere',
    listen: { host: '127.0.0.1', api: 1, http: 2, peers: 3, nbd: [4] },
    members: [{ id: 'n-0000000000000001', name: 'n1', api: '127.0.0.1:1' }],
  },
  'test',
);

t.test('a host whose state cannot be read makes no devices, and the agent goes on', async (t) => {
  const dataDir = t.testdir({ host: { 'devices.json': '{' } });
  const volumes = new MemoryVolumes();
  const tools = new FakeHostTools({ volumes, deviceAt: () => null });
  const processes = new FakeDeviceProcesses();
  const common = { config, bootId: 'b', files: systemFiles, clock: systemClock };
  const host = await AgentHost.open({
    ...{ ...common, dataDir, processes, tools, logger: silentLogger },
  });
  t.same(host.devices, []);
  await t.rejects(host.order(order('list'), signal), {
    code: 'FAILED_PRECONDITION',
    message: /devices\.json cannot be read/,
  });
  t.throws(() => host.volumes, { code: 'FAILED_PRECONDITION' });
  t.equal(readFileSync(join(dataDir, 'host/devices.json'), 'utf8'), '{', 'left as it is');
  await host.close();
  await host.close();
});

t.test('devices prove to other nodes who they are as the agent does', async (t) => {
  const dir = t.testdir();
  const at = (name: string): string => join(dir, name);
  const of = (tls: object) => hostTls({ nbd: { tls } } as AgentConfig, at('host'));
  t.equal(hostTls({}, dir), null);
  t.equal(of({ mode: 'off' }), null);
  writeFileSync(at('keys.psk'), 'alice:00112233445566778899aabbccddeeff\n');
  const keys = { mode: 'required', pskFile: at('keys.psk') };
  t.same(of(keys), { pskFile: at('keys.psk'), username: 'alice' });
  t.match(of({ ...keys, pskIdentity: 'n1' }), { username: 'n1' });
  mkdirSync(at('pki'));
  const files = { ca: at('pki/ca.pem'), cert: at('pki/node.pem'), key: at('pki/node-key.pem') };
  for (const file of Object.values(files)) writeFileSync(file, '');
  for (const tls of [files, { ...files, ca: undefined }, files]) {
    t.same(of({ mode: 'required', ...tls }), { certificates: at('host/tls') });
  }
  t.equal(readlinkSync(at('host/tls/ca-cert.pem')), files.ca);
  t.equal(readlinkSync(at('host/tls/client-cert.pem')), files.cert);
  t.equal(readlinkSync(at('host/tls/client-key.pem')), files.key);
});
