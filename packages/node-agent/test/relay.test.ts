import t from 'tap';
import { StorError } from '@stor/protocol';
import { systemNetwork } from '@stor/runtime';
import { NbdClient, NbdError, ReconnectingNbdClient, type NbdNetwork } from 'nbd-client-js';
import { BlockLoad, blockBytes } from './block-load.ts';
import { ExportCluster, turn, type ExportNode } from './export-cluster.ts';
import { RawClient, encodeRequest, until } from './nbd-harness.ts';

/** Moves the primary around while the load goes on. */
async function moveAround(cluster: ExportCluster, load: BlockLoad, moves: number): Promise<void> {
  for (let move = 0; move < moves; move++) {
    const before = load.done;
    await until(() => load.done > before + 20);
    const others = cluster.nodes.filter((node) => node !== cluster.holder?.node);
    await cluster.movePrimary(others[move % others.length] as ExportNode);
  }
  const before = load.done;
  await until(() => load.done > before + 20);
}

t.test('the primary moves around under load; its clients see no error', async (t) => {
  const cluster = await ExportCluster.start(t, 3);
  // plain clients: a connection that closes, or one error, fails the test
  const client = await cluster.node(1).client(t);
  const load = new BlockLoad(client, 0, 64, Math.random);
  const running = load.run(16);
  await Promise.race([running, moveAround(cluster, load, 12)]);
  load.stop();
  await running;
  await load.check();
  t.equal(cluster.epoch, 13, 'each move is one epoch');
  t.equal(
    cluster.released.every(({ clean }) => clean),
    true,
  );
  t.ok(cluster.nodes[0]!.exports.relayStats.writtenBytes > 0, 'some of it went over a relay');
});

t.test('held requests keep their order and payload, and a FLUSH waits too', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  const client = await cluster.node(1).client(t);
  cluster.failing.add(cluster.node(2));
  const { holder } = cluster;
  await cluster.node(1).exports.handOver('v-1', holder?.epoch ?? 0);
  const order: string[] = [];
  const asked = [
    client.write(0, Buffer.alloc(8192, 1)).then(() => order.push('first')),
    client.write(4096, Buffer.alloc(4096, 2)).then(() => order.push('second')),
    client.flush().then(() => order.push('flush')),
    client.blockStatus(0, 8192).then(() => order.push('status')),
  ];
  await turn();
  t.same(order, [], 'nobody is primary');
  cluster.failing.clear();
  await cluster.node(2).exports.attach(cluster.grant(cluster.node(2), 'auto'));
  await Promise.all(asked);
  t.equal(order.indexOf('first') < order.indexOf('second'), true);
  const bytes = await client.read(0, 8192);
  t.same([bytes[0], bytes[4095], bytes[4096], bytes[8191]], [1, 1, 2, 2]);
  t.equal(cluster.node(1).exports.relayStats.connections, 1);
});

t.test('a target that does not come up: the old node takes the volume back', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  const client = await cluster.node(1).client(t);
  await client.write(0, Buffer.alloc(4096, 7));
  cluster.failing.add(cluster.node(2));
  await cluster.node(1).exports.handOver('v-1', 1);
  await t.rejects(
    cluster.node(2).exports.attach(cluster.grant(cluster.node(2), 'auto')),
    'the target fails',
  );
  const read = await client.read(0, 4096);
  t.equal(read[0], 7);
  t.equal(cluster.holder?.node, cluster.node(1));
});

t.test('requests that are not answered in time keep the volume where it is', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  const client = await cluster.node(1).client(t);
  let open = (): void => {};
  cluster.primary.gate = new Promise((resolve) => {
    open = resolve;
  });
  const write = client.write(0, Buffer.alloc(4096, 1));
  await until(() => cluster.primary.inFlight === 1);
  const moved = cluster.node(1).exports.handOver('v-1', 1);
  const later = client.write(8192, Buffer.alloc(4096, 2));
  await t.rejects(moved, { code: 'UNAVAILABLE' });
  open();
  await Promise.all([write, later]);
  t.equal(cluster.epoch, 1);
  t.same(cluster.released, []);
  await cluster.movePrimary(cluster.node(2));
  t.equal((await client.read(0, 4096))[0], 1, 'a later one succeeds');
});

t.test('two handovers at once are one; of another epoch it is none', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  await cluster.node(1).client(t);
  const { exports } = cluster.node(1);
  t.equal(await exports.handOver('v-1', 7), 'gone');
  t.same(await Promise.all([exports.handOver('v-1', 1), exports.handOver('v-1', 1)]), [
    'released',
    'released',
  ]);
  t.same(cluster.released, [{ epoch: 1, clean: true }]);
  t.equal(await exports.handOver('v-1', 1), 'gone');
});

