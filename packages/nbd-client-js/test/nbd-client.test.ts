import t, { type Test } from 'tap';
import {
  NbdClient,
  NbdError,
  chunkType,
  encodeExportNameReply,
  encodeGreeting,
  encodeOptionReply,
  encodeServerBody,
  optionReplyType,
  optionType,
  writeU64,
} from '../src/index.ts';
import { ScriptedServer } from './support/scripted-server.ts';

async function start(t: Test): Promise<ScriptedServer> {
  const server = new ScriptedServer();
  await server.listen();
  t.teardown(() => server.close());
  return server;
}

async function connected(
  t: Test,
  options: { structured?: boolean; maxInFlight?: number } = {},
): Promise<{ server: ScriptedServer; client: NbdClient }> {
  const server = await start(t);
  const { structured = true, ...rest } = options;
  const [client] = await Promise.all([
    NbdClient.connect({ host: '127.0.0.1', port: server.port, exportName: 'db', ...rest }),
    server.shake(1 << 20, structured),
  ]);
  t.teardown(() => client.close());
  return { server, client };
}

t.test('reads: split, out of order, with holes; each piece goes where it belongs', async (t) => {
  const { server, client } = await connected(t);
  const read = client.read(4096, 4096);
  const { cookie, type, length } = await server.takeRequest();
  t.strictSame({ type, length }, { type: 0, length: 4096 });
  server.data(cookie, false, 6144, Buffer.alloc(2048, 3));
  const hole = Buffer.alloc(12);
  writeU64(hole, 5120, 0);
  hole.writeUInt32BE(1024, 8);
  server.chunk(cookie, false, chunkType.offsetHole, hole);
  server.data(cookie, true, 4096, Buffer.alloc(1024, 1));
  const expected = Buffer.concat([
    Buffer.alloc(1024, 1),
    Buffer.alloc(1024, 0),
    Buffer.alloc(2048, 3),
  ]);
  t.ok((await read).equals(expected));
});

t.test('requests are pipelined up to the bound, and answered in any order', async (t) => {
  const { server, client } = await connected(t, { maxInFlight: 2, structured: false });
  const target = new Uint8Array(512);
  const first = client.read(0, 512, target);
  const second = client.write(512, Buffer.alloc(512, 9));
  const third = client.flush();
  const one = await server.takeRequest();
  const two = await server.takeRequest();
  t.equal((await server.take(512))[0], 9);
  server.simple(two.cookie, 0);
  await second;
  const three = await server.takeRequest();
  t.equal(three.type, 3, 'the third was held back until there was room');
  server.simple(three.cookie, 0);
  await third;
  server.simple(one.cookie, 0, Buffer.alloc(512, 4));
  t.equal(Buffer.from(await first).compare(target), 0);
  t.ok(target.every((b) => b === 4));
});

t.test('errors carry the errno and the text of the server', async (t) => {
  const { server, client } = await connected(t);
  const write = client.write(0, Buffer.alloc(512));
  const w = await server.takeRequest();
  await server.take(512);
  server.simple(w.cookie, 28);
  await t.rejects(write, { name: 'NbdError', code: 'IO', errno: 28, errnoName: 'ENOSPC' });
  const read = client.read(0, 512);
  const r = await server.takeRequest();
  const message = Buffer.from('bad block');
  const body = Buffer.concat([Buffer.from([0, 0, 0, 5, 0, message.length]), message]);
  server.chunk(r.cookie, true, chunkType.error, body);
  await t.rejects(read, { code: 'IO', errnoName: 'EIO', message: /bad block/ });
  await t.rejects(client.read(1 << 20, 1), { code: 'INVALID_ARGUMENT' });
  await t.rejects(client.read(0, 512, new Uint8Array(3)), { code: 'INVALID_ARGUMENT' });
  await t.rejects(client.blockStatus(0, 512, { context: 'x:y' }), { code: 'INVALID_ARGUMENT' });
});

