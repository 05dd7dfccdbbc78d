import { StorError } from '@stor/protocol';
import type { BlockRequest } from '@stor/replicator';
import { NbdClient, command, encodeGoBody, infoType, optionType } from 'nbd-client-js';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { isFastZero } from '../src/core/nbd/fast-zero.ts';
import { rawClient, startServer, until, type TestServer } from './nbd-harness.ts';

const chunkBytes = 256 * 1024;
const mebibyte = 1 << 20;

async function connected(
  t: Test,
  sizeBytes = 16 * mebibyte,
): Promise<TestServer & { client: NbdClient }> {
  const server = await startServer(t, { sizeBytes });
  const client = await NbdClient.connect({
    host: '127.0.0.1',
    port: server.port,
    exportName: 'db',
  });
  t.teardown(() => client.close());
  return { ...server, client };
}

t.test('FAST_ZERO agrees with counting the bytes that would be written', async (t) => {
  fc.assert(
    fc.property(
      fc.nat(40),
      fc.nat(40),
      fc.array(fc.boolean(), { minLength: 10, maxLength: 10 }),
      fc.boolean(),
      (from, count, holes, noHole) => {
        // in quarters of a chunk; the device has nine chunks and a half
        const unit = chunkBytes / 4;
        const size = 38;
        const offset = Math.min(from, size);
        const length = Math.min(count, size - offset);
        const isHole = (start: number, bytes: number): boolean => {
          for (let at = start; at < start + bytes; at += unit) {
            if (!holes[Math.floor(at / chunkBytes)]) return false;
          }
          return true;
        };
        let written = 0;
        for (let at = offset; at < offset + length; at++) {
          const first = at - (at % 4);
          const last = Math.min(first + 4, size);
          const isWhole = offset <= first && last <= offset + length;
          if (noHole || !(isWhole || holes[first / 4])) written += 1;
        }
        const request = {
          offset: offset * unit,
          length: length * unit,
          noHole,
          sizeBytes: size * unit,
        };
        return isFastZero(request, isHole) === written * 2 <= length;
      },
    ),
    { numRuns: 1_000 },
  );
  t.pass('agrees');
});

t.test('a FAST_ZERO that would be slow is refused at once, and changes nothing', async (t) => {
  const { client, device } = await connected(t);
  const data = Buffer.alloc(2 * chunkBytes, 7);
  await client.write(0, data);
  for (const [offset, length, noHole] of [
    [0, 4096, false],
    [512, chunkBytes, false],
    [0, 2 * chunkBytes, true],
  ] as const) {
    await t.rejects(client.writeZeroes(offset, length, { fastZero: true, noHole }), {
      code: 'IO',
      errnoName: 'ENOTSUP',
    });
  }
  t.equal(device.calls.writeZeroes, 0);
  t.same(await client.read(0, data.length), data);
  await client.writeZeroes(0, chunkBytes, { fastZero: true, fua: true });
  await client.writeZeroes(4 * mebibyte + 7, 4096, { fastZero: true });
  t.equal(device.calls.writeZeroes, 2, 'a whole chunk, and part of a hole');
  t.equal(device.fuaCalls, 1);
  t.same(await client.read(0, chunkBytes), Buffer.alloc(chunkBytes));
});

t.test('CACHE reads a bounded part of what is no hole, piece by piece', async (t) => {
  const { client, device, exports, server } = await connected(t, 256 * mebibyte);
  await client.write(3 * mebibyte, Buffer.alloc(5 * mebibyte, 1));
  const reads: [number, number][] = [];
  const waiting: (() => void)[] = [];
  let isSlow = false;
  device.read = (request: BlockRequest): void => {
    reads.push([request.offset, request.length]);
    if (isSlow) waiting.push(() => request.done(null));
    else request.done(null);
  };
  await client.cache(0, 256 * mebibyte);
  t.same(
    reads.splice(0),
    [3, 4, 5, 6, 7].map((at) => [at * mebibyte, mebibyte]),
    'holes are left out',
  );

  // all of it is data: no more than the limit is read, and one request at a time
  device.behaviour.knowsHoles = false;
  isSlow = true;
  let isDone = false;
  const first = client.cache(0, 256 * mebibyte).then(() => (isDone = true));
  await client.cache(8 * mebibyte, mebibyte);
  t.notOk(isDone);
  t.equal(reads.length, 1, 'the second had no effect');
  while (!isDone) {
    t.ok(waiting.length <= 1);
    waiting.shift()?.();
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  await first;
  t.equal(reads.length, 64);

  device.read = (request: BlockRequest): void => request.done(new StorError('DISK_FAILED', 'bad'));
  await t.rejects(client.cache(0, 4096), { code: 'IO', errnoName: 'EIO' });

  // a client that leaves: the piece that is being read is the last
  device.read = (request: BlockRequest): void => {
    reads.push([request.offset, request.length]);
    waiting.push(() => request.done(null));
  };
  reads.length = 0;
  client.cache(0, 8 * mebibyte).catch(() => {});
  await until(() => waiting.length === 1);
  await client.close();
  await until(() => server.stats.exports.get('v-db')?.connections === 0);
  t.equal(exports.released, 0);
  waiting.shift()?.();
  await until(() => exports.released === 1);
  t.equal(reads.length, 1);
  t.equal(server.stats.exports.get('v-db')?.inFlight, 0);
});

t.test('a description is told to whoever asks, and its failure keeps nobody out', async (t) => {
  const { port, exports } = await startServer(t, { sizeBytes: mebibyte });
  const target = { host: '127.0.0.1', port, exportName: 'db' };
  t.match(await NbdClient.info(target), {
    name: 'db',
    description: 'memory of 1048576 bytes',
    sizeBytes: mebibyte,
    blockSizes: { minimum: 1, preferred: 4096, maximum: 32 * mebibyte },
  });
  let asked = 0;
  exports.describe = (): Promise<string> => {
    asked += 1;
    return Promise.reject(new StorError('UNAVAILABLE', 'no quorum'));
  };
  await (await NbdClient.connect(target)).disconnect();
  t.equal(asked, 0, 'a connection does not wait for it');
  t.match(await NbdClient.info(target), { name: 'db', description: null });
  const raw = rawClient(t, port);
  await raw.greet();
  const infos = [infoType.description, infoType.name];
  const replies = await raw.option(optionType.go, encodeGoBody({ name: 'db', infos }));
  t.same(
    replies.map(({ type, data }) => [type, type === 1 ? null : data.readUInt16BE(0)]),
    [
      [3, infoType.export],
      [3, infoType.name],
      [1, null],
    ],
  );
  t.equal(asked, 2);
  raw.request({ type: command.flush });
  t.equal(await raw.simple(), 0);
});