t.test('a detach during a handover ends it and its connections', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  const client = await cluster.node(1).client(t);
  let open = (): void => {};
  cluster.primary.gate = new Promise((resolve) => {
    open = resolve;
  });
  const write = client.write(0, Buffer.alloc(4096, 1));
  await until(() => cluster.primary.inFlight === 1);
  const moved = cluster.node(1).exports.handOver('v-1', 1);
  const held = client.write(0, Buffer.alloc(4096, 2));
  held.catch(() => {});
  await turn();
  const detached = cluster.node(1).exports.detach('v-1', 1, false);
  open();
  t.equal(await detached, 'released');
  await moved;
  await write;
  await t.rejects(held, NbdError);
  await client.closed;
  t.same(cluster.released, [{ epoch: 1, clean: true }]);
});

t.test('a node that stops during a handover gives the volume back once', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  const client = await cluster.node(1).client(t);
  const moved = cluster.node(1).exports.handOver('v-1', 1);
  await cluster.node(1).close();
  await moved.catch(() => {});
  await client.closed;
  t.same(
    cluster.released.filter(({ epoch }) => epoch === 1),
    [{ epoch: 1, clean: true }],
  );
});

t.test('shared: clients of several nodes see each other', async (t) => {
  const cluster = await ExportCluster.start(t, 3);
  const first = await cluster.node(1).client(t);
  await t.rejects(cluster.node(2).client(t), { code: 'REFUSED' }, 'not without being shared');
  cluster.shared = true;
  const others = [await cluster.node(2).client(t), await cluster.node(3).client(t)];
  const all = [first, ...others];
  for (const [at, client] of all.entries()) {
    await client.write(0, Buffer.alloc(4096, at + 1));
    for (const reader of all) t.equal((await reader.read(0, 4096))[0], at + 1);
  }
  t.equal(cluster.epoch, 1);
  t.equal(cluster.node(1).exports.liveVolumes()[0]?.connections, 3, 'relays count as clients');
  await others[0]?.disconnect();
  await until(() => cluster.node(1).exports.liveVolumes()[0]?.connections === 2);
  // unaligned, large, zeroes, trim and FUA go the same way
  const third = others[1]!;
  const large = Buffer.alloc(300_001, 9);
  await third.write(4097, large, { fua: true });
  t.same(await first.read(4097, large.length), large);
  t.equal(cluster.memory.fuaCalls, 1);
  await third.writeZeroes(5000, 10_000, { noHole: true });
  await third.trim(200_704, 65_536);
  t.equal(cluster.memory.noHoleCalls, 1);
  t.same(await first.read(5000, 10_000), Buffer.alloc(10_000));
  t.same(
    (await third.blockStatus(0, 1 << 20)).map(({ offset, length, hole }) => [offset, length, hole]),
    (await first.blockStatus(0, 1 << 20)).map(({ offset, length, hole }) => [offset, length, hole]),
  );
});

t.test('shared: the primary moves under two clients, and both go on', async (t) => {
  const cluster = await ExportCluster.start(t, 3);
  cluster.shared = true;
  const loads = [
    new BlockLoad(await cluster.node(1).client(t), 0, 32, Math.random),
    new BlockLoad(await cluster.node(2).client(t), 32, 32, Math.random),
  ];
  const running = loads.map((load) => load.run(8));
  await Promise.race([...running, moveAround(cluster, loads[1]!, 8)]);
  for (const load of loads) load.stop();
  await Promise.all(running);
  for (const load of loads) await load.check();
});

t.test('shared: the primary is killed; the other node takes over and sends again', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  const local = await cluster.node(1).client(t);
  const client = await cluster.node(2).client(t);
  const load = new BlockLoad(client, 0, 64, Math.random);
  const running = load.run(16);
  await until(() => load.done > 50);
  await cluster.node(1).kill(cluster);
  await local.closed;
  const before = load.done;
  await until(() => load.done > before + 50);
  load.stop();
  await running;
  await load.check();
  t.equal(cluster.holder?.node, cluster.node(2));
});

t.test('an error of the primary reaches the client with its number', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  await cluster.node(1).client(t);
  const client = await cluster.node(2).client(t);
  for (const [code, errno] of [
    ['NO_SPACE', 28],
    ['DISK_FAILED', 5],
  ] as const) {
    cluster.memory.behaviour.fail = () => new StorError(code, 'as the test wants it');
    await t.rejects(client.write(0, Buffer.alloc(4096)), { code: 'IO', errno });
  }
  cluster.memory.behaviour.fail = null;
  await client.write(0, Buffer.alloc(4096));
});

t.test('a detach by order ends relayed connections; they do not attach again', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  await cluster.node(1).client(t);
  const client = await cluster.node(2).client(t);
  t.equal(await cluster.node(1).exports.detach('v-1', 1, false), 'released');
  await client.closed;
  t.equal(cluster.holder, null);
  t.equal(cluster.epoch, 1);
});

