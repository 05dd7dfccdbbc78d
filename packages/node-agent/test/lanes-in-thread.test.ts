import { loadServices, type ApiClient, type Volume } from '@stor/protocol';
import { transmissionFlag } from 'nbd-client-js';
import t from 'tap';
import { ThreadCluster } from './thread-cluster.ts';

const services = await loadServices();
const block = (value: number): Buffer => Buffer.alloc(4096, value);
const sizeBytes = 4 * 1024 * 1024;

/** Three agents with two lanes and two disks each; a volume of one replica on each disk of n1. */
async function prepare(seed: number): Promise<{ cluster: ThreadCluster; api: ApiClient }> {
  const cluster = new ThreadCluster(seed, services, { lanes: 2 });
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  const disks = async (): Promise<number> => (await cluster.during(api.listDisks({}))).disks.length;
  await cluster.until(async () => (await disks()) === 3);
  for (const node of ['n1', 'n2', 'n3']) {
    await cluster.during(api.addDisk({ node, path: '/second', tag: '' }));
  }
  return { cluster, api };
}

async function diskOf(cluster: ThreadCluster, api: ApiClient, node: string, lane: number) {
  const { disks } = await cluster.during(api.listDisks({}));
  const found = disks.find(
    (disk) => disk.metadata.name.startsWith(`${node}:`) && disk.status.lane === lane,
  );
  if (!found) throw new Error(`no disk of lane ${lane} on ${node}`);
  return found;
}

t.test('each lane has a disk, and serves the volumes on it', async (t) => {
  const { cluster, api } = await prepare(1);
  const [first, second] = [
    await diskOf(cluster, api, 'n1', 0),
    await diskOf(cluster, api, 'n1', 1),
  ];
  t.not(first.metadata.id, second.metadata.id);
  const lanes = new Map<string, number>();
  for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) {
    const volume = await cluster.during(
      api.createVolume({ name, sizeBytes, replicas: 1, labels: {} }),
    );
    const [replica] = volume.status.replicas;
    const { disks } = await cluster.during(api.listDisks({}));
    const disk = disks.find(({ metadata }) => metadata.id === replica?.diskId);
    const node = cluster.nodes.find(({ id }) => id === disk?.spec.nodeId);
    if (!disk || !node) throw new Error('no disk');
    const { lane } = disk.status;
    lanes.set(`${node.config.nodeName} ${lane}`, lane);
    // by the port of the other lane, then by its own
    const crossing = await cluster.connect(node, name, 1 - lane);
    await cluster.during(crossing.write(0, block(1)));
    await cluster.during(crossing.flush());
    const own = await cluster.connect(node, name, lane);
    t.same(await cluster.during(own.read(0, 4096)), block(1));
    await cluster.during(own.write(4096, block(2), { fua: true }));
    t.same(await cluster.during(crossing.read(4096, 4096)), block(2));
    t.same(
      (await cluster.during(crossing.blockStatus(0, sizeBytes))).map(({ hole }) => hole),
      (await cluster.during(own.blockStatus(0, sizeBytes))).map(({ hole }) => hole),
    );
    const shown = await cluster.during(api.getVolume({ name }));
    t.equal(shown.status.nbdUri, `nbd://${node.host}:${13 + lane}/${name}`);
    t.equal(shown.status.primary?.nodeId, node.id);
    t.equal(node.lanes[lane]?.lane.stores.length, 1, 'a disk each');
    const counters = await Promise.all(node.lanes.map(({ lane: each }) => each.counters()));
    t.match(counters[1 - lane]?.crossings, { connections: 1, writtenBytes: 4096 });
    t.match(counters[lane]?.crossings, { connections: 0 });
    t.equal(counters[lane]?.exports.find(({ volume: v }) => v === name)?.operations[1]?.count, 2);
    t.equal(
      counters[1 - lane]?.exports.find(({ volume: v }) => v === name),
      undefined,
      'requests are counted once',
    );
    await cluster.during(crossing.disconnect());
    await cluster.during(own.disconnect());
    const order = { name, node: node.config.nodeName, readOnly: true };
    const { status } = await cluster.during(api.publishVolume(order));
    const exportName = status.publications?.[0]?.exportName ?? '';
    for (const by of [0, 1]) {
      const reader = await cluster.connect(node, exportName, by);
      t.ok(reader.flags & transmissionFlag.readOnly, `lane ${by} says that it is read-only`);
      t.same(await cluster.during(reader.read(0, 4096)), block(1));
      await cluster.during(reader.disconnect());
    }
  }
  t.ok(lanes.size >= 4, 'volumes lie on disks of both lanes');
  await cluster.during(api.close());
  await cluster.close();
});

