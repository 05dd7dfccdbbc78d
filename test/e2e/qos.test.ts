// Quality of service from the command line to a client: counts, never times.
import t from 'tap';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { NbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { startCluster } from '../support/cluster.ts';

const block = Buffer.alloc(4_096, 7);

/** One sample of the first node, by name and some of its labels; null: it is not there. */
async function metric(
  cluster: TestCluster,
  name: string,
  labels: Record<string, string>,
): Promise<number | null> {
  const { place } = cluster.agents[0] ?? {};
  if (!place) throw new Error('no node');
  const response = await fetch(`http://${place.host}:${place.httpPort}/metrics`);
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  const line = (await response.text())
    .split('\n')
    .find((each) => each.startsWith(`${name}{`) && wanted.every((one) => each.includes(one)));
  return line === undefined ? null : Number(line.slice(line.lastIndexOf(' ') + 1));
}

interface Throttle {
  reason: string;
  source: string;
  limits: string[];
  queued: number;
}

t.test('policy, volume and tenant limits reach a client', async (t) => {
  const cluster = await startCluster(t, { nodes: 1 });
  const storctl = (text: string): Promise<string> => cluster.must(...text.split(' '));
  const limit = (volume: string): Promise<number | null> =>
    metric(cluster, 'stor_volume_qos_limit_ops', { volume, op: 'all' });
  const throttled = async (volume: string, reason: string): Promise<number> =>
    (await metric(cluster, 'stor_volume_qos_throttled_requests_total', { volume, reason })) ?? 0;
  const throttle = async (volume: string): Promise<Throttle> => {
    const text = await storctl(`volume inspect ${volume} -o json`);
    const { status } = JSON.parse(text) as { status: { qos: { throttle: Throttle } } };
    return status.qos.throttle;
  };
  const shows = (volume: string, reason: string): Promise<Throttle> =>
    waitFor(`${volume} to wait for ${reason || 'nothing'}`, async () => {
      const seen = await throttle(volume);
      return seen.reason === reason ? seen : null;
    });

  await storctl('policy create slow --qos iops=1000');
  await storctl('volume create db --size 16MiB --replicas 1 --policy slow');
  const client = await NbdClient.connect({ uri: cluster.tcpUri(0, 'db') });
  t.teardown(() => client.close());
  await client.write(0, block);
  t.equal(await limit('db'), 1_000);

  // one in a second: of many at once all but a few wait
  await storctl('policy update slow --qos iops=1');
  await waitFor('the policy to be told', async () => ((await limit('db')) === 1 ? true : null));
  let answered = 0;
  const writes = Array.from({ length: 200 }, async (_, at) => {
    await client.write(at * 4_096, block);
    answered += 1;
  });
  const held = await shows('db', 'limit');
  t.match(held, { source: 'policy slow', limits: ['iops'] });
  t.ok(held.queued > 0);
  t.ok((await throttled('db', 'limit')) > 0);
  t.match(await storctl('volume inspect db'), /Throttled: +by iops \(policy slow\)/);
  t.ok(answered < 200, 'they wait');

  // the volume's own wish comes before its policy's, while they wait
  await storctl('volume update db --qos iops=unlimited');
  await Promise.all(writes);
  await shows('db', '');
  t.equal(await limit('db'), null);

  await storctl('volume create one --size 16MiB --replicas 1 --label tenant=acme');
  await storctl('volume create two --size 16MiB --replicas 1 --label tenant=acme');
  const both = await Promise.all(
    ['one', 'two'].map((name) => NbdClient.connect({ uri: cluster.tcpUri(0, name) })),
  );
  t.teardown(() => Promise.all(both.map((each) => each.close())));
  for (const each of both) await each.write(0, block);
  await storctl('tenant set acme --qos iops=1');
  t.match(await storctl('tenant inspect acme'), /Volumes: +2/);
  // until it is known here; then they share it
  const more = new AbortController();
  const loads = both.map(async (each) => {
    while (!more.signal.aborted) await each.write(0, block);
  });
  for (const name of ['one', 'two']) {
    t.match(await shows(name, 'tenant'), { source: 'tenant acme', limits: ['iops'] });
    t.equal(await throttled(name, 'limit'), 0);
  }
  more.abort();
  await storctl('tenant rm acme');
  await Promise.all(loads);
  for (const name of ['one', 'two']) t.ok((await throttled(name, 'tenant')) > 0, name);
});

t.test('classes of work are weighed and counted', async (t) => {
  const cluster = await startCluster(t, { nodes: 2 });
  const storctl = (text: string): Promise<string> => cluster.must(...text.split(' '));
  await storctl('volume create db --size 16MiB --replicas 2');
  const client = await NbdClient.connect({ uri: cluster.tcpUri(0, 'db') });
  t.teardown(() => client.close());
  for (let at = 0; at < 8; at++) await client.write(at * 262_144, block);
  await storctl('cluster update --qos-class scrub.weight=7,scrub.bps=1GiB');
  const of = (name: string): Promise<number | null> =>
    metric(cluster, `stor_qos_class_${name}`, { class: 'scrub' });
  await waitFor('the class to be told', async () => ((await of('weight')) === 7 ? true : null));
  t.equal(await of('limit_bytes'), 2 ** 30);
  t.match(await storctl('cluster qos'), /scrub +7 +- +1GiB/);
  const before = (await of('bytes_total')) ?? 0;
  await storctl('scrub start db');
  await waitFor('the scrub to be counted', async () =>
    ((await of('bytes_total')) ?? 0) - before >= 8 * 262_144 ? true : null,
  );
  t.ok(((await of('operations_total')) ?? 0) >= 8);
});
