import { randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { StorError } from '@stor/protocol';
import {
  connectSocket,
  defaultReceive,
  listenSocket,
  silentLogger,
  systemClock,
  systemNetwork,
  type Network,
} from '@stor/runtime';
import { FakeClock, PoisonedPool, SeededRandom } from '@stor/runtime/testing';
import {
  NbdClient,
  command,
  commandFlag,
  encodeClientFlags,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  errno,
  formatClientContext,
  optionReplyType,
  optionType,
  type HeaderForm,
} from 'nbd-client-js';
import { NbdServer } from '../src/nbd/nbd-server.ts';
import { NbdStats } from '../src/nbd/nbd-stats.ts';
import {
  RawClient,
  TestExports,
  encodeRequest,
  rawClient,
  startServer,
  until,
  type TestServer,
} from './nbd-harness.ts';

const mebibyte = 1 << 20;

/** The host's sockets, which overwrite received bytes as soon as nobody holds them any more. */
function poisoningNetwork(): Network {
  const receive = { ...defaultReceive, pool: new PoisonedPool(64 * mebibyte) };
  return {
    ...systemNetwork,
    listen: (target, onConnection) => listenSocket(target, onConnection, receive),
  };
}

/** The device answers later, in an order of its own. */
function answerLater(device: TestServer['device'], random: SeededRandom): void {
  const waiting: (() => void)[] = [];
  device.behaviour.delay = (_operation, finish) => {
    waiting.push(finish);
    setImmediate(() => {
      const at = Math.floor(random.next() * waiting.length);
      waiting.splice(at, 1)[0]?.();
    });
  };
}

async function modelRun(t: Test, form: HeaderForm, isSlow: boolean): Promise<void> {
  const structuredReplies = form !== 'simple';
  const { device, port, exports, server } = await startServer(t);
  if (isSlow) answerLater(device, new SeededRandom(7));
  const client = await NbdClient.connect({
    host: '127.0.0.1',
    port,
    exportName: 'db',
    structuredReplies,
    extendedHeaders: form === 'extended',
  });
  t.equal(client.extendedHeaders, form === 'extended');
  const random = new SeededRandom(structuredReplies ? 1 : 2);
  const model = Buffer.alloc(mebibyte);
  const below = (n: number): number => Math.floor(random.next() * n);
  for (let round = 0; round < 40; round++) {
    // one request per sixteenth of the device, so that concurrent ones never overlap
    const requests = Array.from({ length: 16 }, async (_, part) => {
      const base = part * 65_536;
      const offset = base + below(65_536);
      const length = below(base + 65_536 - offset) + 1;
      const kind = below(8);
      if (kind < 3) {
        const bytes = Buffer.from(random.bytes(length));
        bytes.copy(model, offset);
        await client.write(offset, bytes, { fua: kind === 0 });
      } else if (kind === 3) {
        model.fill(0, offset, offset + length);
        await client.writeZeroes(offset, length, { noHole: below(2) === 0 });
      } else if (kind === 4) {
        model.fill(0, offset, offset + length);
        await client.trim(offset, length);
      } else {
        const bytes = await client.read(offset, length);
        if (!bytes.equals(model.subarray(offset, offset + length))) {
          t.fail(`read of ${length} at ${offset} differs in round ${round}`);
        }
      }
    });
    await Promise.all(requests);
    await client.flush();
  }
  t.ok((await client.read(0, mebibyte)).equals(model), 'all bytes are as the model has them');
  if (structuredReplies) {
    let at = 0;
    while (at < mebibyte) {
      const extents = await client.blockStatus(at, mebibyte - at);
      for (const extent of extents) {
        t.equal(extent.offset, at);
        if (extent.zero) t.ok(model.subarray(at, at + extent.length).every((b) => b === 0));
        at += extent.length;
      }
    }
  }
  const stats = server.stats.exports.get('v-db')!;
  t.equal(stats.connections, 1);
  await client.disconnect();
  await until(() => exports.released === 1 && stats.connections === 0);
  t.equal(stats.inFlight, 0);
  t.ok(stats.read.ops > 0 && stats.write.ops > 0 && stats.trim.ops > 0);
  t.equal(stats.flush.ops, 40);
  t.ok(device.fuaCalls > 0 && device.noHoleCalls > 0);
  for (const { ops, latencyCounts } of [stats.read, stats.write, stats.trim, stats.flush]) {
    t.equal(
      latencyCounts.reduce((sum, count) => sum + count),
      ops,
    );
  }
}

t.test('random requests agree with a buffer', async (t) => {
  for (const form of ['simple', 'structured', 'extended'] as const) {
    await t.test(`inline, ${form} headers`, (t) => modelRun(t, form, false));
    await t.test(`slow, ${form} headers`, (t) => modelRun(t, form, true));
  }
});

t.test('large requests, up to the limit', async (t) => {
  const { port } = await startServer(t, { sizeBytes: 80 * mebibyte });
  const client = await NbdClient.connect({ host: '127.0.0.1', port, exportName: 'db' });
  const bytes = randomBytes(32 * mebibyte);
  await client.write(5, bytes);
  const [a, b] = await Promise.all([
    client.read(5, 32 * mebibyte),
    client.read(5 + 8 * mebibyte, mebibyte),
  ]);
  t.ok(a.equals(bytes));
  t.ok(b.equals(bytes.subarray(8 * mebibyte, 9 * mebibyte)));
  await client.writeZeroes(0, 80 * mebibyte);
  t.ok((await client.read(5, 4096)).every((byte) => byte === 0));
  await client.disconnect();
});

t.test('payloads of large writes stay as they are while the device has them', async (t) => {
  const { port, device } = await startServer(t, {
    sizeBytes: 64 * mebibyte,
    network: poisoningNetwork(),
  });
  answerLater(device, new SeededRandom(7));
  const client = await NbdClient.connect({ host: '127.0.0.1', port, exportName: 'db' });
  const whole = randomBytes(64 * mebibyte);
  for (let round = 0; round < 2; round++) {
    if (round === 1) randomBytes(16 * mebibyte).copy(whole);
    // sizes on both sides of what is copied
    const sizes = [mebibyte, mebibyte, 4096, mebibyte - 4096, 70_000, 3 * mebibyte];
    const writes: Promise<void>[] = [];
    for (let at = 0, i = 0; at < whole.length; i++) {
      const length = Math.min(sizes[i % sizes.length] ?? mebibyte, whole.length - at);
      writes.push(client.write(at, whole.subarray(at, at + length)));
      at += length;
      if (i % 16 === 15) await Promise.all(writes);
    }
    await Promise.all(writes);
    for (let at = 0; at < whole.length; at += 16 * mebibyte) {
      const got = await client.read(at, 16 * mebibyte);
      t.ok(got.equals(whole.subarray(at, at + 16 * mebibyte)), `16 MiB at ${at}`);
    }
  }
  await client.disconnect();
});

t.test('bad requests get the errno of the specification, and the connection lives', async (t) => {
  const { port, device, server } = await startServer(t);
  const client = rawClient(t, port);
  await client.go('db');
  const end = mebibyte;
  const payload = Buffer.alloc(512, 1);
  const cases: [string, number, Parameters<typeof encodeRequest>[0]][] = [
    ['read beyond the end', errno.EINVAL, { type: command.read, offset: end - 1, length: 2 }],
    ['read at 2^63', errno.EINVAL, { type: command.read, offset: 2n ** 63n, length: 512 }],
    ['read at 2^64 - 1', errno.EINVAL, { type: command.read, offset: 2n ** 64n - 1n, length: 1 }],
    ['read above the limit', errno.EINVAL, { type: command.read, length: 2 ** 25 + 1 }],
    ['write beyond the end', errno.ENOSPC, { type: command.write, offset: end - 511, payload }],
    ['write at 2^63', errno.ENOSPC, { type: command.write, offset: 2n ** 63n, payload }],
    ['zeroes beyond the end', errno.ENOSPC, { type: command.writeZeroes, offset: 1, length: end }],
    ['trim beyond the end', errno.EINVAL, { type: command.trim, offset: end, length: 1 }],
    ['cache beyond the end', errno.EINVAL, { type: command.cache, offset: end, length: 1 }],
    ['block status without a context', errno.EINVAL, { type: command.blockStatus, length: 512 }],
    ['unknown command', errno.EINVAL, { type: 99, length: 512 }],
    ['unknown flag', errno.EINVAL, { type: command.read, flags: 0x8000, length: 512 }],
    ['unknown flag of a write', errno.EINVAL, { type: command.write, flags: 0x20, payload }],
    [
      'DF without structured replies',
      errno.EINVAL,
      { type: command.read, flags: commandFlag.df, length: 512 },
    ],
    [
      'FAST_ZERO with NO_HOLE',
      errno.ENOTSUP,
      {
        type: command.writeZeroes,
        flags: commandFlag.fastZero | commandFlag.noHole,
        length: 512,
      },
    ],
    [
      'NO_HOLE on a write',
      errno.EINVAL,
      { type: command.write, flags: commandFlag.noHole, payload },
    ],
    ['flush of a range', errno.EINVAL, { type: command.flush, length: 512 }],
    [
      '33 MiB of write',
      errno.EINVAL,
      { type: command.write, payload: Buffer.alloc(33 * mebibyte) },
    ],
  ];
  let cookie = 10;
  for (const [name, expected, request] of cases) {
    cookie += 1;
    client.request({ ...request, cookie });
    t.equal(await client.simple(cookie), expected, name);
  }
  t.equal(device.calls.write + device.calls.read + device.calls.writeZeroes, 0);
  client.request({ type: command.write, payload });
  client.request({ type: command.read, length: 512, cookie: 2 });
  t.equal(await client.simple(), 0);
  t.equal(await client.simple(2), 0);
  t.ok((await client.take(512)).equals(payload), 'the stream is still in step');
  const counted = [...server.stats.errors.values()].reduce((sum, count) => sum + count);
  t.equal(counted, cases.length);
});

t.test('requests for nothing, and FUA on everything', async (t) => {
  const { port, device } = await startServer(t);
  const client = rawClient(t, port);
  await client.go('db');
  for (const type of [
    command.read,
    command.write,
    command.trim,
    command.writeZeroes,
    command.cache,
  ]) {
    client.request({ type, length: 0, flags: commandFlag.fua });
    t.equal(await client.simple(), 0, `command ${type}`);
  }
  t.equal(device.calls.write + device.calls.trim + device.calls.writeZeroes, 0);
  const fua = { flags: commandFlag.fua };
  client.request({ type: command.write, ...fua, payload: Buffer.alloc(7, 7), cookie: 1 });
  client.request({ type: command.trim, ...fua, length: 4096, offset: 8192, cookie: 2 });
  client.request({ type: command.writeZeroes, ...fua, length: 512, offset: 8192, cookie: 3 });
  client.request({ type: command.flush, ...fua, cookie: 4 });
  client.request({ type: command.cache, ...fua, length: mebibyte, cookie: 5 });
  for (const cookie of [1, 2, 3, 4, 5]) t.equal(await client.simple(cookie), 0);
  t.equal(device.fuaCalls, 4);
  client.request({ type: command.read, ...fua, length: 7 });
  t.equal(await client.simple(), 0);
  t.equal((await client.take(7)).toString('hex'), '07'.repeat(7));
});

t.test('structured replies', async (t) => {
  const { port, device } = await startServer(t);
  const client = rawClient(t, port);
  await client.go('db', { structured: true, context: true });
  client.request({ type: command.write, offset: 100, payload: Buffer.from('hello') });
  t.equal(await client.simple(), 0);
  client.request({ type: command.read, flags: commandFlag.df, offset: 100, length: 5 });
  let chunk = await client.chunk();
  t.strictSame([chunk.flags, chunk.type], [1, 1]);
  t.equal(chunk.body.toString('hex'), '0000000000000064' + Buffer.from('hello').toString('hex'));
  client.request({ type: command.read, length: 0 });
  chunk = await client.chunk();
  t.strictSame(chunk, { flags: 1, type: 0, body: Buffer.alloc(0) });
  client.request({ type: command.read, offset: mebibyte, length: 1 });
  chunk = await client.chunk();
  t.strictSame([chunk.flags, chunk.type, chunk.body.readUInt32BE(0)], [1, 0x8001, errno.EINVAL]);
  client.request({ type: command.blockStatus, length: mebibyte });
  chunk = await client.chunk();
  t.strictSame([chunk.flags, chunk.type], [1, 5]);
  t.equal(
    chunk.body.toString('hex'),
    '00000001' + '00010000' + '00000000' + '000f0000' + '00000003',
  );
  client.request({
    type: command.blockStatus,
    flags: commandFlag.reqOne,
    offset: 10,
    length: mebibyte - 10,
  });
  chunk = await client.chunk();
  t.equal(chunk.body.toString('hex'), '00000001' + '0000fff6' + '00000000');
  client.request({ type: command.blockStatus, length: 0 });
  t.equal((await client.chunk()).type, 0x8001);
  device.behaviour.fail = (operation) =>
    operation === 'flush' ? null : new StorError('CHECKSUM_MISMATCH', 'block 3 is bad');
  client.request({ type: command.read, length: 512 });
  chunk = await client.chunk();
  t.equal(chunk.body.readUInt32BE(0), errno.EIO);
  t.equal(chunk.body.subarray(6).toString(), 'block 3 is bad');
  client.request({ type: command.blockStatus, length: 512 });
  t.equal((await client.chunk()).body.readUInt32BE(0), errno.EIO);
  client.request({ type: command.flush });
  t.equal(await client.simple(), 0);
});

t.test("the device's errors", async (t) => {
  const { port, device, server } = await startServer(t);
  const client = rawClient(t, port);
  await client.go('db');
  const codes = {
    NO_SPACE: errno.ENOSPC,
    DISK_FAILED: errno.EIO,
  } as const;
  for (const [code, expected] of Object.entries(codes)) {
    device.behaviour.fail = () => new StorError(code as keyof typeof codes, 'no');
    client.request({ type: command.write, payload: Buffer.alloc(4096) });
    t.equal(await client.simple(), expected);
    client.request({ type: command.read, length: 100_000 });
    t.equal(await client.simple(), expected);
  }
  const stats = server.stats.exports.get('v-db')!;
  t.strictSame([stats.write.ops, stats.write.errors, stats.write.bytes], [2, 2, 0]);
  t.equal(server.stats.errors.get('EIO'), 2);
});

t.test(
  'what another connection may cure ends this one, unless its client says who it is',
  async (t) => {
    const { port, device, server, exports } = await startServer(t);
    const finish: (() => void)[] = [];
    device.behaviour.knowsHoles = false;
    for (const structured of [false, true]) {
      for (const type of [command.write, command.read, command.flush, command.blockStatus]) {
        if (type === command.blockStatus && !structured) continue;
        const client = rawClient(t, port);
        await client.go('db', { structured, context: structured });
        device.behaviour.delay = (_operation, done) => finish.push(done);
        client.request({ type: command.flush, cookie: 1 });
        await until(() => finish.length === 1);
        device.behaviour.delay = null;
        let failed = 0;
        device.behaviour.fail = () => {
          failed += 1;
          return new StorError('STALE_EPOCH', 'fenced');
        };
        const payload = Buffer.alloc(type === command.write ? 100_000 : 0);
        client.request({ type, length: type === command.flush ? 0 : 100_000, payload, cookie: 2 });
        client.request({ type: command.flush, cookie: 3 });
        await until(() => failed > 0);
        device.behaviour.fail = null;
        finish.pop()?.();
        t.equal(await client.simple(1), 0, 'what was started before is answered');
        t.equal((await client.rest()).length, 0, `${structured}, ${type}: and nothing else`);
      }
    }
    const named = rawClient(t, port);
    await named.greet();
    await named.option(optionType.structuredReply);
    const queries = [formatClientContext({ id: 'c', sequence: [1] })];
    await named.option(optionType.setMetaContext, encodeMetaContextBody({ name: 'db', queries }));
    await named.option(optionType.go, encodeGoBody({ name: 'db', infos: [] }));
    device.behaviour.fail = () => new StorError('STALE_EPOCH', 'fenced');
    named.request({ type: command.flush });
    t.equal(await named.simple(), errno.ESHUTDOWN);
    named.socket.destroy();
    await until(() => server.connectionCount === 0);
    t.equal(exports.released, exports.opened);
  },
);

t.test('bytes out of step and absurd lengths end the connection, after the answers', async (t) => {
  const { port, device, exports } = await startServer(t);
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.go('db');
  client.request({ type: command.flush });
  client.send(Buffer.alloc(28, 3), encodeRequest({ type: command.flush, cookie: 2 }));
  await until(() => finish.length === 1);
  finish[0]!();
  t.equal((await client.rest()).length, 16, 'what came before is answered, what came after is not');
  await until(() => exports.released === 1);

  const large = rawClient(t, port);
  await large.go('db');
  large.request({ type: command.write, length: 0xffffffff });
  t.equal(await large.simple(), errno.EINVAL);
  await large.rest();
  t.equal(device.calls.flush, 1);
});

t.test('DISC: what was started is answered, then the connection ends', async (t) => {
  const { port, device, exports } = await startServer(t);
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.go('db');
  client.send(
    encodeRequest({ type: command.write, payload: Buffer.alloc(4096, 1), cookie: 1 }),
    encodeRequest({ type: command.flush, cookie: 2 }),
    encodeRequest({ type: command.disconnect }),
    encodeRequest({ type: command.flush, cookie: 3 }),
  );
  await until(() => finish.length === 2);
  t.equal(exports.released, 0);
  finish[1]!();
  t.equal(await client.simple(2), 0);
  finish[0]!();
  t.equal(await client.simple(1), 0);
  t.equal((await client.rest()).length, 0);
  await until(() => exports.released === 1);
  t.equal(device.calls.flush, 1);
});

t.test('a client that vanishes: started requests are drained before the lease goes', async (t) => {
  const { port, device, exports, server } = await startServer(t);
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.go('db', { structured: true, context: true });
  client.send(
    encodeRequest({ type: command.write, payload: Buffer.alloc(4096, 1) }),
    encodeRequest({ type: command.read, length: 200_000 }),
    encodeRequest({ type: command.blockStatus, length: 200_000 }),
    // half a write: never started
    encodeRequest({ type: command.write, length: 4096, offset: 8192 }),
    Buffer.alloc(100, 9),
  );
  await until(() => finish.length === 3);
  client.socket.resetAndDestroy();
  const stats = server.stats.exports.get('v-db')!;
  await until(() => stats.connections === 0);
  t.equal(exports.released, 0);
  finish[0]!();
  finish[2]!();
  t.equal(exports.released, 0);
  finish[1]!();
  await until(() => exports.released === 1);
  await until(() => server.connectionCount === 0);
  t.equal(exports.releasedTooEarly, 0);
  t.equal(stats.inFlight, 0);
  t.equal(device.calls.write, 1);
});

t.test('the bound of requests in flight holds, and all are answered in the end', async (t) => {
  const { port, device } = await startServer(t, { limits: { inFlightRequests: 4 } });
  const finish: (() => void)[] = [];
  let most = 0;
  device.behaviour.delay = (_operation, done) => {
    finish.push(done);
    most = Math.max(most, device.pending);
  };
  const client = rawClient(t, port);
  await client.go('db');
  const requests = Array.from({ length: 100 }, (_, cookie) =>
    encodeRequest({
      type: command.write,
      payload: Buffer.alloc(512, cookie),
      offset: cookie * 512,
      cookie,
    }),
  );
  client.send(...requests);
  for (let answered = 0; answered < 100; answered++) {
    await until(() => finish.length > 0);
    finish.shift()!();
    t.equal(await client.simple(answered), 0);
  }
  t.equal(most, 4);
  const target = Buffer.alloc(51_200);
  device.behaviour.delay = null;
  device.readInline(0, target.length, target, 0);
  t.ok(target.every((byte, i) => byte === Math.floor(i / 512)));
});

t.test('the bound of bytes in flight lets one request in, however large', async (t) => {
  const { port, device } = await startServer(t, { limits: { inFlightBytes: 4096 } });
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.go('db');
  const payload = Buffer.alloc(100_000);
  client.send(
    encodeRequest({ type: command.write, payload, cookie: 1 }),
    encodeRequest({ type: command.write, payload, cookie: 2 }),
  );
  await until(() => finish.length === 1);
  finish[0]!();
  t.equal(await client.simple(1), 0);
  await until(() => finish.length === 2);
  finish[1]!();
  t.equal(await client.simple(2), 0);
});

t.test('a client that never reads is not read from, and leaves nothing behind', async (t) => {
  for (const isInline of [true, false]) {
    const limits = { outputBytes: mebibyte };
    const { port, device, exports } = await startServer(t, { limits });
    device.behaviour.readInline = isInline;
    const client = rawClient(t, port);
    await client.go('db');
    client.socket.pause();
    const request = encodeRequest({ type: command.read, length: 65_536 });
    const requests = Buffer.concat(new Array<Buffer>(2_000).fill(request));
    client.socket.write(requests);
    const calls = (): number => device.calls.readInline + device.calls.read;
    // the kernel's own buffers take some; then nothing more is read
    let stable = 0;
    for (let last = -1; stable < 50;) {
      stable = calls() === last ? stable + 1 : 0;
      last = calls();
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    t.ok(calls() < 1_000, `${calls()} of 2000 reads were started`);
    if (isInline) {
      client.socket.resume();
      for (let i = 0; i < 2_000; i++) {
        t.equal(await client.simple(), 0);
        await client.take(65_536);
      }
    } else {
      client.socket.destroy();
    }
    client.socket.destroy();
    await until(() => exports.released === 1);
  }
});

t.test('a revoked volume: what was started is answered, nothing more is', async (t) => {
  const { port, device, exports } = await startServer(t);
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.go('db');
  client.request({ type: command.flush });
  await until(() => finish.length === 1);
  for (const revoke of exports.revokers) revoke();
  client.request({ type: command.flush, cookie: 2 });
  t.equal(exports.released, 0);
  finish[0]!();
  t.equal(await client.simple(1), 0);
  t.equal((await client.rest()).length, 0);
  t.equal(exports.released, 1);
  t.equal(device.calls.flush, 1);

  const idle = rawClient(t, port);
  await idle.go('db');
  for (const revoke of exports.revokers) revoke();
  t.equal((await idle.rest()).length, 0);
  await until(() => exports.released === 2);
});

t.test('closing the server answers what was started, and works twice', async (t) => {
  const { port, device, exports, server } = await startServer(t);
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.go('db');
  client.request({ type: command.write, payload: Buffer.alloc(512) });
  const shaking = rawClient(t, port);
  await shaking.greet();
  await until(() => finish.length === 1);
  const closing = server.close();
  const late = rawClient(t, port);
  await late.rest();
  await shaking.rest();
  finish[0]!();
  t.equal(await client.simple(), 0);
  await client.rest();
  await closing;
  await server.close();
  t.strictSame([exports.opened, exports.released], [1, 1]);
  await t.rejects(connectSocket({ host: '127.0.0.1', port }), { code: 'ECONNREFUSED' });
});

t.test('closing does not wait for ever for a device that does not answer', async (t) => {
  const { port, device, exports, server } = await startServer(t, { limits: { closeDrainMs: 20 } });
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.go('db');
  client.request({ type: command.flush });
  await until(() => finish.length === 1);
  await server.close();
  await client.rest();
  t.equal(exports.released, 0);
  finish[0]!();
  await until(() => exports.released === 1);
});

t.test('handshake over a socket', async (t) => {
  const { port, exports } = await startServer(t);
  exports.add('other', 4096);
  t.strictSame(await NbdClient.list({ host: '127.0.0.1', port }), ['db', 'other']);

  await t.test('refusals carry the reason, and the handshake goes on', async (t) => {
    const client = rawClient(t, port);
    await client.greet();
    const go = (name: string): Promise<{ type: number; data: Buffer }[]> =>
      client.option(optionType.go, encodeGoBody({ name, infos: [] }));
    const [unknown] = await go('nope');
    t.equal(unknown!.type, optionReplyType.errUnknown);
    t.match(unknown!.data.toString(), 'no volume "nope"');
    exports.openError = new StorError('ATTACHED_ELSEWHERE', 'db is attached to node n2');
    const [held] = await go('db');
    t.equal(held!.type, optionReplyType.errPolicy);
    t.equal(held!.data.toString(), 'db is attached to node n2');
    exports.openError = new StorError('UNAVAILABLE', 'no quorum');
    t.equal((await go('db'))[0]!.type, optionReplyType.errShutdown);
    exports.openError = null;
    t.equal((await go('db')).at(-1)!.type, optionReplyType.ack);
    client.request({ type: command.flush });
    t.equal(await client.simple(), 0);
  });

  await t.test('EXPORT_NAME', async (t) => {
    const client = rawClient(t, port);
    await client.greet(1);
    client.send(encodeOption(optionType.exportName, Buffer.from('db')));
    const reply = await client.take(134);
    t.equal(reply.readBigUInt64BE(0), BigInt(mebibyte));
    client.request({ type: command.flush });
    t.equal(await client.simple(), 0);
    const unknown = rawClient(t, port);
    await unknown.greet();
    unknown.send(encodeOption(optionType.exportName, Buffer.from('nope')));
    t.equal((await unknown.rest()).length, 0);
  });

  await t.test('all at once: options, GO and a request in one piece', async (t) => {
    const client = rawClient(t, port);
    client.send(
      encodeClientFlags(3),
      encodeOption(optionType.list),
      encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [] })),
      encodeRequest({ type: command.read, length: 512 }),
    );
    await client.take(18);
    for (const expected of [2, 2, 1, 3, 1]) t.equal((await client.takeReply()).type, expected);
    t.equal(await client.simple(), 0);
    await client.take(512);
  });

  await t.test('byte by byte', async (t) => {
    const client = rawClient(t, port);
    client.socket.setNoDelay(true);
    const bytes = Buffer.concat([
      encodeClientFlags(3),
      encodeOption(optionType.structuredReply),
      encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [] })),
      encodeRequest({ type: command.write, payload: Buffer.from('slow'), offset: 3 }),
      encodeRequest({ type: command.disconnect }),
    ]);
    for (const byte of bytes) {
      client.send(Buffer.from([byte]));
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    const got = await client.rest();
    t.equal(got.length, 18 + 20 + (20 + 12) + 20 + 16);
    t.equal(got.readUInt32BE(got.length - 12), 0);
  });

  await t.test('ABORT', async (t) => {
    const client = rawClient(t, port);
    await client.greet();
    t.strictSame(await client.option(optionType.abort), [{ type: 1, data: Buffer.alloc(0) }]);
    t.equal((await client.rest()).length, 0);
  });

  await t.test('a client that leaves while its volume is being opened', async (t) => {
    let open: () => void = () => {};
    exports.openGate = new Promise((resolve) => (open = resolve));
    const before = exports.opened;
    const client = rawClient(t, port);
    await client.greet();
    client.send(encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [] })));
    client.socket.end();
    await new Promise<void>((resolve) => setImmediate(resolve));
    open();
    exports.openGate = null;
    await until(() => exports.opened === before + 1 && exports.released === exports.opened);
    t.pass('released');
  });
});

