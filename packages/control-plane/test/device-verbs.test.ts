// Devices of hosts by the API: any node is asked, and the agent of the host does it.
import { StorError } from '@stor/protocol';
import type { ApiClient } from '@stor/protocol';
import t from 'tap';
import type { Test } from 'tap';
import type { HostedDevice, HostOrder } from '../src/index.ts';
import { Rig } from './control-plane-rig.ts';

const hosted: HostedDevice = {
  volumeId: 'v-1',
  volume: 'db',
  publication: 'u-1',
  means: 'fuse-loop',
  path: '/dev/loop3',
  sizeBytes: 2 ** 30,
  readOnly: false,
  users: ['storctl'],
  mounts: [],
  failure: '',
};

async function open(t: Test): Promise<{ rig: Rig; client: ApiClient; id: string }> {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const request = { name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} };
  const { metadata } = await rig.during(client.createVolume(request));
  return { rig, client, id: metadata.id };
}

async function errorOf(promise: Promise<unknown>): Promise<StorError> {
  return promise.then(
    () => new StorError('INTERNAL', 'it was done'),
    (error: unknown) => StorError.from(error),
  );
}

t.test('each order comes to the host that is meant', async (t) => {
  const { rig, client } = await open(t);
  const asked = (node: number): HostOrder | undefined => rig.node(node).agent.hostOrders.pop();
  for (const node of [0, 1, 2]) {
    rig.node(node).agent.onHostOrder = () => ({ devices: [hosted], checks: [] });
  }
  const attached = await rig.during(
    client.attachDevice({ name: 'db', node: 'n2', readOnly: true }),
  );
  t.match(attached, { node: 'n2', path: '/dev/loop3', users: ['storctl'], failure: '' });
  t.match(asked(1), { type: 'attach', volume: 'db', readOnly: true });
  const mount = {
    name: 'db',
    node: 'n3',
    target: '/mnt/db',
    fileSystem: 'xfs',
    options: ['noatime'],
    formatOptions: ['-L', 'x'],
  };
  t.match(await rig.during(client.mountVolume(mount)), { node: 'n3' });
  const { name: volume, node: _node, ...rest } = mount;
  t.same(asked(2), { type: 'mount', volume, ...rest, readOnly: false, force: false });
  const { devices } = await rig.during(client.listDevices({ node: 'n2' }));
  t.match(devices, [{ node: 'n2', volume: 'db' }]);
  t.match(asked(1), { type: 'list' });
  await rig.during(client.publishVolume({ name: 'db', node: 'n3' }));
  // the host that has it, when none is named
  await rig.during(client.detachDevice({ name: 'db', node: '', force: true }));
  t.match(asked(2), { type: 'detach', volume: 'db', force: true });
  await rig.during(client.unmountVolume({ name: 'db', node: '', target: '' }));
  t.match(asked(2), { type: 'unmount', volume: 'db', target: '' });
  await rig.during(client.growDevice({ name: 'db', node: '' }));
  t.match(asked(2), { type: 'grow', volume: 'db' });
  await rig.during(client.unmountVolume({ name: '', node: 'n1', target: '/mnt/x' }));
  t.match(asked(0), { type: 'unmount', volume: '', target: '/mnt/x' });
});

t.test('what a host answers is told, and what cannot be meant is refused', async (t) => {
  const { rig, client, id } = await open(t);
  const checks = [{ name: 'fuse', state: 'failed' as const, text: 'it is not there' }];
  rig.node(1).agent.onHostOrder = (order) => {
    if (order.type === 'check') return { devices: [], checks };
    throw new StorError('FOREIGN_DATA', 'it carries swap', { details: { found: 'swap' } });
  };
  t.same(await rig.during(client.checkHost({ node: 'n2' })), { node: 'n2', checks });
  const mount = { name: 'db', node: 'n2', target: '/mnt/db' };
  t.match(await errorOf(rig.during(client.mountVolume(mount))), {
    code: 'FOREIGN_DATA',
    message: 'it carries swap',
    details: { found: 'swap' },
  });
  t.match(await errorOf(rig.during(client.attachDevice({ name: 'db', node: 'n3' }))), {
    code: 'FAILED_PRECONDITION',
    message: /makes no devices/,
  });
  const refused: [() => Promise<unknown>, string][] = [
    [() => client.attachDevice({ name: 'db', node: 'n9' }), 'NOT_FOUND'],
    [() => client.listDevices({ node: 'n9' }), 'NOT_FOUND'],
    [() => client.detachDevice({ name: 'no', node: '' }), 'NOT_FOUND'],
    [() => client.mountVolume({ ...mount, target: '' }), 'INVALID_ARGUMENT'],
    [() => client.unmountVolume({ name: '', node: 'n2', target: '' }), 'INVALID_ARGUMENT'],
    [() => client.attachDevice({ name: 'db', node: 'n2', resourceVersion: 1 }), 'CONFLICT'],
  ];
  for (const [call, code] of refused) {
    t.equal((await errorOf(rig.during(call()))).code, code);
  }
  // done once, under whichever name it is asked for again
  rig.node(1).agent.onHostOrder = () => ({ devices: [hosted], checks: [] });
  const order = { name: 'db', node: 'n2', requestId: 'a-1' };
  await rig.during(client.attachDevice(order));
  const last = rig.node(1).agent.hostOrders.at(-1);
  t.equal(last?.volume, id, 'by its id');
  t.equal((await rig.during(client.attachDevice(order))).path, '/dev/loop3');
});

t.test('a volume of several hosts is taken from the one that is named', async (t) => {
  const { rig, client } = await open(t);
  await rig.during(client.updateVolume({ name: 'db', policy: { shared: true } }));
  for (const node of ['n1', 'n2']) await rig.during(client.publishVolume({ name: 'db', node }));
  t.match(await errorOf(rig.during(client.detachDevice({ name: 'db', node: '' }))), {
    code: 'FAILED_PRECONDITION',
    message: /n1, n2/,
  });
});
