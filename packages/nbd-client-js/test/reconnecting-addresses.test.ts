import t from 'tap';
import { ReconnectingNbdClient } from '../src/index.ts';
import type { ReconnectingOptions } from '../src/index.ts';
import { startServers } from './support/fake-nbd-server.ts';
import type { FakeNbdServer } from './support/fake-nbd-server.ts';
import { PacedClock } from './support/paced-clock.ts';

const block = Buffer.alloc(512, 1);
const uri = ({ port }: FakeNbdServer): string => `nbd://127.0.0.1:${port}/db`;

function connect(
  servers: readonly FakeNbdServer[],
  options: Partial<ReconnectingOptions> = {},
): Promise<ReconnectingNbdClient> {
  return ReconnectingNbdClient.connect({
    addresses: servers.map(uri),
    backoffMinMs: 1,
    backoffMaxMs: 5,
    clock: new PacedClock(),
    ...options,
  });
}

t.test(
  'new addresses are asked when the connection is lost, and the old ones no more',
  async (t) => {
    const { servers, disk } = await startServers(t, 3);
    const [a, b, c] = servers as [FakeNbdServer, FakeNbdServer, FakeNbdServer];
    const client = await connect([a, b]);
    t.teardown(() => client.close());
    client.setAddresses([uri(c)]);
    await client.write(0, block);
    t.equal(client.address, `127.0.0.1:${a.port}`, 'a connection that there is stays');
    a.drop();
    await client.write(512, block);
    t.equal(client.address, `127.0.0.1:${c.port}`);
    t.strictSame([a.accepted, b.accepted, disk.bytes[512]], [1, 0, 1]);
  },
);

t.test('requests that wait for nobody go on when new addresses come', async (t) => {
  const { servers } = await startServers(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  const client = await connect([a]);
  t.teardown(() => client.close());
  a.meeting = 'policy';
  const asked = a.accepted;
  a.drop();
  const written = client.write(0, block);
  await a.until(() => a.accepted > asked + 2);
  client.setAddresses([uri(b)]);
  await written;
  t.equal(client.address, `127.0.0.1:${b.port}`);
});

t.test('the one that has the connection is asked first wherever it is in the list', async (t) => {
  const { servers } = await startServers(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  const client = await connect([a]);
  t.teardown(() => client.close());
  client.setAddresses([uri(b), uri(a)]);
  a.drop();
  await client.write(0, block);
  t.strictSame([a.granted, b.accepted], [2, 0]);
});

t.test('addresses that are none, or of another export, are refused', async (t) => {
  const { servers } = await startServers(t, 1);
  const client = await connect(servers);
  t.teardown(() => client.close());
  t.throws(() => client.setAddresses([]), { code: 'INVALID_ARGUMENT' });
  t.throws(() => client.setAddresses(['http://x/db']), { code: 'INVALID_ARGUMENT' });
  await client.write(0, block);
});

t.test('a refusal that is final ends everything, whoever else may be asked', async (t) => {
  const { servers } = await startServers(t, 2);
  const [a, b] = servers as [FakeNbdServer, FakeNbdServer];
  const isFinal = ({ message }: Error): boolean => message.includes('policy says');
  const client = await connect([a, b], { isFinal });
  t.teardown(() => client.close());
  a.meeting = 'policy';
  b.meeting = 'silent';
  a.drop();
  const refused = { code: 'REFUSED', message: /policy says/ };
  await t.rejects(client.write(0, block), refused);
  await t.rejects(client.flush(), refused);
  t.equal(b.accepted, 0);
});

t.test('an idle client knows that its connection is gone', async (t) => {
  const { servers } = await startServers(t, 1);
  const [server] = servers as [FakeNbdServer];
  const client = await connect(servers);
  t.teardown(() => client.close());
  t.equal(client.address, `127.0.0.1:${server.port}`);
  server.drop();
  while (client.address !== null) await new Promise((resolve) => setImmediate(resolve));
  await client.write(0, block);
  t.equal(client.address, `127.0.0.1:${server.port}`);
});

t.test('who comes while a search goes on waits as long as anybody', async (t) => {
  const { servers } = await startServers(t, 1);
  const [server] = servers as [FakeNbdServer];
  const clock = new PacedClock();
  const giveUpMs = 100;
  const client = await connect(servers, { clock, giveUpMs });
  t.teardown(() => client.close());
  server.meeting = 'policy';
  server.drop();
  const stop = new AbortController();
  const first = client.write(0, block, { signal: stop.signal });
  const startMs = clock.monotonicMs();
  const passed = (ms: number): Promise<void> =>
    new Promise((resolve) => clock.after(startMs + ms - clock.monotonicMs(), resolve));
  await passed(20);
  stop.abort();
  await t.rejects(first, { code: 'ABORTED' });
  await passed(70);
  const beganMs = clock.monotonicMs();
  await t.rejects(client.write(0, block), { code: 'DISCONNECTED' });
  t.ok(clock.monotonicMs() - beganMs >= giveUpMs);
});