t.test('a handshake has its time, and waiting for the volume does not count', async (t) => {
  const clock = new FakeClock();
  const { port, exports, server } = await startServer(t, { clock, limits: { handshakeMs: 1_000 } });
  let open: () => void = () => {};
  exports.openGate = new Promise((resolve) => (open = resolve));
  const waiting = rawClient(t, port);
  await waiting.greet();
  waiting.send(encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [] })));
  const idle = rawClient(t, port);
  await idle.take(18);
  await until(() => server.connectionCount === 2);
  clock.advance(999);
  t.equal(server.connectionCount, 2);
  // both have time left, unless the volume is being opened already
  const opening = until(() => exports.opened === 1);
  clock.advance(1);
  await idle.rest();
  open();
  await opening.catch(() => {});
  await waiting.takeReply();
  t.equal((await waiting.takeReply()).type, 1);
  clock.advance(100_000);
  t.equal(server.connectionCount, 1, 'a client that came through is not timed out');
  waiting.socket.destroy();
  await until(() => exports.released === 1);
});

t.test('too many connections', async (t) => {
  const { port, server } = await startServer(t, { limits: { connections: 2 } });
  const clients = [rawClient(t, port), rawClient(t, port)];
  for (const client of clients) await client.take(18);
  t.equal((await rawClient(t, port).rest()).length, 0);
  t.equal(server.stats.refused.get('connections'), 1);
  clients[0]!.socket.destroy();
  await until(() => server.connectionCount === 1);
  await rawClient(t, port).take(18);
});

