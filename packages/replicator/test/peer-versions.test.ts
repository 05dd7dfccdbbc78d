// Two nodes whose versions of the peer protocol differ: what they speak, or why they do not.
import { StorError } from '@stor/protocol';
import type { VersionRange } from '@stor/protocol';
import { defaultReceive, silentLogger, type StreamSocket } from '@stor/runtime';
import { FakeClock, MemoryNetwork } from '@stor/runtime/testing';
import t from 'tap';
import { encodeLoose, greetPeer } from '../src/peer/peer-connection.ts';
import type { PeerIdentity } from '../src/peer/peer-connection.ts';
import { Outbox } from '../src/peer/outbox.ts';
import { SecondaryLink } from '../src/secondary/secondary-link.ts';
import type { SecondaryHost } from '../src/secondary/secondary-link.ts';

const target = { host: '10.0.0.2', port: 7 };
const cluster = { clusterId: 'c-1', agentInstance: 'i' };
const one: PeerIdentity = { ...cluster, nodeId: 'n-one' };
const two: PeerIdentity = { ...cluster, nodeId: 'n-two' };

function world() {
  const clock = new FakeClock();
  const network = new MemoryNetwork({ clock });
  const during = async <T>(promise: Promise<T>): Promise<T> => {
    const state = { isDone: false };
    const done = (): void => {
      state.isDone = true;
    };
    promise.then(done, done);
    while (!state.isDone) {
      clock.advance(1);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return promise;
  };
  return { clock, network, during };
}

/** What the primary comes to, and what the secondary says that it speaks. */
async function greet(primary: PeerIdentity, secondary: PeerIdentity) {
  const { clock, network, during } = world();
  const spoken: number[] = [];
  const logger = {
    ...silentLogger,
    debug: (fields: object) => spoken.push((fields as { version: number }).version),
  };
  const outbox = new Outbox(clock);
  const host = { own: secondary, clock, logger, outbox, linkEnded: () => {} };
  const accept = (socket: StreamSocket): void => {
    new SecondaryLink(socket, host as unknown as SecondaryHost);
  };
  await during(network.host('two').listen(target, accept, defaultReceive));
  const socket = await during(network.host('one').connect(target, defaultReceive));
  const version = await during(
    greetPeer(socket, primary, secondary.nodeId, clock).then(
      (greeting): unknown => greeting.version,
      (error: unknown) => error,
    ),
  );
  return { version, spoken };
}

/** A node from before there were ranges: it looks at `version` alone, and says nothing else. */
async function greetOld(primary: PeerIdentity, version: number) {
  const { clock, network, during } = world();
  const heard: { version: number }[] = [];
  const accept = (socket: StreamSocket): void => {
    socket.onData = (bytes, start, end) => {
      heard.push(JSON.parse(bytes.toString('utf8', start + 32, end)) as { version: number });
      socket.write(encodeLoose(1, { version, ...cluster, nodeId: two.nodeId }));
      return end - start;
    };
  };
  await during(network.host('two').listen(target, accept, defaultReceive));
  const socket = await during(network.host('one').connect(target, defaultReceive));
  const greeting = greetPeer(socket, primary, two.nodeId, clock).then(
    (found): unknown => found.version,
    (error: unknown) => error,
  );
  return {
    version: await during(greeting),
    heard: heard[0]?.version,
  };
}

const speaking = (node: PeerIdentity, min: number, max: number): PeerIdentity => {
  const versions: VersionRange = { min, max };
  return { ...node, versions };
};

t.test('both sides speak the highest version that they have in common', async (t) => {
  for (const [a, b, common] of [
    [speaking(one, 4, 4), speaking(two, 4, 4), 4],
    [speaking(one, 4, 5), speaking(two, 4, 4), 4],
    [speaking(one, 4, 4), speaking(two, 4, 5), 4],
    [speaking(one, 4, 6), speaking(two, 5, 7), 6],
    [speaking(one, 5, 7), speaking(two, 4, 6), 6],
  ] as const) {
    const { version, spoken } = await greet(a, b);
    t.same([version, spoken], [common, [common]], `${String(common)} of both`);
  }
});

t.test('without one in common both are named, and who is to be upgraded', async (t) => {
  const older = await greet(speaking(one, 4, 4), speaking(two, 5, 6));
  t.match(older.version, { code: 'PROTOCOL', message: /n-one.*version 4.*upgrade node n-one/ });
  const newer = await greet(speaking(one, 5, 6), speaking(two, 4, 4));
  t.match(newer.version, { code: 'PROTOCOL', message: /n-two.*upgrade node n-two/ });
  t.ok(newer.version instanceof StorError);
  t.same([older.spoken, newer.spoken], [[], []]);
});

t.test('a node that knows no ranges is spoken to in its version, or told why not', async (t) => {
  t.same(await greetOld(one, 4), { version: 4, heard: 4 });
  t.same(await greetOld(speaking(one, 3, 6), 4), { version: 4, heard: 4 });
  const refused = await greetOld(speaking(one, 5, 6), 4);
  t.match(refused.version, { code: 'PROTOCOL', message: /upgrade node n-two/ });
});