t.test('after a detach by order new clients attach, also over a relay', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  const old = await cluster.node(1).client(t);
  await cluster.node(1).exports.detach('v-1', 1, false);
  await old.closed;
  const elsewhere = await cluster.node(2).client(t);
  const client = await cluster.node(1).client(t);
  await client.write(0, Buffer.alloc(4096, 5));
  t.equal((await elsewhere.read(0, 4096))[0], 5);
});

t.test('a target that fails while connections wait for it ends none of them', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  const clients = [await cluster.node(1).client(t), await cluster.node(1).client(t)];
  cluster.failing.add(cluster.node(1)).add(cluster.node(2));
  await cluster.node(1).exports.handOver('v-1', 1);
  const writes = clients.map((client) => client.write(0, Buffer.alloc(4096, 1)));
  // nobody can take it for a while, this node included
  await until(() => cluster.epoch > 3);
  cluster.failing.clear();
  await Promise.all(writes);
});

t.test('shared: what a relay keeps is not done once others have published it', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  await cluster.node(1).client(t);
  const client = await cluster.node(2).client(t);
  t.equal(cluster.node(2).exports.relayStats.connections, 1);
  let isClosed = false;
  void client.closed.then(() => (isClosed = true));
  const { holder } = cluster;
  cluster.published = { resourceVersion: 2, publications: [{ id: 'u-1', readOnly: false }] };
  cluster.infoCalls = 0;
  const settings = cluster.grant(cluster.node(1), 'auto');
  cluster.holder = holder;
  cluster.node(1).exports.updateVolume({ ...settings, epoch: holder?.epoch ?? 0 });
  const late = client.write(0, Buffer.alloc(4096, 9)).then(
    () => 'done',
    () => 'refused',
  );
  // it is refused once, and would be served at some later time if it asked again
  await until(() => isClosed || cluster.infoCalls > 1);
  t.equal(isClosed, true);
  client.close().catch(() => {});
  t.equal(await late, 'refused');
});

t.test('a relay is not relayed on', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  await cluster.node(1).client(t);
  const direct = (node: ExportNode): Promise<NbdClient> =>
    NbdClient.connect({ host: '127.0.0.1', port: node.port, exportName: 'primary:db' });
  await t.rejects(direct(cluster.node(2)), { code: 'REFUSED' });
  const client = await direct(cluster.node(1));
  await client.write(0, Buffer.alloc(4096));
  await client.close();
});

t.test('nothing of a connection that is gone is done later', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  const client = await cluster.node(1).client(t);
  cluster.failing.add(cluster.node(1)).add(cluster.node(2));
  await cluster.node(1).exports.handOver('v-1', 1);
  const held = client.write(0, Buffer.alloc(4096, 1));
  held.catch(() => {});
  await until(() => cluster.node(1).server.stats.exports.get('v-1')?.inFlight === 1);
  await client.close();
  await until(() => cluster.node(1).server.connectionCount === 0);
  cluster.failing.clear();
  const next = await cluster.node(2).client(t);
  await next.write(4096, Buffer.alloc(4096, 2));
  t.equal((await next.read(0, 4096))[0], 0, 'the held write was dropped');
});

t.test('a newer connection of a client ends its older one, on any node', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  const identity = (sequence: string) => ({ metaContexts: [`x-client:c1:${sequence}`] });
  const at = (node: number, sequence: string): Promise<NbdClient> =>
    NbdClient.connect({
      uri: `nbd://127.0.0.1:${cluster.node(node).port}/db`,
      ...identity(sequence),
    });
  const old = await at(1, '1');
  const relayed = await at(2, '2');
  await old.closed;
  await relayed.write(0, Buffer.alloc(4096, 1));
  await t.rejects(at(1, '1'), { code: 'REFUSED' }, 'an older one that comes late is refused');
  const newest = await at(1, '3');
  await relayed.closed;
  t.equal((await newest.read(0, 4096))[0], 1);
  await newest.close();
});

