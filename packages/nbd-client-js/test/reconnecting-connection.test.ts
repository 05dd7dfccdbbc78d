import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ReconnectingNbdClient } from '../src/index.ts';
import type { ReconnectingOptions } from '../src/index.ts';
import { defaultFlags, startServers } from './support/fake-nbd-server.ts';
import type { FakeDisk, FakeNbdServer } from './support/fake-nbd-server.ts';
import { PacedClock } from './support/paced-clock.ts';

type Options = Partial<ReconnectingOptions>;

function connect(servers: FakeNbdServer[], options: Options = {}): Promise<ReconnectingNbdClient> {
  return ReconnectingNbdClient.connect({
    addresses: servers.map(({ port }) => `nbd://127.0.0.1:${port}/db`),
    backoffMinMs: 1,
    backoffMaxMs: 5,
    clock: new PacedClock(),
    ...options,
  });
}

async function connected(
  t: Test,
  count: number,
  options: Options = {},
): Promise<{ client: ReconnectingNbdClient; servers: FakeNbdServer[]; disk: FakeDisk }> {
  const { servers, disk } = await startServers(t, count);
  const client = await connect(servers, options);
  t.teardown(() => client.close());
  return { client, servers, disk };
}

const block = Buffer.alloc(512, 1);

t.test('the first that grants the export is taken', async (t) => {
  const { servers } = await startServers(t, 4);
  const [a, b, c, d] = servers as [FakeNbdServer, FakeNbdServer, FakeNbdServer, FakeNbdServer];
  a.meeting = 'policy';
  b.meeting = 'silent';
  c.meeting = 'unknown';
  const client = await connect(servers, { greetingTimeoutMs: 50 });
  t.equal(client.address, `127.0.0.1:${d.port}`);
  t.strictSame([client.exportName, client.sizeBytes], ['db', 1 << 20]);
  await client.disconnect();
  await client.disconnect();
  await client.close();
  t.equal(client.address, null);
});

