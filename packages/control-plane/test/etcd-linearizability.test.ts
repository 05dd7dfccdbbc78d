import { silentLogger, systemClock, systemRandom } from '@stor/runtime';
import t from 'tap';
import type { ClusterStore, WatchEvent } from '../src/cluster-store.ts';
import { EtcdClusterStore } from '../src/etcd/index.ts';
import { EtcdServers, needsEtcd } from '../src/testing/index.ts';
import { CutProxy } from './cut-proxy.ts';
import { until } from './embedded-cluster.ts';
import { isLinearizable } from './embedded-register-history.ts';
import { RegisterClient } from './register-client.ts';

/** Operations of each of four clients; more by hand. */
const operationsEach = Number(process.env['STOR_ETCD_OPERATIONS'] ?? 110);

/** Every batch of a watch from the beginning, until one of the key `k-last`. */
async function follow(store: ClusterStore): Promise<WatchEvent[][]> {
  const batches: WatchEvent[][] = [];
  for await (const batch of store.watch('k', 0, new AbortController().signal)) {
    batches.push(batch);
    if (batch[0]?.key === 'k-last') break;
  }
  return batches;
}

t.test('clients of etcd servers that are stopped, killed and cut off', async (t) => {
  if (!needsEtcd(t)) return;
  const seed = Number(process.env['STOR_SEED'] ?? Date.now() % 1_000_000);
  t.comment(`STOR_SEED=${seed}`);
  const servers = await EtcdServers.start(t, { count: 3 });
  const proxies = await Promise.all(servers.clientPorts.map((port) => CutProxy.open(t, port)));
  const address = `etcd://${proxies.map(({ port }) => `127.0.0.1:${port}`).join(',')}/test`;
  const stores = await Promise.all(
    ['n1', 'n2', 'n3'].map((id) =>
      EtcdClusterStore.open({
        id,
        address,
        clock: systemClock,
        random: systemRandom,
        logger: silentLogger,
      }),
    ),
  );
  t.teardown(() => Promise.all(stores.map((store) => store.close())));
  const watches = stores.map((store) => follow(store));

  let now = 0;
  const tick = (): number => ++now;
  const keys = ['k0', 'k1', 'k2', 'k3', 'k4', 'k5'];
  const group = { stores: () => stores };
  const clients = [0, 1, 2, 3].map((i) => new RegisterClient(`c${i}`, seed + i, group, tick));
  const running = clients.map((client) => client.run(keys, operationsEach));
  const done = (): number => clients.reduce((sum, client) => sum + client.done, 0);
  const faults: [begin: (i: number) => unknown, end: (i: number) => unknown][] = [
    [(i) => servers.pause(i), (i) => servers.resume(i)],
    [(i) => servers.kill(i), (i) => servers.launch(i)],
    [(i) => proxies[i]?.shut(), (i) => proxies[i]?.open()],
  ];
  let isOver = false;
  const all = Promise.all(running).then(() => {
    isOver = true;
  });
  const more = async (count: number): Promise<void> => {
    const start = done();
    await until(() => isOver || done() >= start + count);
  };
  for (let round = 0; !isOver; round++) {
    const victim = round % 3;
    const [begin, end] = faults[Math.floor(round / 3) % 3] as (typeof faults)[0];
    await more(15);
    await begin(victim);
    await more(15);
    await end(victim);
    await servers.ready();
    for (const proxy of proxies) if (round % 2 === 1) proxy.cut();
  }
  await all;

  const unknown = clients.reduce((sum, client) => sum + client.unknown, 0);
  t.comment(`${done()} writes were answered, ${unknown} have an unknown outcome`);
  t.ok(done() > operationsEach, `${done()} writes were answered`);
  for (const key of keys) {
    const history = clients.flatMap((client) => client.history.get(key) ?? []);
    t.ok(isLinearizable(history), `${key}: ${history.length} operations`);
  }

  const operations = [{ type: 'put' as const, key: 'k-last', value: new Uint8Array() }];
  await until(() =>
    // connections were just cut: its answer may be lost, too
    (stores[0] as ClusterStore).transact({ compare: [], operations }).then(
      ({ succeeded }) => succeeded,
      () => false,
    ),
  );
  const acknowledged = clients.flatMap(({ revisions }) => revisions).sort((a, b) => a - b);
  for (const watch of watches) {
    const revisions = (await watch).map((batch) => batch[0]?.revision ?? 0);
    const isOrdered = revisions.every((one, i) => i === 0 || one > (revisions[i - 1] as number));
    t.ok(isOrdered, `${revisions.length} revisions in order, none twice`);
    const told = new Set(revisions);
    const missed = acknowledged.filter((revision) => !told.has(revision));
    t.same(missed, [], 'no acknowledged write is missing');
  }
});