t.test('a broken connection fails what is outstanding, and everything after', async (t) => {
  const { server, client } = await connected(t, { maxInFlight: 1 });
  const outstanding = client.read(0, 512);
  const waiting = client.flush();
  await server.takeRequest();
  server.socket!.destroy();
  await t.rejects(outstanding, { code: 'DISCONNECTED' });
  await t.rejects(waiting, { code: 'DISCONNECTED' });
  await t.rejects(client.flush(), { code: 'DISCONNECTED' });
  await client.close();
  await client.disconnect();
});

t.test('an aborted read leaves its target alone and the connection usable', async (t) => {
  const { server, client } = await connected(t, { structured: false });
  const abort = new AbortController();
  const target = Buffer.alloc(512, 1);
  const read = client.read(0, 512, target, { signal: abort.signal });
  const { cookie } = await server.takeRequest();
  abort.abort();
  await t.rejects(read, { code: 'ABORTED' });
  server.simple(cookie, 0, Buffer.alloc(512, 2));
  const flush = client.flush();
  server.simple((await server.takeRequest()).cookie, 0);
  await flush;
  t.ok(target.every((b) => b === 1));
  await t.rejects(client.flush({ signal: AbortSignal.abort() }), { code: 'ABORTED' });
});

t.test('an aborted request that still waits is never sent', async (t) => {
  const { server, client } = await connected(t, { maxInFlight: 1 });
  const abort = new AbortController();
  const first = client.flush();
  const second = client.trim(0, 4096, { signal: abort.signal });
  const third = client.writeZeroes(0, 4096, { noHole: true, fua: true });
  abort.abort();
  await t.rejects(second, { code: 'ABORTED' });
  server.simple((await server.takeRequest()).cookie, 0);
  const next = await server.takeRequest();
  t.strictSame({ type: next.type, flags: next.flags }, { type: 6, flags: 3 });
  server.simple(next.cookie, 0);
  await Promise.all([first, third]);
});

t.test('disconnect waits for what is outstanding and says goodbye', async (t) => {
  const { server, client } = await connected(t);
  const flush = client.flush();
  const gone = client.disconnect();
  await t.rejects(client.flush(), { code: 'DISCONNECTED' });
  server.simple((await server.takeRequest()).cookie, 0);
  await flush;
  t.equal((await server.takeRequest()).type, 2);
  server.socket!.end();
  await gone;
  await client.disconnect();
});

t.test('block status', async (t) => {
  const { server, client } = await connected(t);
  t.strictSame(client.metaContexts, ['base:allocation']);
  const status = client.blockStatus(4096, 8192);
  const { cookie, type } = await server.takeRequest();
  t.equal(type, 7);
  const body = Buffer.alloc(20);
  [7, 4096, 3, 4096, 0].forEach((value, i) => body.writeUInt32BE(value, 4 * i));
  server.chunk(cookie, true, chunkType.blockStatus, body);
  t.strictSame(await status, [
    { offset: 4096, length: 4096, flags: 3, hole: true, zero: true },
    { offset: 8192, length: 4096, flags: 0, hole: false, zero: false },
  ]);
});

t.test('block status of more than 32 bits can say asks for the first part', async (t) => {
  const server = await start(t);
  const [client] = await Promise.all([
    NbdClient.connect({ host: '127.0.0.1', port: server.port }),
    server.shake(2 ** 40),
  ]);
  const status = client.blockStatus(0, 2 ** 40);
  const { cookie, length } = await server.takeRequest();
  t.equal(length, 2 ** 32 - 4096);
  const body = Buffer.alloc(12);
  [7, length, 0].forEach((value, i) => body.writeUInt32BE(value, 4 * i));
  server.chunk(cookie, true, chunkType.blockStatus, body);
  t.equal((await status)[0]?.length, length);
  t.strictSame(await client.blockStatus(0, 0), []);
  await client.close();
});

