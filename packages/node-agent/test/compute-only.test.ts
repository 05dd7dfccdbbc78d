// A node without any disk: it serves volumes whose replicas are all on other nodes.
import { loadServices, type ApiClient } from '@stor/protocol';
import type { NbdClient } from 'nbd-client-js';
import t, { type Test } from 'tap';
import { ThreadCluster } from './thread-cluster.ts';

const MiB = 1024 * 1024;
const sizeBytes = 16 * MiB;
const block = (value: number): Buffer => Buffer.alloc(4096, value);

interface World {
  cluster: ThreadCluster;
  api: ApiClient;
  run: <T>(promise: Promise<T>) => Promise<T>;
}

/** n1 and n2 have a disk each, n3 has none. */
async function prepare(t: Test): Promise<World> {
  const cluster = new ThreadCluster(11, await loadServices(), { computeOnly: [2] });
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  const run = <T>(promise: Promise<T>): Promise<T> => cluster.during(promise);
  await cluster.until(async () => {
    const { nodes } = await run(api.listNodes({}));
    const { disks } = await run(api.listDisks({}));
    return disks.length === 2 && nodes.length === 3;
  });
  t.teardown(async () => {
    await run(api.close());
    await cluster.close();
  });
  return { cluster, api, run };
}

async function primaryOf({ api, run }: World, name: string): Promise<string | undefined> {
  return (await run(api.getVolume({ name }))).status.primary?.node;
}

async function until(world: World, name: string, health: string): Promise<void> {
  await world.cluster.until(async () => {
    const volume = await world.run(world.api.getVolume({ name }).catch(() => null));
    return volume?.status.health === health;
  });
}

async function reads(world: World, client: NbdClient, offset: number): Promise<number | undefined> {
  return (await world.run(client.read(offset, 4096)))[0];
}

t.test('a node without disks is seen as such and takes no replica', async (t) => {
  const world = await prepare(t);
  const { api, run, cluster } = world;
  const { nodes } = await run(api.listNodes({}));
  t.same(
    nodes.map(({ status }) => status.computeOnly),
    [false, false, true],
  );
  const asked = { name: 'db', sizeBytes, replicas: 0, labels: {} };
  const made = await run(api.createVolume(asked));
  t.equal(made.spec.replicas, 2, 'the usual number counts nodes that can hold one');
  t.same(made.status.replicas.map(({ node }) => node).sort(), ['n1', 'n2']);
  await t.rejects(run(api.createVolume({ ...asked, name: 'three', replicas: 3 })), {
    code: 'FAILED_PRECONDITION',
    message: /n3 has no disk/,
  });
  await run(api.addDisk({ node: 'n3', path: '/more', tag: '' }));
  t.notOk((await run(api.getNode({ name: 'n3' }))).status.computeOnly, 'until it gets one');
  await run(api.updateVolume({ name: 'db', replicas: 3 }));
  await cluster.until(async () => {
    const { status } = await run(api.getVolume({ name: 'db' }));
    return status.health === 'healthy' && status.replicas.length === 3;
  });
});

