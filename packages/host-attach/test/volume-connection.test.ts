import { publicationEndedMessage } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock } from '@stor/runtime/testing';
import { command } from 'nbd-client-js';
import t, { type Test } from 'tap';
import { VolumeConnection } from '../src/device/volume-connection.ts';
import { MiniNbdServer } from './support/mini-nbd-server.ts';

const { signal } = new AbortController();
const sizeBytes = 1024 * 1024;
const exportName = 'published:p-1:db';

interface Setup {
  server: MiniNbdServer;
  clock: FakeClock;
  open: () => Promise<VolumeConnection>;
}

async function setUp(t: Test, readOnly = false): Promise<Setup> {
  const server = await MiniNbdServer.start(t);
  const clock = new FakeClock();
  const host = { clock, logger: silentLogger, limits: { backoffMinMs: 1, backoffMaxMs: 5 } };
  const open = async (): Promise<VolumeConnection> => {
    const spec = { exportName, addresses: [server.address], readOnly, sizeBytes };
    const volume = await VolumeConnection.open(spec, host, signal);
    t.teardown(() => volume.close());
    return volume;
  };
  return { server, clock, open };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

t.test('what is larger than the server takes goes in pieces', async (t) => {
  const { server, open } = await setUp(t);
  server.maxBytes = 64 * 1024;
  const volume = await open();
  const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, n) => n % 251));
  await volume.write(4096, bytes);
  t.ok(server.bytes.subarray(4096, 4096 + bytes.length).equals(bytes));
  t.strictSame(
    server.seen.map(({ length }) => length),
    [65536, 65536, 65536, 200_000 - 3 * 65536],
  );
  const back = Buffer.alloc(bytes.length);
  await volume.read(4096, back);
  t.ok(back.equals(bytes));
  await volume.zero(8192, 100, { keepAllocated: false });
  t.equal(server.bytes[8192], 0);
  await volume.flush();
  t.equal(server.seen.at(-1)?.type, command.flush);
});

t.test('a volume that grows goes on; what was under way is answered', async (t) => {
  const { server, open } = await setUp(t);
  const volume = await open();
  await t.rejects(volume.grow(2 * sizeBytes, signal), { code: 'UNAVAILABLE' });
  let answer: () => void = () => {};
  server.gate = new Promise((resolve) => (answer = resolve));
  const written = volume.write(0, Buffer.alloc(4096, 7));
  await until(() => server.seen.length === 1);
  server.sizeBytes = 2 * sizeBytes;
  await volume.grow(2 * sizeBytes, signal);
  t.equal(server.connections, 2);
  const behind = volume.write(2 * sizeBytes - 4096, Buffer.alloc(4096, 8));
  answer();
  await Promise.all([written, behind]);
  t.strictSame([server.bytes[0], server.bytes[2 * sizeBytes - 1]], [7, 8]);
  await until(() => server.connections === 1);
  t.equal(volume.failure, null);
  await volume.leave();
  await volume.leave();
  t.equal(server.seen.at(-1)?.type, command.flush);
});

t.test('the end at once is also that of what is under way from before it has grown', async (t) => {
  const { server, open } = await setUp(t);
  const volume = await open();
  server.gate = new Promise(() => {});
  const written = volume.write(0, Buffer.alloc(4096, 7));
  await until(() => server.seen.length === 1);
  server.sizeBytes = 2 * sizeBytes;
  await volume.grow(2 * sizeBytes, signal);
  const refused = t.rejects(written, { code: 'DISCONNECTED' });
  await volume.close();
  await refused;
  await until(() => server.connections === 0);
});

t.test('a volume that does not fit the device is refused', async (t) => {
  const { server, open } = await setUp(t);
  server.sizeBytes = sizeBytes - 4096;
  await t.rejects(open(), { code: 'FAILED_PRECONDITION', message: /less than/ });
  server.sizeBytes = sizeBytes;
  server.flags |= 2;
  await t.rejects(open(), { code: 'FAILED_PRECONDITION', message: /only be read/ });
  server.refusal = 'attached elsewhere';
  await t.rejects(open(), { code: 'FAILED_PRECONDITION', message: /attached elsewhere/ });
  await until(() => server.connections === 0);
});

t.test('an idle device keeps its connection, and learns that its right has ended', async (t) => {
  const { server, clock, open } = await setUp(t);
  const volume = await open();
  server.drop();
  await until(() => volume.address === null);
  clock.advance(10_000);
  await until(() => server.seen.length === 1);
  t.match(server.seen, [{ type: command.read, length: 1 }]);
  t.type(volume.address, 'string');
  t.equal(volume.failure, null);

  server.refusal = `volume db cannot be attached now`;
  server.drop();
  await until(() => volume.address === null);
  server.refusal = publicationEndedMessage('p-1', 'db');
  await until(() => {
    clock.advance(1_000);
    return volume.failure !== null;
  });
  t.match(volume.failure, /is not published as p-1 any more/);
  await t.rejects(volume.write(0, Buffer.alloc(1)), { code: 'REFUSED' });
});
