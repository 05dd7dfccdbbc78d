import t, { type Test } from 'tap';
import { NbdClient, chunkType, command, commandFlag, transmissionFlag } from '../src/index.ts';
import { ScriptedServer } from './support/scripted-server.ts';

const tebibyte = 2 ** 40;
const flags =
  0x1ed |
  transmissionFlag.sendDf |
  transmissionFlag.sendCache |
  transmissionFlag.sendFastZero |
  transmissionFlag.blockStatusPayload;

/** A client of an export of 8 TiB. */
async function connected(
  t: Test,
  extended = true,
): Promise<{ server: ScriptedServer; client: NbdClient }> {
  const server = new ScriptedServer();
  await server.listen();
  t.teardown(() => server.close());
  const [client] = await Promise.all([
    NbdClient.connect({ host: '127.0.0.1', port: server.port, exportName: 'db' }),
    server.shake(8 * tebibyte, true, { extended, flags }),
  ]);
  t.teardown(() => client.close());
  return { server, client };
}

function u64(...values: number[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length);
  values.forEach((value, at) => bytes.writeBigUInt64BE(BigInt(value), 8 * at));
  return bytes;
}

t.test('requests and replies of the extended form, byte by byte', async (t) => {
  const { server, client } = await connected(t);
  t.equal(client.extendedHeaders, true);
  t.equal(client.structuredReplies, true, 'they include structured replies');

  const write = client.write(3, Buffer.alloc(5, 9), { fua: true });
  const w = await server.takeExtended();
  t.match(w, { type: command.write, offset: 3n, length: 5n });
  t.equal(w.flags, commandFlag.fua | commandFlag.payloadLength, 'the payload is counted by a flag');
  t.ok((await server.take(5)).equals(Buffer.alloc(5, 9)));
  server.extendedChunk(w, true, chunkType.none);
  await write;

  const read = client.read(2 ** 42, 8, undefined, { df: true });
  const r = await server.takeExtended();
  t.match(r, { type: command.read, flags: commandFlag.df, offset: 2n ** 42n, length: 8n });
  const data = Buffer.concat([u64(2 ** 42), Buffer.alloc(8, 4)]);
  server.extendedChunk(r, true, chunkType.offsetData, data);
  t.ok((await read).equals(Buffer.alloc(8, 4)));

  for (const [call, type, flag] of [
    [(): Promise<void> => client.trim(4096, 6 * tebibyte), command.trim, 0],
    [
      (): Promise<void> => client.writeZeroes(4096, 6 * tebibyte, { fastZero: true }),
      command.writeZeroes,
      commandFlag.fastZero,
    ],
    [(): Promise<void> => client.cache(4096, 6 * tebibyte), command.cache, 0],
  ] as const) {
    const done = call();
    const request = await server.takeExtended();
    t.match(request, { type, flags: flag, offset: 4096n, length: 6n * 2n ** 40n });
    server.extendedChunk(request, true, chunkType.none);
    await done;
  }

  const leaving = client.disconnect();
  t.match(await server.takeExtended(), { type: command.disconnect, length: 0n });
  server.socket?.end();
  await leaving;
});

t.test('block status has 64-bit extents, of 32-bit ones a server may still send', async (t) => {
  const { server, client } = await connected(t);
  const asked = client.blockStatus(4096, 5 * tebibyte);
  const request = await server.takeExtended();
  t.match(request, { type: command.blockStatus, flags: 0, length: 5n * 2n ** 40n });
  const body = Buffer.concat([
    Buffer.from([0, 0, 0, 7, 0, 0, 0, 2]),
    u64(4096, 0, 2 * tebibyte, 3),
  ]);
  server.extendedChunk(request, true, chunkType.blockStatusExt, body);
  t.same(
    (await asked).map(({ offset, length, hole }) => [offset, length, hole]),
    [
      [4096, 4096, false],
      [8192, 2 * tebibyte, true],
    ],
  );

  const small = client.blockStatus(0, 4096);
  server.extendedChunk(
    await server.takeExtended(),
    true,
    chunkType.blockStatus,
    Buffer.from('000000070000100000000000', 'hex'),
  );
  t.match(await small, [{ offset: 0, length: 4096, flags: 0 }]);
});