t.test('connecting ends at once when every server says no, with what each said', async (t) => {
  const { servers } = await startServers(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.meeting = 'policy';
  b.meeting = 'unknown';
  await t.rejects(connect(servers), {
    code: 'REFUSED',
    message: new RegExp(`${a.port}:.*policy says ${a.port}.*; .*unknown says ${b.port}`),
  });
  t.strictSame([a.accepted, b.accepted], [1, 1]);
});

t.test('a server that died a moment ago is no reason to fail', async (t) => {
  const { servers } = await startServers(t, 2);
  const [dead, other] = servers as [FakeNbdServer, FakeNbdServer];
  await dead.close();
  let asked = 0;
  other.meeting = () => (++asked <= 6 ? 'policy' : 'grant');
  const client = await connect(servers);
  t.equal(client.address, `127.0.0.1:${other.port}`);
  await client.close();
  await other.close();
  await t.rejects(connect(servers, { firstGiveUpMs: 20 }), {
    code: 'DISCONNECTED',
    message: new RegExp(`gave up after 20 ms.*${dead.port}.*ECONNREFUSED.*${other.port}`),
  });
});

t.test('refused by one server, another is tried, until one grants', async (t) => {
  const { client, servers, disk } = await connected(t, 3);
  const [a, b, c] = servers as [FakeNbdServer, FakeNbdServer, FakeNbdServer];
  let asked = 0;
  b.meeting = 'policy';
  c.meeting = () => (++asked <= 8 ? 'policy' : 'grant');
  a.onRequest = () => void a.close();
  await client.write(0, block);
  t.equal(client.address, `127.0.0.1:${c.port}`);
  t.equal(disk.bytes[0], 1);
  t.ok(b.accepted > 1, 'in rounds');
});

t.test('the server that has the export is asked first when it comes back', async (t) => {
  const { client, servers } = await connected(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.onRequest = (request) => {
    a.onRequest = (next) => a.answer(next);
    request.connection.socket.destroy();
  };
  await client.write(0, block);
  t.strictSame([a.granted, b.accepted], [2, 0]);
});

t.test('an export that is not the same any more ends everything', async (t) => {
  for (const [change, message] of [
    [(s: FakeNbdServer) => (s.sizeBytes /= 2), /size changed from 1048576 to 524288 bytes/],
    [(s: FakeNbdServer) => (s.flags |= 2), /flags changed from 0x1ed .* to 0x1ef .*readOnly/],
  ] as const) {
    const { client, servers } = await connected(t, 1);
    const [server] = servers as [FakeNbdServer];
    change(server);
    server.drop();
    const expected = { code: 'PROTOCOL', message };
    await t.rejects(client.write(0, block), expected);
    await t.rejects(client.flush(), expected);
    t.equal(server.requests.length, 0);
    await client.disconnect();
  }
});

t.test(
  'an export that has grown is the same, and keeps the size that it was opened with',
  async (t) => {
    const { client, servers } = await connected(t, 1);
    const [server] = servers as [FakeNbdServer];
    const { sizeBytes } = client;
    server.sizeBytes *= 2;
    server.drop();
    await client.write(0, block);
    t.equal(client.sizeBytes, sizeBytes);
    await t.rejects(client.write(sizeBytes, block), { code: 'INVALID_ARGUMENT' });
  },
);

t.test('an export that nobody knows any more ends everything', async (t) => {
  const { client, servers } = await connected(t, 2);
  for (const server of servers) {
    server.meeting = 'unknown';
    server.drop();
  }
  await t.rejects(client.write(0, block), {
    code: 'REFUSED',
    message: /unknown says.*unknown says/,
  });
});

t.test('a server that breaks the protocol is not trusted with a second try', async (t) => {
  const { client, servers } = await connected(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.onRequest = (request) => request.connection.socket.write(Buffer.alloc(64, 0x5a));
  await t.rejects(client.write(0, block), { code: 'PROTOCOL' });
  await t.rejects(client.write(0, block), { code: 'PROTOCOL' });
  t.equal(b.accepted, 0);
});

t.test('gives up after the time given, however servers flap', async (t) => {
  for (const flap of [false, true]) {
    const { client, servers } = await connected(t, 2, { giveUpMs: 60 });
    for (const server of servers) {
      if (flap) server.onRequest = (request) => server.fail(request, 108);
      else await server.close();
    }
    const writes = [client.write(0, block), client.write(0, block), client.flush()];
    for (const write of await Promise.allSettled(writes)) {
      t.match(write, { status: 'rejected', reason: { code: 'DISCONNECTED', message: /60 ms/ } });
    }
    await t.rejects(client.flush(), { code: 'DISCONNECTED' });
  }
});

t.test('when nobody waits any more, nothing has failed', async (t) => {
  const { client, servers, disk } = await connected(t, 1, { giveUpMs: 60 });
  const [server] = servers as [FakeNbdServer];
  await server.close();
  const abort = new AbortController();
  const write = client.write(0, block, { signal: abort.signal });
  await new Promise((resolve) => setImmediate(resolve));
  abort.abort();
  await t.rejects(write, { code: 'ABORTED' });
  await server.listen();
  await client.write(512, block);
  t.equal(disk.bytes[512], 1);
});

t.test('a server that is gone without a word is left', async (t) => {
  const { client, servers, disk } = await connected(t, 2, { silenceMs: 20, greetingTimeoutMs: 40 });
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.onRequest = () => {
    a.meeting = 'silent';
  };
  await client.write(0, block);
  t.equal(b.requests.length, 1);
  t.equal(disk.bytes[0], 1);
});

t.test('silence is noticed when it has lasted, not at the end of the next round', async (t) => {
  let looks = 0;
  let looksAtProbe = 0;
  class CountingClock extends PacedClock {
    override after(ms: number, run: () => void): () => void {
      if (ms === 10) looks += 1;
      return super.after(ms, run);
    }
  }
  const clock = new CountingClock();
  const limits = { silenceMs: 40, greetingTimeoutMs: 40, clock };
  const { client, servers } = await connected(t, 2, limits);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.onRequest = () => {
    a.meeting = () => {
      looksAtProbe = looks;
      return 'silent';
    };
  };
  await client.write(0, block);
  t.equal(b.requests.length, 1);
  t.equal(looksAtProbe, 4, 'looks of a quarter of the time each');
});

t.test('a silent server is left out of the next rounds, but not for ever', async (t) => {
  const options = { silenceMs: 10, greetingTimeoutMs: 30, avoidSilentMs: 1e9 };
  const { client, servers } = await connected(t, 2, options);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  let asked = 0;
  b.meeting = () => (++asked <= 12 ? 'policy' : 'grant');
  a.onRequest = () => {
    a.meeting = 'silent';
  };
  await client.write(0, block);
  t.equal(a.accepted, 2, 'the connection and the probe');
  const later = await connected(t, 2, { ...options, avoidSilentMs: 1 });
  const [c, d] = later.servers as [FakeNbdServer, FakeNbdServer];
  d.meeting = 'policy';
  c.onRequest = (request) => {
    c.onRequest = (next) => c.answer(next);
    c.meeting = () => (c.accepted < 4 ? 'silent' : 'grant');
    t.equal(request.type, 1);
  };
  await later.client.write(0, block);
  t.equal(c.granted, 2);
});

t.test('a server that is only slow is not left', async (t) => {
  const { client, servers } = await connected(t, 2, { silenceMs: 10, greetingTimeoutMs: 10_000 });
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.onRequest = () => {};
  const write = client.write(0, block);
  const request = await a.request(0);
  await a.until(() => a.accepted >= 4);
  a.answer(request);
  await write;
  t.strictSame([a.granted, b.accepted], [1, 0]);
});

t.test('a grant that does not come is given up, and another server asked', async (t) => {
  const { client, servers } = await connected(t, 2, { grantTimeoutMs: 50 });
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  a.meeting = 'no-grant';
  a.drop();
  await client.write(0, block);
  t.equal(b.requests.length, 1);
});

t.test('close while reconnecting, and twice', async (t) => {
  for (const meeting of ['no-grant', 'silent', 'shutdown'] as const) {
    const { client, servers } = await connected(t, 1, {
      backoffMinMs: 10_000,
      backoffMaxMs: 10_000,
    });
    const [server] = servers as [FakeNbdServer];
    server.meeting = meeting;
    server.drop();
    const write = client.write(0, block);
    const checked = t.rejects(write, { code: 'DISCONNECTED', message: /closed here/ });
    await server.until(() => server.accepted >= 2);
    await Promise.all([client.close(), client.close()]);
    await checked;
    await client.close();
    await client.disconnect();
    await t.rejects(client.flush(), { code: 'DISCONNECTED' });
    await server.until(() => server.connections.size === 0);
  }
});

t.test('disconnect waits for what is not answered, through a reconnect', async (t) => {
  const { client, servers, disk } = await connected(t, 1);
  const [server] = servers as [FakeNbdServer];
  server.meeting = 'shutdown';
  server.drop();
  const write = client.write(0, block);
  const gone = client.disconnect();
  await t.rejects(client.flush(), { code: 'DISCONNECTED', message: /being closed/ });
  await server.until(() => server.accepted >= 3);
  server.meeting = 'grant';
  await Promise.all([write, gone, client.disconnect()]);
  t.equal(disk.bytes[0], 1);
});

t.test('close ends a disconnect that waits', async (t) => {
  const { client, servers } = await connected(t, 1);
  const [server] = servers as [FakeNbdServer];
  await server.close();
  const checked = t.rejects(client.write(0, block), { code: 'DISCONNECTED' });
  const gone = client.disconnect();
  await client.close();
  await Promise.all([gone, checked]);
});

t.test('an idle client does not connect again before it must', async (t) => {
  const { client, servers } = await connected(t, 1);
  const [server] = servers as [FakeNbdServer];
  server.drop();
  await server.until(() => server.connections.size === 0);
  await client.disconnect();
  t.equal(server.accepted, 1);
});

t.test('FLUSH must cover earlier connections', async (t) => {
  const { servers } = await startServers(t, 1);
  const [server] = servers as [FakeNbdServer];
  server.flags = defaultFlags & ~0x100;
  await t.rejects(connect(servers), { code: 'INVALID_ARGUMENT', message: /CAN_MULTI_CONN/ });
  await (await connect(servers, { assumeSharedFlush: true })).close();
  server.flags |= 2;
  await (await connect(servers)).close();
});

t.test('arguments are checked before anything is done', async (t) => {
  const bad = (options: object): Promise<unknown> =>
    t.rejects(ReconnectingNbdClient.connect({ addresses: [], ...options }), {
      code: 'INVALID_ARGUMENT',
    });
  await bad({});
  await bad({ addresses: ['nbd://h/a', 'nbd://h/b'] });
  await bad({ addresses: ['http://h/a'] });
  await bad({ addresses: Array(257).fill('nbd://h/a') });
  await bad({ addresses: ['nbd://h/a'], giveUpMs: 0 });
  await bad({ addresses: ['nbd://h/a'], maxInFlight: 1.5 });
});

t.test('connecting can be aborted, in a try and between tries', async (t) => {
  const { servers } = await startServers(t, 1);
  const [server] = servers as [FakeNbdServer];
  for (const meeting of ['no-grant', 'shutdown'] as const) {
    server.meeting = meeting;
    const abort = new AbortController();
    const before = server.accepted;
    const connecting = connect(servers, {
      signal: abort.signal,
      backoffMinMs: 5_000,
      backoffMaxMs: 5_000,
    });
    const checked = t.rejects(connecting, { code: 'ABORTED' });
    await server.until(() => server.accepted > before);
    abort.abort();
    await checked;
  }
  await t.rejects(connect(servers, { signal: AbortSignal.abort() }), { code: 'ABORTED' });
});

t.test('a UNIX socket and a TCP port of one export', async (t) => {
  const { servers, disk } = await startServers(t, 1);
  const [tcp] = servers as [FakeNbdServer];
  // not in t.testdir: the path of a socket has at most 107 bytes
  const folder = mkdtempSync(join(tmpdir(), 'nbd-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 's');
  const relay = net.createServer((socket) => {
    const other = net.connect(tcp.port, '127.0.0.1');
    socket.on('error', () => {}).pipe(other);
    other.on('error', () => {}).pipe(socket);
  });
  await new Promise<void>((resolve) => relay.listen(path, resolve));
  const client = await ReconnectingNbdClient.connect({
    addresses: [{ path }, tcp.address],
    exportName: 'db',
  });
  t.equal(client.address, path);
  relay.close();
  tcp.drop();
  await client.write(0, block);
  t.equal(client.address, `127.0.0.1:${tcp.port}`);
  t.equal(disk.bytes[0], 1);
  await client.close();
});