t.test('a volume attached there is written, snapshotted, cloned, grown, rolled back', async (t) => {
  const world = await prepare(t);
  const { api, run, cluster } = world;
  await run(api.createVolume({ name: 'db', sizeBytes, replicas: 2, labels: {} }));
  await run(api.attachVolume({ name: 'db', node: 'n3' }));
  t.equal(await primaryOf(world, 'db'), 'n3');
  const client = await cluster.connect(cluster.node(2), 'db');
  await run(client.write(0, block(1), { fua: true }));
  t.equal(await reads(world, client, 0), 1);
  await run(api.createSnapshot({ volume: 'db', selector: {}, name: 'one', labels: {} }));
  await run(client.write(0, block(2)));
  await run(client.write(4 * MiB, block(3)));
  await run(client.flush());
  const diff = await run(api.diffSnapshots({ volume: 'db', from: 'one', to: '' }));
  t.same(
    diff.extents.map(({ offset }) => offset),
    [0, 4 * MiB],
  );
  const cloned = { source: 'db', snapshot: 'one', name: 'copy', sizeBytes: 0, labels: {} };
  await run(api.cloneVolume(cloned));
  const copy = await cluster.connect(cluster.node(2), 'copy');
  t.equal(await reads(world, copy, 0), 1, 'a clone is served there too');
  t.equal(await primaryOf(world, 'copy'), 'n3');
  await run(copy.disconnect());
  const frozen = await cluster.connect(cluster.node(2), 'db@one');
  t.equal(await reads(world, frozen, 0), 1, 'and a snapshot');
  await run(frozen.disconnect());
  await run(api.resizeVolume({ name: 'db', sizeBytes: 2 * sizeBytes }));
  await run(client.disconnect());
  const grown = await cluster.connect(cluster.node(2), 'db');
  await run(grown.write(sizeBytes + MiB, block(4)));
  t.equal(await reads(world, grown, sizeBytes + MiB), 4);
  await run(grown.disconnect());
  await cluster.until(async () => {
    const order = { name: 'db', snapshot: 'one', force: false, safetySnapshot: false };
    return run(
      api.rollbackVolume(order).then(
        () => true,
        () => false,
      ),
    );
  });
  const back = await cluster.connect(cluster.node(2), 'db');
  t.equal(await reads(world, back, 0), 1, 'rolled back through it');
  t.equal(await reads(world, back, 4 * MiB), 0);
  await run(back.disconnect());
  await run(api.deleteSnapshot({ name: 'db@one' }));
  await run(api.detachVolume({ name: 'db' }));
  t.equal(await primaryOf(world, 'db'), undefined);
});

t.test('replicas come and go under a primary without disks, and it fails over', async (t) => {
  const world = await prepare(t);
  const { api, run, cluster } = world;
  const policy = { failureMode: 'alwayson', shared: true } as const;
  await run(api.createVolume({ name: 'db', sizeBytes, replicas: 2, labels: {}, policy }));
  const client = await cluster.connect(cluster.node(2), 'db');
  t.equal(await primaryOf(world, 'db'), 'n3', 'the node that is connected to becomes the primary');
  await run(client.write(0, block(1)));
  cluster.kill(cluster.node(0));
  await run(client.write(4 * MiB, block(2)));
  t.equal(await reads(world, client, 0), 1);
  await cluster.start(cluster.node(0));
  await until(world, 'db', 'healthy');
  cluster.kill(cluster.node(1));
  t.equal(await reads(world, client, 4 * MiB), 2, 'the one that was filled serves it');
  await run(client.write(0, block(3), { fua: true }));
  await cluster.start(cluster.node(1));
  await until(world, 'db', 'healthy');

  // away from it by order and back, under the open connection
  await run(api.movePrimary({ name: 'db', node: 'n1' }));
  t.equal(await reads(world, client, 0), 3);
  await run(api.movePrimary({ name: 'db', node: 'n3' }));
  await run(client.write(8 * MiB, block(4)));
  t.equal(await primaryOf(world, 'db'), 'n3');

  // it dies with writes that were acknowledged and not flushed
  const lost = client.write(8 * MiB, block(5)).catch(() => null);
  cluster.kill(cluster.node(2));
  await run(lost);
  const second = await cluster.connect(cluster.node(0), 'db');
  t.match(await reads(world, second, 8 * MiB), /^[45]$/, 'an unanswered write may be in or not');
  await run(second.write(8 * MiB, block(6)));
  await run(second.disconnect());
  await cluster.start(cluster.node(2));
  cluster.kill(cluster.node(0));
  const third = await cluster.connect(cluster.node(2), 'db');
  t.equal(await reads(world, third, 8 * MiB), 6, 'and takes over from a node with a replica');
  t.equal(await reads(world, third, 0), 3);
  await run(third.disconnect());
  await cluster.start(cluster.node(0));
  await until(world, 'db', 'healthy');
  t.equal((await run(api.fenceVolume({ name: 'db' }))).status.primary, null);
});