t.test('without them a long range is several requests, one after the other', async (t) => {
  const { server, client } = await connected(t, false);
  t.equal(client.extendedHeaders, false);
  const trimmed = client.trim(4096, 2 ** 33, { fua: true });
  const lengths: number[] = [];
  for (let left = 2 ** 33; left > 0;) {
    const { cookie, type, flags, length } = await server.takeRequest();
    t.same([type, flags], [command.trim, commandFlag.fua]);
    t.equal(length % 4096, 0);
    lengths.push(length);
    left -= length;
    server.simple(cookie, 0);
  }
  await trimmed;
  t.equal(lengths.length, 3);

  const failing = client.writeZeroes(0, 2 ** 33);
  server.simple((await server.takeRequest()).cookie, 28);
  await t.rejects(failing, { code: 'IO', errnoName: 'ENOSPC' });
});

t.test('an error says where, and text', async (t) => {
  const { server, client } = await connected(t);
  const read = client.read(8192, 8192);
  const request = await server.takeExtended();
  server.extendedChunk(
    request,
    false,
    chunkType.offsetData,
    Buffer.concat([u64(8192), Buffer.alloc(4096)]),
  );
  const where = Buffer.concat([
    Buffer.from('000000050004', 'hex'),
    Buffer.from('torn'),
    u64(12288),
  ]);
  server.extendedChunk(request, true, chunkType.errorOffset, where);
  await t.rejects(read, {
    code: 'IO',
    errnoName: 'EIO',
    offset: 12288,
    message: /at 12288.*torn/,
  });
});

t.test('a server that breaks the rules of the extended form loses its connection', async (t) => {
  type Misbehave = (server: ScriptedServer, to: { cookie: number; offset: bigint }) => void;
  const data = Buffer.concat([u64(512), Buffer.alloc(256)]);
  const status = (count: number): Buffer =>
    Buffer.concat([Buffer.from([0, 0, 0, 7, 0, 0, 0, count]), u64(512, 0)]);
  const cases: [string, Misbehave][] = [
    ['a simple reply', (server, { cookie }) => server.simple(cookie, 0)],
    ['a compact chunk', (server, { cookie }) => server.data(cookie, true, 512, Buffer.alloc(512))],
    [
      'the offset of another request',
      (server, { cookie }) => server.extendedChunk({ cookie, offset: 0n }, true, chunkType.none),
    ],
    [
      'a length above 32 bits',
      (server, to) => {
        const bytes = Buffer.alloc(32);
        bytes.writeUInt32BE(0x6e8a278c, 0);
        bytes.writeUInt16BE(chunkType.offsetData, 6);
        bytes.writeBigUInt64BE(BigInt(to.cookie), 8);
        bytes.writeBigUInt64BE(to.offset, 16);
        bytes.writeBigUInt64BE(2n ** 40n, 24);
        server.send(bytes);
      },
    ],
    [
      'two pieces in spite of DF',
      (server, to) => {
        server.extendedChunk(to, false, chunkType.offsetData, data);
        server.extendedChunk(
          to,
          true,
          chunkType.offsetData,
          Buffer.concat([u64(768), Buffer.alloc(256)]),
        );
      },
    ],
    [
      'a block status to a read',
      (server, to) => server.extendedChunk(to, true, chunkType.blockStatusExt, status(1)),
    ],
    [
      'a wrong number of descriptors',
      (server, to) => server.extendedChunk(to, true, chunkType.blockStatusExt, status(2)),
    ],
    [
      'an error outside the request',
      (server, to) =>
        server.extendedChunk(
          to,
          true,
          chunkType.errorOffset,
          Buffer.concat([Buffer.from('000000050000', 'hex'), u64(1024)]),
        ),
    ],
  ];
  for (const [name, misbehave] of cases) {
    const { server, client } = await connected(t);
    const read = client.read(512, 512, undefined, { df: true });
    misbehave(server, await server.takeExtended());
    await t.rejects(read, { code: 'PROTOCOL' }, name);
    await server.ended();
  }
});
