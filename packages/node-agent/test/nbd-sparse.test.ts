import { StorError } from '@stor/protocol';
import { NbdClient, chunkType, command, commandFlag, errno, readU64 } from 'nbd-client-js';
import { SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import { planPieces } from '../src/nbd/split-read.ts';
import { MemoryBlockDevice } from '../src/testing/memory-block-device.ts';
import { rawClient, startServer, until } from './nbd-harness.ts';

const chunkBytes = 256 * 1024;
const mebibyte = 1 << 20;

t.test('a read of a hole costs a few bytes', async (t) => {
  const { server, device, port } = await startServer(t, { sizeBytes: 64 * mebibyte });
  const client = rawClient(t, port);
  await client.go('db', { structured: true });
  for (const flags of [0, commandFlag.df]) {
    client.request({ type: command.read, flags, offset: 4097, length: 32 * mebibyte });
    const { type, flags: last, body } = await client.chunk();
    t.match({ type, last }, { type: chunkType.offsetHole, last: 1 });
    t.equal(body.length, 12);
    t.same([readU64(body, 0), body.readUInt32BE(8)], [4097, 32 * mebibyte]);
  }
  t.equal(device.calls.read + device.calls.readInline, 0, 'the device is not read');
  const stats = server.stats.exports.get('v-db')!;
  t.same([stats.read.ops, stats.read.bytes], [2, 64 * mebibyte], 'it is counted all the same');

  const extended = rawClient(t, port);
  await extended.go('db', { extended: true });
  extended.extended({ type: command.read, offset: 1, length: 4096 });
  const chunk = await extended.extendedChunk();
  t.match(chunk, { type: chunkType.offsetHole, flags: 1, offset: 1n });
  t.equal(chunk.body.length, 12);

  const simple = rawClient(t, port);
  await simple.go('db');
  simple.request({ type: command.read, offset: 1, length: 4096 });
  t.equal(await simple.simple(), 0);
  t.same(await simple.take(4096), Buffer.alloc(4096), 'simple replies have no holes');
});

t.test('a large read is split at holes, unless it must not be', async (t) => {
  const { device, port } = await startServer(t, { sizeBytes: 8 * mebibyte });
  const client = rawClient(t, port);
  await client.go('db', { structured: true });
  client.request({
    type: command.write,
    offset: chunkBytes + 65_536,
    payload: Buffer.alloc(65_536, 1),
  });
  await client.simple();
  client.request({
    type: command.write,
    offset: 3 * chunkBytes,
    payload: Buffer.alloc(chunkBytes, 3),
  });
  await client.simple();
  client.request({ type: command.read, offset: 512, length: 8 * mebibyte - 1024 });
  const seen: [number, number, number][] = [];
  for (let last = 0; last === 0;) {
    const { type, flags, body } = await client.chunk();
    last = flags;
    const isHole = type === chunkType.offsetHole;
    seen.push([type, readU64(body, 0), isHole ? body.readUInt32BE(8) : body.length - 8]);
  }
  // the device of this test has holes of 64 KiB; from data on the next chunk is looked at
  t.same(seen, [
    [chunkType.offsetHole, 512, chunkBytes + 65_536 - 512],
    [chunkType.offsetData, chunkBytes + 65_536, chunkBytes - 65_536],
    [chunkType.offsetHole, 2 * chunkBytes, chunkBytes],
    [chunkType.offsetData, 3 * chunkBytes, chunkBytes],
    [chunkType.offsetHole, 4 * chunkBytes, 8 * mebibyte - 512 - 4 * chunkBytes],
  ]);
  client.request({ type: command.read, flags: commandFlag.df, offset: 0, length: 2 * mebibyte });
  const whole = await client.chunk();
  t.match({ type: whole.type, flags: whole.flags }, { type: chunkType.offsetData, flags: 1 });
  t.equal(whole.body.length, 8 + 2 * mebibyte);
  t.ok(device.calls.read >= 3);
});

t.test('what fails is told with its place, and the rest is sent', async (t) => {
  const { server, device, exports, port } = await startServer(t, { sizeBytes: 4 * mebibyte });
  const client = await NbdClient.connect({ host: '127.0.0.1', port, exportName: 'db' });
  t.teardown(() => client.close());
  for (const chunk of [0, 2, 4]) {
    await client.write(chunk * chunkBytes, Buffer.alloc(chunkBytes, chunk + 1));
  }
  device.behaviour.fail = (operation, request) =>
    operation === 'read' && request?.offset === 2 * chunkBytes
      ? new StorError('DISK_FAILED', 'a torn block')
      : null;
  const raw = rawClient(t, port);
  await raw.go('db', { structured: true });
  raw.request({ type: command.read, offset: 0, length: 2 * mebibyte });
  const types: number[] = [];
  for (let last = 0; last === 0;) {
    const { type, flags, body } = await raw.chunk();
    types.push(type);
    last = flags;
    if (type !== chunkType.errorOffset) continue;
    t.equal(body.readUInt32BE(0), errno.EIO);
    const text = 'a torn block';
    t.equal(body.subarray(6, 6 + body.readUInt16BE(4)).toString(), text);
    t.equal(readU64(body, 6 + text.length), 2 * chunkBytes);
  }
  const { offsetData, offsetHole, errorOffset } = chunkType;
  t.same(types, [offsetData, offsetHole, errorOffset, offsetHole, offsetData, offsetHole]);
  await t.rejects(client.read(0, 2 * mebibyte), {
    code: 'IO',
    errnoName: 'EIO',
    offset: 2 * chunkBytes,
    message: /torn/,
  });
  t.equal(server.stats.exports.get('v-db')?.read.errors, 2);
  device.behaviour.fail = null;
  t.equal((await client.read(2 * chunkBytes, 1))[0], 3, 'the connection goes on');

  // a client that goes away while parts of its read are in the device
  const waiting: (() => void)[] = [];
  device.read = (request) => {
    waiting.push(() => request.done(null));
  };
  const lost = client.read(0, 2 * mebibyte);
  lost.catch(() => {});
  await until(() => waiting.length === 3);
  await client.close();
  waiting.shift()?.();
  raw.socket.destroy();
  await until(() => exports.released === 1);
  t.equal(exports.releasedTooEarly, 0);
  for (const finish of waiting) finish();
  await until(() => exports.released === 2);
  t.equal(server.stats.exports.get('v-db')?.inFlight, 0);
});

t.test('plans agree with a stupid one, whatever the device has', async (t) => {
  const random = new SeededRandom(5);
  const below = (n: number): number => Math.floor(random.next() * n);
  for (let run = 0; run < 200; run++) {
    const device = new MemoryBlockDevice(8 * mebibyte);
    const data = new Set<number>();
    for (let chunk = 0; chunk < 32; chunk++) if (below(2) === 0) data.add(chunk);
    for (const chunk of data) {
      device.write({
        offset: chunk * chunkBytes,
        length: chunkBytes,
        bytes: Buffer.alloc(chunkBytes, 1),
        start: 0,
        retained: true,
        fua: false,
        noHole: false,
        done: () => {},
      });
    }
    const offset = below(8 * mebibyte);
    const length = below(8 * mebibyte - offset) + 1;
    const limit = 3 + below(60);
    const pieces = planPieces(device, offset, length, limit);
    if (!pieces) {
      for (let at = offset; at < offset + length; at += 1024) {
        if (!data.has(Math.floor(at / chunkBytes))) t.fail('a hole was not seen');
      }
      continue;
    }
    let at = offset;
    let start = 0;
    if (pieces.length > limit) t.fail('too many parts');
    for (const piece of pieces) {
      if (piece.offset !== at || piece.length <= 0) t.fail('a gap');
      if (!piece.isHole && piece.start !== start) t.fail('data at a wrong place');
      if (!piece.isHole) start += piece.length;
      for (let byte = at; byte < at + piece.length; byte += 1024) {
        if (piece.isHole && data.has(Math.floor(byte / chunkBytes)))
          t.fail('data taken for a hole');
      }
      at += piece.length;
    }
    if (at !== offset + length) t.fail('not all of it');
  }
  t.pass('agrees');
});
