// A device process with the kernel's NBD, from the connection to the volume to the kernel's sockets; a test
// plays the kernel, and its device files are ordinary files.
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { publicationEndedMessage } from '@stor/protocol';
import { NetlinkError, silentLogger, systemClock } from '@stor/runtime';
import { command, transmissionFlag } from 'nbd-client-js';
import t, { type Test } from 'tap';
import { callDevice } from '../src/device/call-device.ts';
import { deviceFiles, type DeviceFiles } from '../src/device/device-files.ts';
import type { DeviceCall } from '../src/device/device-messages.ts';
import { DeviceProcess } from '../src/device/device-process.ts';
import type { DeviceSpec, DeviceState } from '../src/device/device-processes.ts';
import { processRecordOf } from '../src/device/process-record.ts';
import type { WantedMeans } from '../src/host-volumes.ts';
import { isNewEnough, kernelNbdCheck } from '../src/tools/host-checks.ts';
import { FakeKernelNbd } from './support/fake-kernel-nbd.ts';
import { MiniNbdServer } from './support/mini-nbd-server.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
const exportName = 'published:p-1:db';

interface Setup {
  server: MiniNbdServer;
  /** another node of the same volume */
  other: MiniNbdServer;
  kernel: FakeKernelNbd;
  spec: DeviceSpec;
  files: DeviceFiles;
  start: (change?: Partial<DeviceSpec>) => Promise<DeviceProcess>;
  call: (call: DeviceCall) => Promise<DeviceState | null>;
}

async function setUp(t: Test): Promise<Setup> {
  const dir = mkdtempSync(join(tmpdir(), 'stor-knbd-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const server = await MiniNbdServer.start(t);
  const other = await MiniNbdServer.start(t);
  server.flags |= transmissionFlag.sendFua;
  other.flags = server.flags;
  const kernel = new FakeKernelNbd(dir);
  const spec: DeviceSpec = {
    ...{ id: 'db', exportName, readOnly: false, sizeBytes: MiB, means: 'nbd-kernel', dir },
    addresses: [server.address, other.address],
  };
  const files = deviceFiles('db', dir);
  const limits = { backoffMinMs: 1, backoffMaxMs: 5 };
  const host = { clock: systemClock, logger: silentLogger, limits };
  const start = async (change: Partial<DeviceSpec> = {}): Promise<DeviceProcess> => {
    const openKernelNbd = async (): Promise<FakeKernelNbd> => kernel;
    const device = await DeviceProcess.start(
      { ...spec, ...change },
      { ...host, openKernelNbd },
      signal,
    );
    t.teardown(async () => {
      await callDevice(
        files.controlSocket,
        { call: 'stop', force: true },
        { timeoutMs: 20_000, signal },
      );
      await device.close();
    });
    return device;
  };
  const call = (asked: DeviceCall): Promise<DeviceState | null> =>
    callDevice(files.controlSocket, asked, { timeoutMs: 20_000, signal });
  return { server, other, kernel, spec, files, start, call };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

function typesSeen({ seen }: MiniNbdServer): number[] {
  return seen.map(({ type }) => type);
}

t.test('the kernel’s requests go to the volume, over several connections', async (t) => {
  const { server, kernel, files, start, call } = await setUp(t);
  const device = await start();
  t.match(device.state(), {
    path: kernel.path(0),
    means: 'nbd-kernel',
    sizeBytes: MiB,
    failure: null,
  });
  t.equal(device.state().address, `127.0.0.1:${server.port}`);
  const { settings, sockets } = kernel.device;
  t.ok(sockets.length > 1);
  t.match(settings, { index: 0, sizeBytes: MiB, backend: `stor:${files.record}` });
  const { canMultiConn, sendFua, sendTrim, readOnly } = transmissionFlag;
  t.equal(settings.flags & (canMultiConn | sendFua | sendTrim), canMultiConn | sendFua | sendTrim);
  t.equal(settings.flags & readOnly, 0);
  const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, n) => n % 251));
  await kernel.device.write(4096, bytes);
  t.ok((await kernel.device.read(4096, bytes.length)).equals(bytes));
  t.ok(server.bytes.subarray(4096, 4096 + bytes.length).equals(bytes));

  t.comment('and it goes away in order');
  t.equal((await call({ call: 'stop', force: false }))?.id, 'db');
  t.equal(await device.ended, true);
  t.equal(kernel.connected.size, 0);
  t.equal(typesSeen(server).at(-1), command.flush);
  await until(() => server.connections === 0 && kernel.all[0]?.broken === sockets.length);
  t.notOk(existsSync(files.record));
});

