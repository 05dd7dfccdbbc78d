import { loadServices } from '@stor/protocol';
import t from 'tap';
import { HostUse } from './host-use.ts';
import { ThreadCluster } from './thread-cluster.ts';

const volume = { name: 'db', sizeBytes: 64 * 1024 * 1024, replicas: 3, labels: {} };
const block = (value: number): Buffer => Buffer.alloc(4096, value);

/** A volume is made, written through one node, and read through another after the first has died. */
async function scenario(cluster: ThreadCluster): Promise<{ read: Buffer[]; health: string }> {
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  await cluster.until(async () => {
    const { disks } = await cluster.during(api.listDisks({}));
    return disks.length === 3;
  });
  await cluster.during(api.createVolume(volume));
  const first = await cluster.connect(cluster.node(0), 'db');
  await cluster.during(first.write(0, block(1)));
  await cluster.during(first.write(8 * 1024 * 1024, block(2), { fua: true }));
  const before = await cluster.during(first.read(0, 4096));
  const lost = first.read(4096, 4096).catch(() => null);
  cluster.kill(cluster.node(0));
  await cluster.during(lost);
  const second = await cluster.connect(cluster.node(1), 'db');
  const after = await cluster.during(second.read(0, 4096));
  await cluster.during(second.write(4096, block(3)));
  await cluster.start(cluster.node(0));
  let health = '';
  await cluster.until(async () => {
    health = (await cluster.during(api.getVolume({ name: 'db' }))).status.health;
    return health === 'healthy';
  });
  const flushed = await cluster.during(second.read(8 * 1024 * 1024, 4096));
  await cluster.during(second.disconnect());
  await cluster.during(api.close());
  await cluster.close();
  return { read: [before, after, flushed], health };
}

t.test('three agents in one thread, on models and a fake clock', async (t) => {
  const services = await loadServices();
  const use = new HostUse();
  const run = async (seed: number): Promise<{ cluster: ThreadCluster; found: unknown }> => {
    const cluster = new ThreadCluster(seed, services);
    const found = await scenario(cluster);
    return { cluster, found };
  };
  use.watch();
  const { cluster, found } = await run(1).finally(() => {
    use.stop();
  });
  t.same(found, { read: [block(1), block(1), block(2)], health: 'healthy' });
  t.same(use.found, [], 'the product uses nothing of the host');
  const again = await run(1);
  t.same(again.cluster.log, cluster.log, 'the same seed does the same');
  const other = new ThreadCluster(2, services);
  await Promise.all(other.nodes.map((node) => other.start(node)));
  t.strictNotSame(other.log, cluster.log.slice(0, other.log.length), 'another seed does not');
  await other.close();
});

t.test('use of the host would be noticed', async (t) => {
  const use = new HostUse();
  use.watch();
  try {
    await import('@stor/runtime').then(({ systemClock, systemRandom }) => {
      systemClock.monotonicMs();
      systemRandom.next();
    });
  } finally {
    use.stop();
  }
  t.match(use.found, [/^performance.now/, /^crypto.randomBytes/]);
});
