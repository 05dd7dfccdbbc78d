import type { BlockRequest } from '@stor/replicator';
import {
  NbdClient,
  allocationContext,
  chunkType,
  command,
  commandFlag,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  encodeStatusFilter,
  formatClientContext,
  errno,
  infoType,
  optionReplyType,
  optionType,
  transmissionFlag,
} from 'nbd-client-js';
import t from 'tap';
import { changedBytes, rawClient, startServer, until } from './nbd-harness.ts';

const sizeBytes = 1 << 20;
const tebibyte = 2 ** 40;
const payloadLength = commandFlag.payloadLength;

t.test(
  'negotiation: it includes structured replies, and shuts out what does not fit',
  async (t) => {
    const { port } = await startServer(t, { sizeBytes });
    const client = rawClient(t, port);
    await client.greet();
    const types = async (option: number, data?: Buffer): Promise<number[]> =>
      (await client.option(option, data)).map(({ type }) => type);
    const queries = [allocationContext];
    const set = encodeMetaContextBody({ name: 'db', queries });
    t.same(await types(optionType.setMetaContext, set), [optionReplyType.errInvalid]);
    t.same(await types(optionType.extendedHeaders, Buffer.alloc(1)), [optionReplyType.errInvalid]);
    t.same(await types(optionType.extendedHeaders), [optionReplyType.ack]);
    t.same(await types(optionType.extendedHeaders), [optionReplyType.ack], 'again is no harm');
    t.same(await types(optionType.structuredReply), [optionReplyType.errExtHeaderReqd]);
    const body = encodeGoBody({ name: 'db', infos: [infoType.blockSize] });
    const flagsOf = (replies: { data: Buffer }[]): number => replies[0]?.data.readUInt16BE(10) ?? 0;
    const { blockStatusPayload, sendDf } = transmissionFlag;
    const told = flagsOf(await client.option(optionType.info, body));
    t.equal(told & (blockStatusPayload | sendDf), blockStatusPayload | sendDf);
    const without = flagsOf(await client.option(optionType.go, body));
    t.equal(without & blockStatusPayload, 0, 'no contexts were set');

    const second = rawClient(t, port);
    await second.greet();
    await second.option(optionType.extendedHeaders);
    second.send(encodeOption(optionType.exportName, Buffer.from('db')));
    t.equal((await second.rest()).length, 0, 'EXPORT_NAME ends it');
  },
);