t.test('the node that serves is killed in the middle: the kernel sees a pause', async (t) => {
  const { server, other, kernel, start } = await setUp(t);
  const device = await start();
  server.gate = new Promise(() => {});
  const { broken, sockets } = kernel.device;
  const asked = Array.from({ length: 40 }, (_, n) => {
    return kernel.device.write(n * 4096, Buffer.alloc(4096, n + 1));
  });
  const flushed = kernel.device.ask({ type: command.flush });
  await until(() => server.seen.length > 10);
  server.refusal = 'this node is gone';
  server.drop();
  await Promise.all(asked);
  t.equal((await flushed).errno, 0);
  t.equal(device.state().address, `127.0.0.1:${other.port}`);
  for (let n = 0; n < 40; n += 1) t.equal(other.bytes[n * 4096], n + 1);
  t.equal(typesSeen(other).filter((type) => type === command.write).length, 40);
  t.equal(kernel.device.broken, broken);
  t.ok(
    sockets.every(({ destroyed }) => !destroyed),
    'over the same connections',
  );
  t.equal(device.state().failure, null);
});

t.test('a device grows in use', async (t) => {
  const { server, kernel, start, call } = await setUp(t);
  await start();
  await t.rejects(call({ call: 'grow', sizeBytes: MiB / 2 }), { code: 'INVALID_ARGUMENT' });
  await t.rejects(call({ call: 'grow', sizeBytes: 2 * MiB }), { code: 'UNAVAILABLE' });
  t.equal(kernel.device.sizeBytes, MiB);
  server.sizeBytes = 2 * MiB;
  t.equal((await call({ call: 'grow', sizeBytes: 2 * MiB }))?.sizeBytes, 2 * MiB);
  t.equal(kernel.device.sizeBytes, 2 * MiB);
  await kernel.device.write(2 * MiB - 4096, Buffer.alloc(4096, 7));
  t.equal(server.bytes[2 * MiB - 1], 7);
});

t.test('where the kernel cannot be used nothing is left', async (t) => {
  const { server, kernel, spec, files, start } = await setUp(t);
  const fails = async (started: Promise<unknown>, message: RegExp): Promise<void> => {
    await t.rejects(started, { code: 'FAILED_PRECONDITION', message });
    t.equal(kernel.connected.size, 0);
    await until(() => server.connections === 0 && kernel.all.every((each) => each.broken > 1));
    t.notOk(existsSync(files.controlSocket));
  };
  const host = { clock: systemClock, logger: silentLogger, openKernelNbd: async () => null };
  await fails(DeviceProcess.start(spec, host, signal), /this kernel has no NBD/);
  const openKernelNbd = () => Promise.reject(new Error('no foreign function interface'));
  const noCalls = DeviceProcess.start(spec, { ...host, openKernelNbd }, signal);
  await fails(noCalls, /cannot be used \(no foreign function interface\): use fuse-loop/);
  t.equal(kernel.all.length, 0);
  kernel.refusal = new NetlinkError('netlink CONNECT', 1);
  await fails(start(), /cannot be used \(netlink CONNECT: errno 1\)/);
  kernel.refusal = null;
  kernel.isOld = true;
  await fails(start(), /needs Linux 5\.14/);
  kernel.isOld = false;
  rmSync(kernel.path(0), { force: true });
  kernel.hasNoFiles = true;
  await fails(start(), /there is no .*nbd0/);
  kernel.hasNoFiles = false;
  await fails(start({ sizeBytes: 8 * MiB }), /less than the 8388608/);
});

t.test('a device that is somebody else’s is not taken', async (t) => {
  const { kernel, spec, start } = await setUp(t);
  // one of another program, and one that a process of this folder had, which has died
  kernel.busy.add(0);
  const dead = { ...processRecordOf(process.pid), startTicks: '1', path: kernel.path(1) };
  writeFileSync(deviceFiles('dead', spec.dir).record, JSON.stringify(dead));
  const device = await start();
  t.equal(device.state().path, kernel.path(2));
  await kernel.device.write(0, Buffer.alloc(512, 1));
});

