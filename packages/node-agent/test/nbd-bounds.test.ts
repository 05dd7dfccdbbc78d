// Clients that hang half-way: bounded in time and number. Those that only idle are left alone.
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import fc from 'fast-check';
import {
  NbdClient,
  command,
  encodeClientFlags,
  encodeGoBody,
  encodeOption,
  optionType,
} from 'nbd-client-js';
import t, { type Test } from 'tap';
import { defaultNbdLimits } from '../src/core/nbd/nbd-limits.ts';
import { UnfinishedRequest } from '../src/core/nbd/unfinished-request.ts';
import { encodeRequest, rawClient, startServer, until, type RawClient } from './nbd-harness.ts';

const flush = encodeRequest({ type: command.flush });
const write = encodeRequest({ type: command.write, payload: Buffer.alloc(100_000) });

async function served(
  t: Test,
  port: number,
  options: { extended?: boolean } = {},
): Promise<RawClient> {
  const client = rawClient(t, port);
  await client.go('db', options);
  return client;
}

t.test('a request that is begun and not finished ends the connection', async (t) => {
  const begun: Record<string, Buffer> = {
    'a byte of a header': write.subarray(0, 1),
    'a header without its last byte': write.subarray(0, 27),
    'a header of a write': write.subarray(0, 28),
    'a payload without its last byte': write.subarray(0, write.length - 1),
    'a refused payload': encodeRequest({
      type: command.write,
      offset: 2 ** 40,
      payload: Buffer.alloc(100_000),
    }).subarray(0, 50_000),
  };
  for (const [name, bytes] of Object.entries(begun)) {
    const clock = new FakeClock();
    const { port, server, exports } = await startServer(t, { clock });
    const hanging = await served(t, port);
    const idle = await served(t, port);
    hanging.send(flush, bytes);
    t.equal(await hanging.simple(), 0);
    clock.advance(30_000);
    t.equal(server.connectionCount, 2, name);
    await until(() => {
      clock.advance(1_000);
      return server.connectionCount === 1;
    });
    t.equal(server.stats.refused.get('unfinished'), 1);
    // a database may idle
    clock.advance(10 * 86_400_000);
    idle.send(flush);
    t.equal(await idle.simple(), 0);
    t.equal(exports.released, 1);
  }
});