t.test('requests and replies, byte by byte', async (t) => {
  const { device, port } = await startServer(t, { sizeBytes });
  const client = rawClient(t, port);
  await client.go('db', { extended: true, context: true });
  const done = { flags: 1, type: chunkType.none, cookie: 1, body: Buffer.alloc(0) };

  client.extended({
    type: command.write,
    flags: payloadLength | commandFlag.fua,
    offset: 7,
    payload: Buffer.alloc(3, 5),
  });
  t.match(await client.extendedChunk(), { ...done, offset: 7n });
  t.equal(device.fuaCalls, 1);
  client.extended({ type: command.read, offset: 6, length: 5, cookie: 9 });
  const read = await client.extendedChunk();
  t.match(read, { flags: 1, type: chunkType.offsetData, cookie: 9, offset: 6n });
  t.equal(read.body.toString('hex'), '0000000000000006' + '0005050500');
  client.extended({ type: command.read, offset: 6, length: 0 });
  t.match(await client.extendedChunk(), { ...done, offset: 6n });
  client.extended({ type: command.flush });
  t.match(await client.extendedChunk(), { ...done, offset: 0n });
  client.extended({ type: command.cache, offset: 0, length: 4096 });
  t.match(await client.extendedChunk(), done);

  client.extended({ type: command.blockStatus, offset: 0, length: sizeBytes });
  const status = await client.extendedChunk();
  t.match(status, { flags: 1, type: chunkType.blockStatusExt, offset: 0n });
  t.equal(
    status.body.toString('hex'),
    '00000001' +
      '00000002' + // id, descriptors
      '0000000000010000' +
      '0000000000000000' + // data
      '00000000000f0000' +
      '0000000000000003', // hole
  );

  const refusals: [Parameters<typeof client.extended>[0], number][] = [
    [{ type: command.read, offset: 2n ** 64n - 2n, length: 1 }, errno.EINVAL],
    [{ type: command.read, offset: 0, length: 2n ** 64n - 1n }, errno.EINVAL],
    [{ type: command.writeZeroes, offset: 1, length: 2n ** 40n }, errno.ENOSPC],
    [{ type: command.trim, offset: sizeBytes, length: 1 }, errno.EINVAL],
    [{ type: command.blockStatus, offset: 0, length: 0 }, errno.EINVAL],
    [{ type: 99, offset: 3 }, errno.EINVAL],
    // a payload that a command does not take is read and thrown away
    [
      { type: command.read, flags: payloadLength, offset: 4, payload: Buffer.alloc(40) },
      errno.EINVAL,
    ],
    [{ type: command.flush, flags: payloadLength, payload: Buffer.alloc(1) }, errno.EINVAL],
    [
      {
        type: command.write,
        flags: payloadLength,
        offset: sizeBytes - 1,
        payload: Buffer.alloc(2),
      },
      errno.ENOSPC,
    ],
  ];
  for (const [request, expected] of refusals) {
    client.extended(request);
    const { type, flags, offset, body } = await client.extendedChunk();
    t.match({ type, flags }, { type: chunkType.error, flags: 1 });
    t.equal(offset, BigInt(request.offset ?? 0), 'the offset comes back as it was');
    t.equal(body.readUInt32BE(0), expected);
  }

  // whether data follow is not known: they must not be taken for requests
  client.extended({ type: command.write, offset: 0, length: 4096 });
  t.equal((await client.extendedChunk()).body.readUInt32BE(0), errno.EINVAL);
  t.equal((await client.rest()).length, 0);
  t.equal(device.calls.write, 1);
});

t.test('a compact request on such a connection ends it, and the other way round', async (t) => {
  const { port, exports } = await startServer(t, { sizeBytes });
  const extended = rawClient(t, port);
  await extended.go('db', { extended: true });
  extended.request({ type: command.flush });
  extended.send(Buffer.alloc(4));
  t.equal((await extended.rest()).length, 0);
  const compact = rawClient(t, port);
  await compact.go('db', { structured: true });
  compact.extended({ type: command.flush });
  t.equal((await compact.rest()).length, 0);
  await until(() => exports.released === 2);

  const flagged = rawClient(t, port);
  await flagged.go('db');
  flagged.request({ type: command.write, flags: payloadLength, payload: Buffer.alloc(8) });
  t.equal(await flagged.simple(), errno.EINVAL, 'the flag is for extended headers only');
  flagged.request({ type: command.flush, cookie: 2 });
  t.equal(await flagged.simple(2), 0, 'its payload was read');
});

t.test('block status of some contexts: a filter in the payload', async (t) => {
  const { exports, port } = await startServer(t, { sizeBytes });
  exports.snapshots.set(
    'db',
    new Map([
      ['monday', new Set([1])],
      ['tuesday', new Set([2])],
    ]),
  );
  const client = await NbdClient.connect({
    host: '127.0.0.1',
    port,
    exportName: 'db',
    metaContexts: [allocationContext, 'stor:dirty-since-monday', 'stor:dirty-since-tuesday'],
  });
  t.teardown(() => client.close());
  t.equal(client.extendedHeaders, true);
  const some = await client.blockStatuses(0, sizeBytes, {
    contexts: ['stor:dirty-since-tuesday', 'stor:dirty-since-monday'],
  });
  t.same([...some.keys()], ['stor:dirty-since-tuesday', 'stor:dirty-since-monday']);
  t.match(some.get('stor:dirty-since-tuesday'), [
    { offset: 0, length: 2 * changedBytes, flags: 0 },
    { offset: 2 * changedBytes, length: changedBytes, flags: 1 },
  ]);
  t.equal(exports.volumes.get('db')?.calls.extents, 0, 'nothing else was looked at');
  t.equal((await client.blockStatuses(0, sizeBytes)).size, 3);
  await t.rejects(client.blockStatus(0, 1, { context: 'stor:dirty-since-x' }), {
    code: 'INVALID_ARGUMENT',
  });

  const raw = rawClient(t, port);
  await raw.go('db', { extended: true, context: true });
  const ask = async (payload: Buffer): Promise<number> => {
    raw.extended({ type: command.blockStatus, flags: payloadLength, payload });
    const { type, body } = await raw.extendedChunk();
    return type === chunkType.error ? body.readUInt32BE(0) : 0;
  };
  t.equal(await ask(encodeStatusFilter({ length: 4096, ids: [1] })), 0);
  for (const wrong of [
    encodeStatusFilter({ length: 4096, ids: [] }),
    encodeStatusFilter({ length: 4096, ids: [2] }),
    encodeStatusFilter({ length: 4096, ids: [1, 1] }),
    encodeStatusFilter({ length: 0, ids: [1] }),
    encodeStatusFilter({ length: sizeBytes + 1, ids: [1] }),
    Buffer.alloc(7),
    Buffer.alloc(11),
    Buffer.alloc(100_000),
  ]) {
    t.equal(await ask(wrong), errno.EINVAL, `${wrong.length} bytes`);
  }
  t.equal(await ask(encodeStatusFilter({ length: 1, ids: [1] })), 0, 'the stream is in step');
});

