// Whole agents on a fake clock: the primary moves under load, and nodes die in the middle of it.
import { loadServices, type ApiClient } from '@stor/protocol';
import t, { type Test } from 'tap';
import type { NbdClient } from 'nbd-client-js';
import { ThreadCluster, type ThreadNode } from './thread-cluster.ts';

const blockBytes = 4096;

/** Counts up in its own blocks, one request for each, and compares what it reads; any error ends it. */
class Counter {
  done = 0;
  error: Error | null = null;
  readonly #client: NbdClient;
  readonly #first: number;
  readonly #values: number[];
  #stopped = false;
  readonly running: Promise<unknown>;

  constructor(client: NbdClient, first: number, blocks: number) {
    this.#client = client;
    this.#first = first;
    this.#values = new Array<number>(blocks).fill(0);
    this.running = Promise.all(this.#values.map((_, block) => this.#work(block)));
    this.running.catch((error: unknown) => {
      this.error = error instanceof Error ? error : new Error(String(error));
    });
  }

  stop(): void {
    this.#stopped = true;
  }

  async #work(block: number): Promise<void> {
    const offset = (this.#first + block) * blockBytes;
    for (let value = 1; !this.#stopped; value++) {
      await this.#client.write(offset, Buffer.alloc(blockBytes, value % 251));
      const read = await this.#client.read(offset, blockBytes);
      if (!read.equals(Buffer.alloc(blockBytes, value % 251))) {
        throw new Error(`block ${this.#first + block} is ${read[0]}, not ${value % 251}`);
      }
      if (value % 16 === 0) await this.#client.flush();
      this.done += 1;
    }
  }
}

async function prepare(): Promise<{ cluster: ThreadCluster; api: ApiClient }> {
  const cluster = new ThreadCluster(7, await loadServices());
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  await cluster.until(async () => {
    const { disks } = await cluster.during(api.listDisks({}));
    return disks.length === 3;
  });
  const sizeBytes = 16 * 1024 * 1024;
  const volume = { name: 'db', sizeBytes, replicas: 3, labels: {}, policy: { shared: true } };
  await cluster.during(api.createVolume(volume));
  return { cluster, api };
}

/** All counters get on by some steps; an error of one is the test's. */
async function goOn(cluster: ThreadCluster, counters: Counter[]): Promise<void> {
  const before = counters.map(({ done }) => done);
  await cluster.until(() =>
    counters.every(({ done, error }, at) => {
      if (error) throw error;
      return done > (before[at] ?? 0) + 20;
    }),
  );
}

async function healthy(cluster: ThreadCluster, api: ApiClient): Promise<void> {
  await cluster.until(async () => {
    const volume = await cluster.during(api.getVolume({ name: 'db' }).catch(() => null));
    return volume?.status.health === 'healthy';
  });
}

async function finish(t: Test, cluster: ThreadCluster, api: ApiClient, counters: Counter[]) {
  for (const counter of counters) counter.stop();
  await cluster.during(Promise.all(counters.map(({ running }) => running)));
  t.ok(counters.every(({ error }) => error === null));
  await cluster.during(api.close());
  await cluster.close();
}

t.test('the target dies in the middle of a move: its clients see a pause only', async (t) => {
  const { cluster, api } = await prepare();
  const source = cluster.node(0);
  const target = cluster.node(1);
  const counters = [
    new Counter(await cluster.connect(source, 'db'), 0, 4),
    new Counter(await cluster.connect(cluster.node(2), 'db'), 64, 4),
  ];
  for (const afterMs of [2, 30, 200]) {
    await goOn(cluster, counters);
    const volume = await cluster.during(api.getVolume({ name: 'db' }));
    if (volume.status.primary?.nodeId !== source.id) {
      await cluster.during(api.movePrimary({ name: 'db', node: 'n1' }));
    }
    const moving = api.movePrimary({ name: 'db', node: 'n2' }).then(
      () => 'moved',
      (error: unknown) => String(error),
    );
    await passes(cluster, afterMs);
    cluster.kill(target);
    await goOn(cluster, counters);
    t.comment(`killed after ${afterMs} ms: ${await cluster.during(moving)}`);
    await cluster.start(target);
    await healthy(cluster, api);
  }
  await finish(t, cluster, api, counters);
});

t.test('the source dies in the middle of a move: clients of others see a pause only', async (t) => {
  const { cluster, api } = await prepare();
  // the first connection makes its node the primary
  const nodes: [ThreadNode, ThreadNode] = [cluster.node(0), cluster.node(1)];
  await cluster.connect(nodes[0], 'db');
  const counters = [new Counter(await cluster.connect(cluster.node(2), 'db'), 64, 4)];
  for (const afterMs of [14, 200]) {
    await goOn(cluster, counters);
    const { status } = await cluster.during(api.getVolume({ name: 'db' }));
    const [source, target] = status.primary?.nodeId === nodes[0].id ? nodes : nodes.toReversed();
    if (!source || !target) throw new Error('two nodes');
    if (status.primary?.nodeId !== source.id) {
      await cluster.during(api.movePrimary({ name: 'db', node: source.config.nodeName }));
    }
    const moving = api.movePrimary({ name: 'db', node: target.config.nodeName }).then(
      () => 'moved',
      (error: unknown) => String(error),
    );
    await passes(cluster, afterMs);
    cluster.kill(source);
    await goOn(cluster, counters);
    t.comment(`killed after ${afterMs} ms: ${await cluster.during(moving)}`);
    await cluster.start(source);
    await healthy(cluster, api);
  }
  await finish(t, cluster, api, counters);
});

t.test('a relay that is cut off for a while: what it sent before does no harm after', async (t) => {
  const { cluster, api } = await prepare();
  const [first, second] = [cluster.node(0), cluster.node(1)];
  const counters = [
    new Counter(await cluster.connect(first, 'db'), 0, 4),
    new Counter(await cluster.connect(cluster.node(2), 'db'), 64, 4),
  ];
  for (const cutMs of [2_600, 6_000]) {
    await goOn(cluster, counters);
    await cluster.during(api.movePrimary({ name: 'db', node: 'n2' }));
    await goOn(cluster, counters);
    // what is on its way waits, and arrives when the network is whole again
    cluster.network.block(first.host, second.host);
    cluster.network.block(second.host, first.host);
    await passes(cluster, cutMs);
    cluster.network.heal();
    await goOn(cluster, counters);
    await healthy(cluster, api);
    await cluster.during(api.movePrimary({ name: 'db', node: 'n1' }));
  }
  await finish(t, cluster, api, counters);
});

/** Lets time pass. */
async function passes(cluster: ThreadCluster, ms: number): Promise<void> {
  const endMs = cluster.clock.monotonicMs() + ms;
  await cluster.until(() => cluster.clock.monotonicMs() >= endMs);
}