async function placed(
  cluster: ThreadCluster,
  api: ApiClient,
  name: string,
): Promise<Volume['status']['replicas']> {
  return (await cluster.during(api.getVolume({ name }))).status.replicas;
}

t.test('a replica moves between disks of two lanes while it is written', async (t) => {
  const { cluster, api } = await prepare(2);
  await cluster.during(api.createVolume({ name: 'db', sizeBytes, replicas: 3, labels: {} }));
  const node = cluster.node(0);
  const client = await cluster.connect(node, 'db', 1);
  const before = await placed(cluster, api, 'db');
  const own = before.find(({ nodeId }) => nodeId === node.id);
  const { disks } = await cluster.during(api.listDisks({}));
  const from = disks.find(({ metadata }) => metadata.id === own?.diskId);
  if (!from) throw new Error('no disk');
  const target = await diskOf(cluster, api, 'n1', 1 - from.status.lane);
  let written = 0;
  let stop = false;
  const writing = (async (): Promise<void> => {
    for (; !stop; written += 1) await client.write((written % 64) * 4096, block(written % 251));
  })();
  await cluster.until(() => written > 100);
  await cluster.during(api.evacuateDisk({ disk: from.metadata.id }));
  await cluster.until(async () => {
    const now = await placed(cluster, api, 'db');
    const here = now.filter(({ nodeId }) => nodeId === node.id);
    return here.length === 1 && here[0]?.diskId === target.metadata.id;
  });
  const movedAt = written;
  await cluster.until(() => written > movedAt + 10);
  stop = true;
  await cluster.during(writing);
  for (let at = Math.max(0, written - 64); at < written; at += 1) {
    const read = await cluster.during(client.read((at % 64) * 4096, 4096));
    t.same(read, block(at % 251));
  }
  // what lies on the new disk is what was written: the other replicas are gone
  await cluster.during(client.flush());
  await cluster.during(client.disconnect());
  await cluster.during(api.close());
  await cluster.close();
});

t.test('a node that lost its process finds its disks and volumes again', async (t) => {
  const { cluster, api } = await prepare(3);
  await cluster.during(api.createVolume({ name: 'db', sizeBytes, replicas: 3, labels: {} }));
  const node = cluster.node(0);
  const client = await cluster.connect(node, 'db', 1);
  await cluster.during(client.write(0, block(7), { fua: true }));
  cluster.kill(node);
  const other = await cluster.connect(cluster.node(1), 'db', 1);
  t.same(await cluster.during(other.read(0, 4096)), block(7));
  await cluster.during(other.write(4096, block(8)));
  await cluster.start(node);
  await cluster.until(
    async () => (await cluster.during(api.getVolume({ name: 'db' }))).status.health === 'healthy',
  );
  t.same(
    node.lanes.map(({ lane }) => lane.stores.length),
    [1, 1],
  );
  await cluster.during(other.disconnect());
  await cluster.during(api.movePrimary({ name: 'db', node: 'n1' }));
  const again = await cluster.connect(node, 'db', 0);
  t.same(await cluster.during(again.read(4096, 4096)), block(8));
  await cluster.during(again.disconnect());
  await cluster.during(api.close());
  await cluster.close();
});