t.test('ranges of more than 4 GiB', async (t) => {
  const { device, port } = await startServer(t, { sizeBytes: 8 * tebibyte });
  const client = await NbdClient.connect({ host: '127.0.0.1', port, exportName: 'db' });
  t.teardown(() => client.close());
  const seen: [number, number, boolean][] = [];
  const note = ({ offset, length, fua }: BlockRequest): void => {
    seen.push([offset, length, fua]);
  };
  const parts = (from: number, to: number): number => {
    let at = from;
    for (const [offset, length, fua] of seen) {
      t.equal(offset, at);
      t.ok(length <= 2 ** 30 && fua);
      at += length;
    }
    t.equal(at, to);
    return seen.splice(0).length;
  };
  // the device would take its time over so much
  device.trim = (request) => {
    note(request);
    request.done(null);
  };
  await client.trim(4096, 6 * tebibyte, { fua: true });
  t.equal(parts(4096, 4096 + 6 * tebibyte), 6 * 1024 + 1, 'given to the device in parts');
  device.writeZeroes = (request) => {
    note(request);
    setImmediate(() => request.done(null));
  };
  await client.writeZeroes(0, 2 ** 33 + 5, { fua: true });
  t.equal(parts(0, 2 ** 33 + 5), 9);

  await client.write(2 ** 40, Buffer.alloc(65_536, 1));
  let at = 2 ** 40 - 2 ** 34;
  const [extent] = await client.blockStatus(at, 2 ** 35);
  t.match(extent, { offset: at, length: 2 ** 34, hole: true }, 'one extent of 16 GiB');
  at = 0;
  const [longest] = await client.blockStatus(at, 8 * tebibyte);
  t.ok((longest?.length ?? 0) >= 2 ** 33 && (longest?.length ?? 0) <= 2 ** 36, 'and a bound');
});

t.test('a long effect ends with the connection, between two of its parts', async (t) => {
  const { device, exports, port } = await startServer(t, { sizeBytes: tebibyte });
  const client = await NbdClient.connect({
    host: '127.0.0.1',
    port,
    exportName: 'db',
    // to others nothing would be said
    metaContexts: [formatClientContext({ id: 'trimmer', sequence: [1] })],
  });
  t.teardown(() => client.close());
  const waiting: (() => void)[] = [];
  let begun = 0;
  device.trim = (request) => {
    begun += 1;
    waiting.push(() => request.done(null));
  };
  const trimmed = client.trim(0, 2 ** 34);
  trimmed.catch(() => {});
  await until(() => waiting.length === 1);
  waiting.shift()?.();
  await until(() => waiting.length === 1);
  for (const revoke of exports.revokers) revoke();
  waiting.shift()?.();
  await t.rejects(trimmed, {
    code: 'IO',
    errnoName: 'ESHUTDOWN',
    message: /done up to 2147483648/,
  });
  t.equal(begun, 2);
  await until(() => exports.released === 1);
});