t.test('a server that breaks the rules loses its connection', async (t) => {
  const cases: [string, (server: ScriptedServer, cookie: number) => void][] = [
    ['unknown cookie', (s, c) => s.simple(c + 1, 0)],
    ['simple reply to a read', (s, c) => s.simple(c, 0)],
    ['data outside the request', (s, c) => s.data(c, true, 511, Buffer.alloc(2))],
    [
      'the same data twice',
      (s, c) => {
        s.data(c, false, 0, Buffer.alloc(300));
        s.data(c, true, 299, Buffer.alloc(213));
      },
    ],
    ['not all data', (s, c) => s.data(c, true, 0, Buffer.alloc(511))],
    [
      'block status to a read',
      (s, c) => s.chunk(c, true, chunkType.blockStatus, Buffer.alloc(12, 1)),
    ],
    ['garbage', (s) => s.send(Buffer.alloc(64, 0x5a))],
  ];
  for (const [name, misbehave] of cases) {
    const { server, client } = await connected(t);
    const read = client.read(0, 512);
    misbehave(server, (await server.takeRequest()).cookie);
    await t.rejects(read, { code: 'PROTOCOL' }, name);
    await server.ended();
  }
});

t.test('older servers: no GO, no structured replies, no fixed newstyle', async (t) => {
  const server = await start(t);
  const connecting = NbdClient.connect({ host: '127.0.0.1', port: server.port, exportName: 'db' });
  await server.accepted();
  server.send(encodeGreeting(1));
  t.equal((await server.take(4)).readUInt32BE(0), 1);
  for (const option of [optionType.extendedHeaders, optionType.structuredReply, optionType.go]) {
    t.equal((await server.takeOption()).option, option);
    server.send(encodeOptionReply(option, optionReplyType.errUnsup));
  }
  const { option, data } = await server.takeOption();
  t.strictSame([option, data.toString()], [optionType.exportName, 'db']);
  server.send(encodeExportNameReply(1 << 20, 1, false));
  const client = await connecting;
  t.equal(client.sizeBytes, 1 << 20);
  t.equal(client.structuredReplies, false);
  await client.flush();
  await t.rejects(client.trim(0, 1), { code: 'INVALID_ARGUMENT' });
  await client.close();

  server.socket = null;
  const plain = NbdClient.connect({ host: '127.0.0.1', port: server.port });
  await server.accepted();
  server.send(encodeGreeting(0));
  await server.take(4);
  t.equal((await server.takeOption()).option, optionType.exportName);
  server.send(encodeExportNameReply(512, 1, false));
  await (await plain).close();
});

t.test('listing', async (t) => {
  const server = await start(t);
  const listing = NbdClient.list({ host: '127.0.0.1', port: server.port });
  await server.accepted();
  server.send(encodeGreeting(3));
  await server.take(4);
  const { option } = await server.takeOption();
  for (const name of ['a', 'größe']) {
    server.send(encodeOptionReply(option, optionReplyType.server, encodeServerBody(name)));
  }
  server.send(encodeOptionReply(option, optionReplyType.ack));
  t.strictSame(await listing, ['a', 'größe']);
  t.equal((await server.takeOption()).option, optionType.abort);
});