t.test('what an old connection sent and nobody read is never done', async (t) => {
  const cluster = await ExportCluster.start(t, 1);
  const connect = (sequence: string, maxInFlight: number): Promise<NbdClient> =>
    NbdClient.connect({
      uri: `nbd://127.0.0.1:${cluster.node(1).port}/db`,
      metaContexts: [`x-client:c1:${sequence}`],
      maxInFlight,
    });
  // as one that was cut without a word: its socket stays open
  const old = await connect('1', 1_000);
  t.teardown(() => old.close());
  let open = (): void => {};
  cluster.primary.gate = new Promise((resolve) => {
    open = resolve;
  });
  const block = (at: number): number => (at % 250) * 4096;
  const writes = Array.from({ length: 300 }, (_, at) =>
    old.write(block(at), Buffer.alloc(4096, 1)),
  );
  for (const write of writes) write.catch(() => {});
  // no more than a connection may have in flight, so the server has stopped reading
  await until(() => cluster.primary.inFlight === 256);
  const client = await connect('2', 64);
  t.teardown(() => client.close());
  // sent again, as the client does it, and then overwritten
  const again = writes.map((_, at) => client.write(block(at), Buffer.alloc(4096, 1)));
  open();
  await Promise.all(again);
  await Promise.all(writes.map((_, at) => client.write(block(at), Buffer.alloc(4096, 2))));
  await until(() => cluster.primary.inFlight === 0);
  await old.closed;
  const found = await client.read(0, 250 * 4096);
  t.ok(
    found.every((byte) => byte === 2),
    'nothing old came over something new',
  );
});

t.test('a reconnecting client counts its connections', async (t) => {
  const cluster = await ExportCluster.start(t, 1);
  const said: string[] = [];
  const spying: NbdNetwork = {
    connect: async (target, options) => {
      const socket = await systemNetwork.connect(target, options);
      const write = socket.write.bind(socket);
      socket.write = (bytes) => {
        const text = Buffer.from(bytes).toString('latin1');
        said.push(...[...text.matchAll(/x-client:([0-9a-f]{32}):([0-9.]+)$/g)].map(([all]) => all));
        write(bytes);
      };
      return socket;
    },
  };
  const client = await ReconnectingNbdClient.connect({
    addresses: [`nbd://127.0.0.1:${cluster.node(1).port}/db`],
    network: spying,
  });
  t.teardown(() => client.close());
  await client.write(0, Buffer.alloc(4096, 1));
  await cluster.node(1).exports.detach('v-1', 1, false);
  await client.write(0, Buffer.alloc(4096, 2));
  t.equal(said.length, 2);
  t.match(said[0], /:1$/);
  t.match(said[1], /:2$/);
  t.equal(said[0]?.slice(0, -1), said[1]?.slice(0, -1), 'the same client');
});

t.test('negative control: the load notices a write that comes twice', async (t) => {
  const cluster = await ExportCluster.start(t, 1);
  const client = await cluster.node(1).client(t);
  const load = new BlockLoad(client, 0, 1, Math.random);
  const running = load.run(1);
  await until(() => load.done > 20);
  load.stop();
  await running;
  await load.check();
  const stale = Buffer.alloc(blockBytes);
  stale.writeUInt32BE(1, 0);
  const other = await cluster.node(1).client(t);
  await other.write(0, stale);
  await t.rejects(load.check(), { message: /^block 0 is 1/ });
});

t.test('a raw client that leaves without a word while it is relayed', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  await cluster.node(1).client(t);
  const raw = new RawClient({ host: '127.0.0.1', port: cluster.node(2).port });
  await raw.go('db');
  raw.send(encodeRequest({ type: 1, payload: Buffer.alloc(4096, 3) }));
  raw.socket.destroy();
  await until(() => cluster.node(2).exports.relayStats.connections === 0);
  await until(() => cluster.node(1).exports.liveVolumes()[0]?.connections === 1);
  await until(() => cluster.node(2).server.connectionCount === 0);
});

t.test('changes since a snapshot are told on any node, also while the primary moves', async (t) => {
  const cluster = await ExportCluster.start(t, 2);
  cluster.shared = true;
  const monday = 'stor:dirty-since-monday';
  const connect = (node: number): Promise<NbdClient> =>
    NbdClient.connect({
      host: '127.0.0.1',
      port: cluster.node(node).port,
      exportName: 'db',
      metaContexts: ['base:allocation', monday, 'stor:dirty-since-never'],
    });
  const clients = [await connect(1), await connect(2)];
  t.teardown(() => Promise.all(clients.map((client) => client.close())));
  t.equal(cluster.node(2).exports.relayStats.connections, 1);
  const half = cluster.memory.sizeBytes / 2;
  const check = async (client: NbdClient): Promise<void> => {
    t.same(client.metaContexts, ['base:allocation', monday]);
    const extents = await client.blockStatus(4096, 2 * half - 4096, { context: monday });
    const found = extents.map(({ offset, length, flags }) => [offset, length, flags]);
    t.same(found, [
      [4096, half - 4096, 1],
      [half, half, 0],
    ]);
  };
  for (const client of clients) await check(client);
  // nobody is primary for a while: the question waits
  cluster.failing.add(cluster.node(2));
  await cluster.node(1).exports.handOver('v-1', cluster.epoch);
  const asked = clients.map(check);
  for (let i = 0; i < 20; i++) await turn();
  cluster.failing.clear();
  await cluster.node(2).exports.attach(cluster.grant(cluster.node(2), 'auto'));
  await Promise.all(asked);
});