t.test('doctor says which of the means is used, and why', async (t) => {
  const check = (
    means: DeviceSpec['means'],
    has: boolean,
    wanted: WantedMeans = means,
    refusal: string | null = null,
  ) => kernelNbdCheck({ wanted, means, refusal }, '6.1.0', has);
  t.match(check('fuse-loop', false), { state: 'ok', text: /"deviceMeans: fuse-loop"/ });
  t.match(check('fuse-loop', true), { state: 'ok', text: /by FUSE .* "deviceMeans: fuse-loop"/ });
  t.match(check('fuse-loop', false, 'auto'), { text: /by FUSE .*: the kernel 6\.1\.0 has no nbd/ });
  t.match(check('fuse-loop', true, 'auto'), { text: /older than Linux 5\.14$/ });
  t.match(check('fuse-loop', true, 'auto', 'no /dev/nbd0'), {
    text: /did not do: no \/dev\/nbd0$/,
  });
  t.match(check('nbd-kernel', true, 'auto'), { state: 'ok', text: /nbd\.ko: the kernel has it$/ });
  t.match(check('nbd-kernel', true), { state: 'ok', text: /^volumes become devices of nbd\.ko/ });
  t.match(check('nbd-kernel', false), { state: 'failed', text: /configure fuse-loop$/ });
});

t.test('kernels that say whose a device is', async (t) => {
  const kernels = ['6.1.0-56-cloud-amd64', '5.14.0', '5.13.19-2-pve', '4.19.0', '5.4.0', '6.18.2'];
  t.same(kernels.map(isNewEnough), [true, true, false, false, false, true]);
});

t.test('somebody takes the device away', async (t) => {
  const { kernel, start, call } = await setUp(t);
  const device = await start();
  const path = kernel.path(0);
  await kernel.disconnect(0);
  t.match(await call({ call: 'state' }), { failure: `${path} was taken away` });
  t.equal((await call({ call: 'stop', force: false }))?.path, path, 'what there is goes');
  t.equal(await device.ended, true);
});

t.test('somebody disconnects the device while it is open: it fails, and says so', async (t) => {
  const { kernel, start, call } = await setUp(t);
  const device = await start();
  const path = kernel.path(0);
  kernel.isOpened = true;
  await kernel.disconnect(0);
  await until(() => kernel.all[0]?.broken === kernel.all[0]?.sockets.length);
  t.match(await call({ call: 'state' }), { path, failure: `${path} was disconnected` });
  await call({ call: 'stop', force: true });
  t.equal(await device.ended, true);
});

t.test('the number of a device that was lost is another program’s by now', async (t) => {
  const { server, kernel, start, call } = await setUp(t);
  await start();
  const [old] = kernel.all;
  // the kernel has let go by itself, and somebody else has taken the number
  await kernel.connect({ ...kernel.device.settings, sockets: [], backend: 'another' });
  old?.sockets[1]?.destroy();
  await until(() => server.connections === 0);
  t.match(await call({ call: 'state' }), { failure: /the kernel has ended a connection/ });
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(kernel.connected.get(0)?.settings.backend, 'another', 'which is left alone');
});

t.test('the kernel gives up a connection', async (t) => {
  const { server, kernel, start, call } = await setUp(t);
  await start();
  kernel.device.sockets[1]?.destroy();
  await until(() => kernel.connected.size === 0);
  t.match(await call({ call: 'state' }), { failure: /the kernel has ended a connection/ });
  await until(() => server.connections === 0);
});

t.test('a device whose right has ended fails, and goes with force while it is open', async (t) => {
  const { server, other, kernel, files, start, call } = await setUp(t);
  const device = await start();
  server.refusal = publicationEndedMessage('p-1', 'db');
  other.refusal = server.refusal;
  server.drop();
  const { errno } = await kernel.device.ask({ type: command.read, offset: 0, length: 512 });
  t.equal(errno, 5);
  t.match(await call({ call: 'state' }), { failure: /is not published as p-1 any more/ });
  kernel.isOpened = true;
  await call({ call: 'stop', force: true });
  await device.ended;
  t.notOk(existsSync(files.record));
  t.strictSame(
    readdirSync(files.dir).filter((name) => !name.startsWith('nbd')),
    ['db.sock'],
    'but what the last answer comes by',
  );
});