t.test('so does one that comes byte by byte', async (t) => {
  const clock = new FakeClock();
  const { port, server } = await startServer(t, { clock });
  const client = await served(t, port);
  for (let at = 0; !client.ended; at++) {
    client.send(write.subarray(at, at + 1));
    clock.advance(10_000);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  t.equal(server.stats.refused.get('unfinished'), 1);
});

t.test('time in which the server does not read is not the client’s', async (t) => {
  const clock = new FakeClock();
  const { port, server, device } = await startServer(t, { clock, limits: { inFlightRequests: 1 } });
  const held: (() => void)[] = [];
  device.behaviour.delay = (_operation, finish) => held.push(finish);
  const client = await served(t, port);
  client.send(flush, write.subarray(0, 1_000));
  await until(() => held.length === 1);
  for (let minute = 0; minute < 60; minute++) clock.advance(60_000);
  t.equal(server.connectionCount, 1);
  held.pop()?.();
  clock.runTurn();
  t.equal(await client.simple(), 0);
  client.send(write.subarray(1_000));
  await until(() => held.length === 1);
  held.pop()?.();
  clock.runTurn();
  t.equal(await client.simple(), 0);
  t.equal(server.stats.refused.get('unfinished'), 0);
});

t.test('late is who is silent or too slow, as a stupid list of arrivals has it', (t) => {
  const { requestMs, requestBytesPerMs } = defaultNbdLimits;
  const arrival = fc.record({
    afterMs: fc.integer({ min: 0, max: 40_000 }),
    bytes: fc.integer({ min: 1, max: 1 << 22 }),
    kind: fc.constantFrom('more', 'next', 'none'),
  });
  fc.assert(
    fc.property(fc.array(arrival, { maxLength: 40 }), (arrivals) => {
      const tracked = new UnfinishedRequest(defaultNbdLimits);
      const all: { ms: number; bytes: number; kind: string }[] = [];
      let nowMs = 5;
      for (const { afterMs, bytes, kind } of arrivals) {
        nowMs += afterMs;
        all.push({ ms: nowMs, bytes, kind });
        if (kind === 'none') tracked.none();
        else tracked.heard(nowMs, bytes, kind === 'next');
        const since = all.slice(all.findLastIndex((each) => each.kind === 'none') + 1);
        const own = since.slice(
          Math.max(
            0,
            since.findLastIndex((each) => each.kind === 'next'),
          ),
        );
        for (const aheadMs of [0, requestMs - 1, requestMs, 20 * requestMs]) {
          const first = own[0];
          const last = own.at(-1);
          const late =
            first !== undefined &&
            last !== undefined &&
            (nowMs + aheadMs - last.ms >= requestMs ||
              nowMs + aheadMs - first.ms >= requestMs + last.bytes / requestBytesPerMs);
          if (tracked.isLate(nowMs + aheadMs) !== late) return false;
        }
      }
      return true;
    }),
  );
  t.end();
});

t.test('all that clients do not take, or half send, fits into the memory for all', async (t) => {
  const memoryBytes = 8 << 20;
  const { port, server } = await startServer(t, { sizeBytes: 4 << 20, limits: { memoryBytes } });
  const hanging: RawClient[] = [];
  for (let index = 0; index < 24; index++) {
    const client = await served(t, port);
    client.socket.pause();
    const large = { type: command.write, payload: Buffer.alloc(1 << 20) };
    if (index % 2 === 0) client.send(encodeRequest(large).subarray(0, 500_000));
    else
      for (let each = 0; each < 20; each++) client.request({ type: command.read, length: 1 << 20 });
    hanging.push(client);
  }
  const small = await served(t, port);
  for (let round = 0; round < 200; round++) {
    small.request({ type: command.read, length: 64 << 10, cookie: round });
    t.equal(await small.simple(round), 0);
    await small.take(64 << 10);
    if (server.heldBytes > memoryBytes + 25 * (64 << 10)) t.fail(`${server.heldBytes} bytes`);
  }
  t.ok(server.heldBytes > memoryBytes / 2);
  const large = await served(t, port);
  large.request({ type: command.read, length: 4 << 20 });
  // there is room for it when the others have gone
  for (const client of hanging) client.socket.destroy();
  t.equal(await large.simple(), 0);
  await large.take(4 << 20);
  await until(() => server.connectionCount === 2 && server.heldBytes === 0);
});

t.test('with little memory everybody gets his turn, and the right bytes', async (t) => {
  const { port, server } = await startServer(t, { limits: { memoryBytes: 200_000 } });
  const clients = await Promise.all(
    [0, 1, 2, 3, 4, 5].map(() => NbdClient.connect({ host: '127.0.0.1', port, exportName: 'db' })),
  );
  const random = new SeededRandom(5);
  const partBytes = (1 << 20) / clients.length;
  await Promise.all(
    clients.map(async (client, index) => {
      const from = Math.floor(index * partBytes);
      for (let round = 0; round < 30; round++) {
        const parts = Array.from({ length: 8 }, async (_, part) => {
          const length = 1 + Math.floor(random.next() * (partBytes / 8 - 1));
          const bytes = Buffer.from(random.bytes(length));
          const offset = from + Math.floor((part * partBytes) / 8);
          await client.write(offset, bytes);
          if (!(await client.read(offset, length)).equals(bytes))
            t.fail(`other bytes at ${offset}`);
        });
        const whole = client.read(from, Math.floor(partBytes));
        await Promise.all([...parts, whole]);
      }
    }),
  );
  await Promise.all(clients.map((client) => client.disconnect()));
  await until(() => server.connectionCount === 0);
  t.equal(server.heldBytes, 0);
});

t.test('half-open clients keep nobody out', async (t) => {
  for (const limits of [{ connections: 2 }, { connectionsPerPeer: 2 }]) {
    const clock = new FakeClock();
    const { port, server, exports } = await startServer(t, { clock, limits });
    const first = rawClient(t, port);
    await first.take(18);
    clock.advance(10);
    const second = rawClient(t, port);
    await second.take(18);
    // nobody has been waited for long
    t.equal((await rawClient(t, port).rest()).length, 0);
    clock.advance(5_000);
    const third = await served(t, port);
    await first.rest();
    t.equal(server.stats.refused.get('half-open'), 1);
    // of the two that are left one is complete, and the other asks
    let open: () => void = () => {};
    exports.openGate = new Promise((resolve) => (open = resolve));
    second.send(
      encodeClientFlags(3),
      encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [] })),
    );
    await until(() => exports.asked.length === 2);
    clock.advance(5_000);
    t.equal((await rawClient(t, port).rest()).length, 0);
    open();
    third.send(flush);
    t.equal(await third.simple(), 0);
    await second.takeReply();
    t.equal((await second.takeReply()).type, 1);
  }
});
