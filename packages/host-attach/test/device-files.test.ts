import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StorError } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import t, { type Test } from 'tap';
import { callDevice } from '../src/device/call-device.ts';
import { DeviceControlServer, type AnswerCall } from '../src/device/device-control-server.ts';
import { deviceFiles } from '../src/device/device-files.ts';
import {
  parseAnswer,
  parseCall,
  parseSpec,
  specText,
  stateText,
} from '../src/device/device-messages.ts';
import type { DeviceSpec, DeviceState } from '../src/device/device-processes.ts';
import { parseMountInfo } from '../src/device/mount-table.ts';
import {
  livingProcess,
  processRecordOf,
  writeProcessRecord,
} from '../src/device/process-record.ts';

const state: DeviceState = {
  id: 'db',
  pid: 7,
  path: '/dev/loop3',
  means: 'fuse-loop',
  sizeBytes: 1 << 20,
  readOnly: false,
  address: null,
  failure: null,
};

const spec: DeviceSpec = {
  id: 'db',
  exportName: 'published:p-1:db',
  addresses: [{ path: '/run/nbd.sock' }, { host: '10.0.0.1', port: 10809 }, 'nbd://10.0.0.2/x'],
  readOnly: false,
  sizeBytes: 1 << 20,
  means: 'fuse-loop',
  dir: '/var/lib/stor/host',
};

/** A short path: a socket's is bounded. */
function folder(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'stor-device-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

t.test('orders and answers come through as they are', async (t) => {
  t.strictSame(parseSpec(specText(spec)), spec);
  const key = Buffer.from([0, 1, 255]);
  const tls = { mode: 'allow' as const, hostname: 'n1', psk: { identity: 'me', key } };
  t.strictSame(parseSpec(specText({ ...spec, tls })), { ...spec, tls });
  t.strictSame(parseAnswer(stateText(state)), state);
  for (const bad of ['', '{', '[]', '{"call":"grow"}', '{"call":"grow","sizeBytes":-1}']) {
    t.throws(() => parseCall(bad), { code: 'INVALID_ARGUMENT' });
  }
  t.throws(() => parseSpec('{"id":"db"}'), { code: 'INVALID_ARGUMENT', message: /addresses/ });
  t.throws(() => parseAnswer('{"state":7}'), { code: 'PROTOCOL' });
});

t.test('a process is asked over its socket, and its errors come back', async (t) => {
  const { controlSocket: path } = deviceFiles('db', folder(t));
  const { signal } = new AbortController();
  const options = { timeoutMs: 20_000, signal };
  t.equal(await callDevice(path, { call: 'state' }, options), null, 'nobody');
  let seen: AbortSignal | null = null;
  let called: () => void = () => {};
  const waiting = new Promise<void>((resolve) => (called = resolve));
  const answer: AnswerCall = async (call, gone) => {
    if (call.call === 'state') return state;
    if (call.call === 'stop') throw new StorError('IN_USE', 'no', { details: { users: 'me' } });
    seen = gone;
    called();
    return new Promise((resolve) => gone.addEventListener('abort', () => resolve(state)));
  };
  const server = await DeviceControlServer.listen(path, answer, silentLogger);
  t.strictSame(await callDevice(path, { call: 'state' }, options), state);
  await t.rejects(callDevice(path, { call: 'stop', force: false }, options), {
    code: 'IN_USE',
    message: 'no',
    details: { users: 'me' },
  });
  const leave = new AbortController();
  const left = callDevice(
    path,
    { call: 'grow', sizeBytes: 5 },
    { ...options, signal: leave.signal },
  );
  await waiting;
  leave.abort();
  await t.rejects(left, { code: 'ABORTED' });
  await server.close();
  await server.close();
  t.ok((seen as AbortSignal | null)?.aborted, 'whoever carries it out knows');
  t.equal(await callDevice(path, { call: 'state' }, options), null, 'nobody any more');
});

t.test('the answer to the last call arrives', async (t) => {
  const { controlSocket: path } = deviceFiles('db', folder(t));
  const { signal } = new AbortController();
  let closed: Promise<void> | null = null;
  const server: DeviceControlServer = await DeviceControlServer.listen(
    path,
    async () => {
      closed = server.close();
      return state;
    },
    silentLogger,
  );
  t.strictSame(await callDevice(path, { call: 'state' }, { timeoutMs: 20_000, signal }), state);
  await Promise.resolve(closed);
});

t.test('ids and folders that cannot be are refused with what to do', async (t) => {
  t.throws(() => deviceFiles('Db', '/x'), { code: 'INVALID_ARGUMENT', message: /a-z, 0-9/ });
  t.throws(() => deviceFiles('db', 'x'), { code: 'INVALID_ARGUMENT', message: /not absolute/ });
  const deep = `/${'x'.repeat(110)}`;
  t.throws(() => deviceFiles('db', deep), { code: 'INVALID_ARGUMENT', message: /shorter path/ });
});

t.test('a process is known by its number and its start', async (t) => {
  const file = join(folder(t), 'record');
  t.equal(livingProcess(file), null);
  writeProcessRecord(file, '/dev/loop3');
  const own = processRecordOf(process.pid);
  t.strictSame(livingProcess(file), { ...own, path: '/dev/loop3' });
  for (const change of [{ startTicks: '1' }, { bootId: 'x' }, { pid: 2 ** 30 }]) {
    writeFileSync(file, JSON.stringify({ ...own, ...change }));
    t.equal(livingProcess(file), null);
  }
  writeFileSync(file, '{"pid":');
  t.equal(livingProcess(file), null);
});

t.test('mounts are read as the kernel writes them', async (t) => {
  const text = [
    '36 35 98:0 /mnt1 /mnt/with\\040blank rw,noatime master:1 shared:2 - ext3 /dev/root rw',
    '37 35 7:3 / /data rw - ext4 /dev/loop3 rw',
    'no mount',
    '',
  ].join('\n');
  t.strictSame(parseMountInfo(text), [
    { device: '98:0', target: '/mnt/with blank', source: '/dev/root' },
    { device: '7:3', target: '/data', source: '/dev/loop3' },
  ]);
});
