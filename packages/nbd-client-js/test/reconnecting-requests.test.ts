import t, { type Test } from 'tap';
import { ReconnectingNbdClient, command, errno } from '../src/index.ts';
import type { ReconnectingOptions } from '../src/index.ts';
import { startServers } from './support/fake-nbd-server.ts';
import type { FakeDisk, FakeNbdServer, FakeRequest } from './support/fake-nbd-server.ts';

async function connected(
  t: Test,
  count: number,
  options: Partial<ReconnectingOptions> = {},
): Promise<{ client: ReconnectingNbdClient; servers: FakeNbdServer[]; disk: FakeDisk }> {
  const { servers, disk } = await startServers(t, count);
  const client = await ReconnectingNbdClient.connect({
    addresses: servers.map((server) => server.address),
    exportName: 'db',
    backoffMinMs: 1,
    backoffMaxMs: 5,
    ...options,
  });
  t.teardown(() => client.close());
  return { client, servers, disk };
}

const offsets = (server: FakeNbdServer): [number, number][] =>
  server.requests.map((request) => [request.type, request.offset]);

t.test('what was applied but not answered is sent again, with the same bytes', async (t) => {
  const { client, servers, disk } = await connected(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.onRequest = (request) => {
    disk.apply(request);
    if (request.type !== command.flush) return;
    a.meeting = 'shutdown';
    a.drop();
  };
  const target = Buffer.alloc(512);
  const all = Promise.all([
    client.write(0, Buffer.alloc(4096, 1)),
    client.writeZeroes(8192, 4096, { fua: true, noHole: true }),
    client.trim(16384, 4096),
    client.read(32768, 512, target),
    client.flush(),
  ]);
  disk.bytes.fill(7, 32768, 33280);
  const [, , , read] = await all;
  t.strictSame(offsets(b), offsets(a), 'all five again, in the order of the calls');
  t.strictSame(offsets(a), [
    [command.write, 0],
    [command.writeZeroes, 8192],
    [command.trim, 16384],
    [command.read, 32768],
    [command.flush, 0],
  ]);
  t.equal(b.requests[1]?.flags, 3, 'with its flags');
  t.ok(b.requests[0]?.payload.equals(Buffer.alloc(4096, 1)));
  t.ok(target.every((byte) => byte === 7));
  t.ok(read.equals(target));
  t.equal(client.address, `127.0.0.1:${b.port}`);
});

t.test('a connection that breaks in the middle of a payload', async (t) => {
  const { client, servers, disk } = await connected(t, 1);
  const [server] = servers as [FakeNbdServer];
  for (const dropAfterBytes of [1, 27, 28, 29, 70_000, 200_000]) {
    server.dropAfterBytes = dropAfterBytes;
    const bytes = Buffer.alloc(100_000, dropAfterBytes & 255);
    await Promise.all([client.write(3, bytes), client.write(200_000, bytes)]);
    t.ok(disk.bytes.subarray(3, 100_003).equals(bytes));
    t.ok(disk.bytes.subarray(200_000, 300_000).equals(bytes));
  }
  t.equal(server.granted, 7);
});

t.test('a request waits for an older one that it overlaps, across connections too', async (t) => {
  const { client, servers, disk } = await connected(t, 1);
  const [server] = servers as [FakeNbdServer];
  server.onRequest = () => {};
  const all = Promise.all([
    client.write(0, Buffer.alloc(1024, 1)),
    client.write(512, Buffer.alloc(1024, 2)),
    client.read(1024, 1024),
    client.read(4096, 512),
    client.read(4096, 512),
    client.writeZeroes(1535, 1),
    client.write(4607, Buffer.alloc(1, 5)),
  ]);
  await server.request(2);
  t.strictSame(offsets(server), [
    [command.write, 0],
    [command.read, 4096],
    [command.read, 4096],
  ]);
  server.onRequest = (request) => {
    const sameTime = server.requests.slice(3).filter((other) => !done.has(other));
    if (sameTime.some((other) => other !== request && conflicts(other, request))) {
      t.fail('two requests that conflict are on the wire');
    }
    setImmediate(() => {
      done.add(request);
      server.answer(request);
    });
  };
  const done = new Set<object>();
  const conflicts = (x: FakeRange, y: FakeRange): boolean =>
    x.offset < y.offset + y.length &&
    y.offset < x.offset + x.length &&
    (x.type !== command.read || y.type !== command.read);
  server.drop();
  const [, , read, first] = await all;
  t.equal(disk.bytes[511], 1);
  t.equal(disk.bytes[512], 2, 'the newer write stands');
  t.equal(disk.bytes[1535], 0);
  t.ok(
    read.subarray(0, 512).every((byte) => byte === 2),
    'the read saw the write before it',
  );
  t.equal(first[511], 0, 'a read before a write does not see it');
  t.equal(disk.bytes[4607], 5);
  t.equal(server.requests.length, 3 + 7);
});

interface FakeRange {
  type: number;
  offset: number;
  length: number;
}

t.test('ESHUTDOWN is no answer: another server gets the request', async (t) => {
  const { client, servers, disk } = await connected(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  const held: unknown[] = [];
  a.onRequest = (request) => {
    if (held.push(request) < 3) return;
    a.meeting = 'policy';
    a.fail(request, errno.ESHUTDOWN);
  };
  await Promise.all([0, 1, 2].map((n) => client.write(n * 512, Buffer.alloc(512, n + 1))));
  t.strictSame([disk.bytes[0], disk.bytes[512], disk.bytes[1024]], [1, 2, 3]);
  t.equal(b.requests.length, 3);
  b.onRequest = (request) => b.fail(request, errno.ENOSPC);
  await t.rejects(client.write(0, Buffer.alloc(512)), { code: 'IO', errnoName: 'ENOSPC' });
  t.equal(b.granted, 1, 'any other error is an answer');
});

t.test('a flush after a reconnect is asked of the new server', async (t) => {
  const { client, servers, disk } = await connected(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  await client.write(0, Buffer.alloc(512, 1));
  a.meeting = 'policy';
  a.drop();
  await a.until(() => a.connections.size === 0);
  await client.flush();
  t.equal(disk.flushes, 1);
  t.strictSame(offsets(b), [[command.flush, 0]]);
});

t.test('no more is on the wire than allowed, and no more waits', async (t) => {
  const { client, servers } = await connected(t, 1, {
    maxInFlight: 2,
    maxUnanswered: 4,
    maxUnansweredBytes: 3000,
  });
  const [server] = servers as [FakeNbdServer];
  server.onRequest = () => {};
  const first = [client.write(0, Buffer.alloc(1024)), client.read(1024, 1024)];
  await t.rejects(client.write(2048, Buffer.alloc(1024)), { code: 'OVERLOADED', message: /bytes/ });
  first.push(client.writeZeroes(2048, 1024), client.flush());
  await t.rejects(client.flush(), { code: 'OVERLOADED', message: /4 requests/ });
  await server.request(1);
  server.meeting = 'shutdown';
  server.drop();
  await server.until(() => server.accepted >= 2);
  await t.rejects(client.flush(), { code: 'OVERLOADED' }, 'nor without a connection');
  const open: FakeRequest[] = [];
  server.onRequest = (request) => {
    t.ok(open.push(request) <= 2);
    setImmediate(() => {
      if (server.requests.length % 2 === 0) for (const r of open.splice(0)) server.answer(r);
    });
  };
  server.meeting = 'grant';
  await Promise.all(first);
  t.equal(server.requests.length, 2 + 4);
});

t.test('one request alone may be larger than what may wait', async (t) => {
  const { client, disk } = await connected(t, 1, { maxUnansweredBytes: 10 });
  await client.write(0, Buffer.alloc(4096, 1));
  t.equal(disk.bytes[4095], 1);
});

t.test('aborts: before sending, while held, after sending, between connections', async (t) => {
  const { client, servers, disk } = await connected(t, 1);
  const [server] = servers as [FakeNbdServer];
  server.onRequest = () => {};
  const abort = (): { controller: AbortController; signal: AbortSignal } => {
    const controller = new AbortController();
    return { controller, signal: controller.signal };
  };
  const sent = abort();
  const held = abort();
  const read = abort();
  const target = Buffer.alloc(512, 9);
  const sentWrite = client.write(0, Buffer.alloc(512, 1), sent);
  const heldWrite = client.write(256, Buffer.alloc(512, 2), held);
  const last = client.write(512, Buffer.alloc(512, 3));
  const behind = client.write(0, Buffer.alloc(100, 4));
  const sentRead = client.read(4096, 512, target, read);
  await server.request(1);
  t.equal(server.requests[1]?.type, command.read);
  held.controller.abort();
  await t.rejects(heldWrite, { code: 'ABORTED' });
  t.equal((await server.request(2)).offset, 512, 'what waited for it goes');
  sent.controller.abort();
  await t.rejects(sentWrite, { code: 'ABORTED' });
  read.controller.abort();
  await t.rejects(sentRead, { code: 'ABORTED' });
  const after = client.write(4096, Buffer.alloc(512, 5));
  await server.request(3);
  t.equal(server.requests.length, 4, 'an aborted write is not overtaken before it is answered');
  server.answer(server.requests[1]!);
  server.answer(server.requests[0]!);
  t.equal((await server.request(4)).length, 100);
  t.ok(
    target.every((byte) => byte === 9),
    'nothing came into an aborted target',
  );

  const lost = abort();
  const lostWrite = client.write(8192, Buffer.alloc(512, 6), lost);
  const lostToo = client.write(16384, Buffer.alloc(512, 7), lost);
  await server.request(6);
  server.meeting = 'shutdown';
  server.drop();
  await server.until(() => server.accepted >= 2);
  lost.controller.abort();
  await t.rejects(lostWrite, { code: 'ABORTED' });
  await t.rejects(lostToo, { code: 'ABORTED' });
  await t.rejects(client.flush(lost), { code: 'ABORTED' }, 'aborted before the call');
  server.onRequest = (request) => server.answer(request);
  server.meeting = 'grant';
  await Promise.all([last, behind, after]);
  t.strictSame([disk.bytes[8192], disk.bytes[16384]], [0, 0], 'neither was sent again');
  t.equal(disk.bytes[256], 1);
});

t.test('an aborted write is not sent again, and frees what waits for it', async (t) => {
  const { client, servers, disk } = await connected(t, 1);
  const [server] = servers as [FakeNbdServer];
  server.onRequest = () => {};
  const controller = new AbortController();
  const write = client.write(0, Buffer.alloc(512, 1), { signal: controller.signal });
  const newer = client.write(0, Buffer.alloc(512, 2));
  await server.request(0);
  controller.abort();
  await t.rejects(write, { code: 'ABORTED' });
  server.onRequest = (request) => server.answer(request);
  server.drop();
  await newer;
  t.equal(disk.bytes[0], 2);
  t.equal(server.requests.length, 2);
});

t.test('requests that cannot be are refused here, as by NbdClient', async (t) => {
  const { client, servers } = await connected(t, 1);
  await t.rejects(client.read(1 << 20, 1), { code: 'INVALID_ARGUMENT' });
  await t.rejects(client.read(0, 2, Buffer.alloc(1)), { code: 'INVALID_ARGUMENT' });
  await t.rejects(client.write(-1, Buffer.alloc(1)), { code: 'INVALID_ARGUMENT' });
  await t.rejects(client.trim(0, 2 ** 32), { code: 'INVALID_ARGUMENT' });
  await t.rejects(client.blockStatus(0, 512), { code: 'INVALID_ARGUMENT', message: /context/ });
  t.strictSame(await client.read(0, 0), Buffer.alloc(0));
  t.equal(servers[0]?.requests.length, 0);
});