t.test('listening: UNIX socket, a port in use, the socket file of a dead process', async (t) => {
  // not t.testdir(): its paths are too long for a socket
  const dir = mkdtempSync(join(tmpdir(), 'stor-nbd-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 'nbd.sock');
  const { port } = await startServer(t, { path });
  const client = await NbdClient.connect({ path, exportName: 'db' });
  t.equal(client.sizeBytes, mebibyte);
  await client.disconnect();
  const common = { exports: new TestExports(), clock: systemClock, logger: silentLogger };
  const taken = { host: '127.0.0.1', port };
  await t.rejects(NbdServer.listen({ ...common, targets: [{ path: path + '2' }, taken] }), {
    code: 'EADDRINUSE',
  });
  await t.rejects(connectSocket({ path: path + '2' }), { code: 'ENOENT' });
  await t.rejects(NbdServer.listen({ ...common, targets: [{ path }] }), { code: 'EADDRINUSE' });

  await t.rejects(NbdServer.listen({ ...common, targets: [{ path: path.padEnd(108, 'x') }] }), {
    code: 'INVALID_ARGUMENT',
  });

  const stale = path + '3';
  const script = `require('net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`;
  const child = spawn(process.execPath, ['-e', script], { env: {} });
  await new Promise((resolve) => child.once('exit', resolve));
  t.ok(existsSync(stale));
  const server = await NbdServer.listen({
    ...common,
    targets: [{ path: stale }],
    stats: new NbdStats(),
  });
  (await connectSocket({ path: stale })).destroy();
  await server.close();
});

t.test('whatever bytes come, the server lives and every lease comes back', async (t) => {
  const limits = { handshakeMs: 5_000, inFlightRequests: 8 };
  const { port, exports, device, server } = await startServer(t, { limits });
  const request = fc
    .record({
      type: fc.integer({ min: 0, max: 9 }),
      flags: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff })),
      offset: fc.oneof(fc.nat(mebibyte), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })),
      length: fc.oneof(fc.nat(70_000), fc.nat(0xffffffff)),
      payload: fc.nat(5_000),
    })
    .map(({ payload, ...fields }) =>
      Buffer.concat([encodeRequest(fields), Buffer.alloc(payload, 0x25)]),
    );
  const option = fc
    .record({ option: fc.integer({ min: 0, max: 12 }), data: fc.uint8Array({ maxLength: 40 }) })
    .map(({ option, data }) => encodeOption(option, data));
  const noise = fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes));
  const go = fc.constant(encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [3] })));
  const conversation = fc.record({
    startsWell: fc.boolean(),
    before: fc.array(fc.oneof({ arbitrary: option, weight: 4 }, noise), { maxLength: 4 }),
    go,
    after: fc.array(fc.oneof({ arbitrary: request, weight: 8 }, noise), { maxLength: 12 }),
    flip: fc.option(fc.record({ at: fc.nat(), bit: fc.integer({ min: 0, max: 7 }) })),
    isSlow: fc.boolean(),
    reset: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(conversation, async (talk) => {
      device.behaviour.delay = talk.isSlow ? (_operation, finish) => setImmediate(finish) : null;
      const bytes = Buffer.concat([
        ...(talk.startsWell ? [encodeClientFlags(3)] : []),
        ...talk.before,
        talk.go,
        ...talk.after,
      ]);
      if (talk.flip && bytes.length > 0) bytes[talk.flip.at % bytes.length]! ^= 1 << talk.flip.bit;
      const client = new RawClient({ host: '127.0.0.1', port });
      await client.take(18);
      client.send(bytes);
      if (talk.reset) client.socket.resetAndDestroy();
      else client.socket.end();
      await until(() => server.connectionCount === 0);
      client.socket.destroy();
      return exports.opened === exports.released && device.pending === 0;
    }),
    { numRuns: 250 },
  );
  t.equal(exports.releasedTooEarly, 0);
  t.ok(exports.opened > 10, `${exports.opened} of them got as far as the volume`);
  const stats = server.stats.exports.get('v-db')!;
  t.strictSame([stats.connections, stats.inFlight], [0, 0]);
  const client = await NbdClient.connect({ host: '127.0.0.1', port, exportName: 'db' });
  await client.flush();
  await client.disconnect();
});