t.test('only contexts that were asked for, each with an id of its own', async (t) => {
  const connecting = async (
    queries: string[],
    answers: [name: string, id: number][],
  ): Promise<NbdClient> => {
    const server = await start(t);
    server.contexts = answers.map(([name, id]) => ({ name, id }));
    const target = { host: '127.0.0.1', port: server.port, metaContexts: queries };
    const shaken = server.shake().catch(() => {});
    try {
      return await NbdClient.connect(target);
    } finally {
      await server.close();
      await shaken;
    }
  };
  const refused: [queries: string[], answers: [string, number][], message: RegExp][] = [
    [['base:allocation'], [['stor:dirty-since-a', 1]], /stor:dirty-since-a.* was not asked for/],
    [['base:allocation'], [['base:other', 1]], /base:other.* was not asked for/],
    [['allocation'], [['base:allocation', 1]], /base:allocation.* was not asked for/],
    [
      ['x-a:1', 'x-a:2'],
      [
        ['x-a:1', 7],
        ['x-a:2', 7],
      ],
      /id 7 of two metadata contexts/,
    ],
    [
      ['x-a:1'],
      [
        ['x-a:1', 7],
        ['x-a:1', 8],
      ],
      /x-a:1.* with two ids/,
    ],
    [
      ['x-a:'],
      Array.from({ length: 257 }, (_each, id) => [`x-a:${id}`, id]),
      /too many replies to one option/,
    ],
  ];
  for (const [queries, answers, message] of refused) {
    await t.rejects(connecting(queries, answers), { code: 'PROTOCOL', message });
  }
  const taken: [queries: string[], answers: [string, number][]][] = [
    [['base:allocation', 'x-client:a:1'], [['base:allocation', 0]]],
    [['x-a:*'], Array.from({ length: 16 }, (_each, id) => [`x-a:${id}`, id])],
    [
      ['base:allocation', 'base:allocation'],
      [
        ['base:allocation', 1],
        ['base:allocation', 1],
      ],
    ],
  ];
  for (const [queries, answers] of taken) {
    const client = await connecting(queries, answers);
    t.strictSame(client.metaContexts, [...new Set(answers.map(([name]) => name))]);
    await client.close();
  }
});

t.test('a list has contexts of the namespaces that were asked for, and no ids', async (t) => {
  const listing = async (queries: string[]): Promise<string[]> => {
    const server = await start(t);
    server.contexts = ['x-a:1', 'x-a:2'].map((name) => ({ name, id: 0 }));
    const shaken = server.shake().catch(() => {});
    try {
      return await NbdClient.listMetaContexts({ host: '127.0.0.1', port: server.port }, queries);
    } finally {
      await server.close();
      await shaken;
    }
  };
  t.strictSame(await listing([]), ['x-a:1', 'x-a:2']);
  t.strictSame(await listing(['x-a:']), ['x-a:1', 'x-a:2']);
  await t.rejects(listing(['base:']), { code: 'PROTOCOL', message: /was not asked for/ });
});

t.test('connecting fails with the reason', async (t) => {
  const server = await start(t);
  const target = { host: '127.0.0.1', port: server.port, exportName: 'db' };
  const failing = async (
    how: () => Promise<void> | void,
    expected: { code: string; message?: RegExp },
    options: object = {},
  ): Promise<void> => {
    server.socket = null;
    const connecting = NbdClient.connect({ ...target, ...options });
    const checked = t.rejects(connecting, expected);
    await server.accepted();
    await how();
    await checked;
  };
  await failing(() => server.send(Buffer.alloc(32, 1)), { code: 'PROTOCOL' });
  await failing(() => void server.socket!.destroy(), { code: 'DISCONNECTED' });
  await failing(
    async () => {
      server.send(encodeGreeting(3));
      await server.take(4);
      const { option } = await server.takeOption();
      server.send(
        encodeOptionReply(option, optionReplyType.errPolicy, Buffer.from('held by node n2')),
      );
      t.equal((await server.takeOption()).option, optionType.abort);
    },
    { code: 'REFUSED', message: /db.*ERR_POLICY.*held by node n2/ },
    { structuredReplies: false },
  );
  await failing(
    async () => {
      server.send(encodeGreeting(3));
      await server.take(4);
      const { option } = await server.takeOption();
      const reply = encodeOptionReply(option, optionReplyType.info);
      reply.writeUInt32BE(0xffffffff, 16);
      server.send(reply);
    },
    { code: 'PROTOCOL' },
  );
  await failing(() => {}, { code: 'TIMEOUT' }, { connectTimeoutMs: 50 });
  const abort = new AbortController();
  await failing(() => abort.abort(), { code: 'ABORTED' }, { signal: abort.signal });
  const { port } = server;
  await server.close();
  await t.rejects(NbdClient.connect({ host: '127.0.0.1', port }), { code: 'DISCONNECTED' });
  await t.rejects(NbdClient.connect({}), NbdError);
});
