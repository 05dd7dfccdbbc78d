// A volume moves to another node under load, shared volumes are relayed, and policies change live.
import { join } from 'node:path';
import t from 'tap';
import { NbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { verifyThroughClient } from '../../benchmarks/src/verify/verify-volume.ts';
import { VerifyingWriter } from '../../benchmarks/src/verify/verifying-writer.ts';
import { startCluster } from '../support/cluster.ts';

const sizeBytes = 64 * 1024 * 1024;

/** A writer over plain connections: one that closes, or one error, breaks it. */
class Load {
  readonly clients: NbdClient[];
  readonly logPath: string;
  readonly writer: VerifyingWriter;
  readonly #stop = new AbortController();

  constructor(clients: NbdClient[], logPath: string, offset: number, length: number) {
    this.clients = clients;
    this.logPath = logPath;
    this.writer = new VerifyingWriter({
      clients,
      logPath,
      offset,
      length,
      seed: 7,
      depth: 16,
      writes: Infinity,
      flushEvery: 50,
      rate: 2_000,
      readShare: 0.2,
      signal: this.#stop.signal,
    });
  }

  async goesOn(): Promise<void> {
    const before = this.writer.progress().acknowledged;
    await waitFor('the writer to go on', async () =>
      this.writer.progress().acknowledged > before + 200 ? true : null,
    );
  }

  stop(): void {
    this.#stop.abort();
  }
}

async function connect(
  cluster: TestCluster,
  volume: string,
  index: number,
  count: number,
): Promise<NbdClient[]> {
  const uri = cluster.tcpUri(index, volume);
  return Promise.all(Array.from({ length: count }, () => NbdClient.connect({ uri })));
}

t.test('volumes move and change while they are used', async (t) => {
  const cluster = await startCluster(t);

  await t.test('the primary moves under load, and no client sees an error', async (t) => {
    await cluster.must(
      'volume',
      'create',
      'moving',
      '--size',
      String(sizeBytes),
      '--replicas',
      '3',
    );
    const clients = await connect(cluster, 'moving', 0, 3);
    const load = new Load(clients, join(cluster.dir, 'moved.log'), 0, sizeBytes);
    const running = load.writer.run();
    for (const index of [1, 2, 0, 2]) {
      await load.goesOn();
      const node = cluster.agent(index).place.name;
      const startedMs = performance.now();
      await cluster.must('volume', 'move-primary', 'moving', '--to', node);
      t.comment(`moved to ${node} in ${Math.round(performance.now() - startedMs)} ms`);
      t.equal(await cluster.primary('moving'), index);
      await load.goesOn();
    }
    load.stop();
    const summary = await running;
    t.match(summary, { ended: 'stopped', errors: [], wrongReads: [] });
    const [client] = clients;
    if (!client) throw new Error('no client');
    t.match(await verifyThroughClient(load.logPath, client), { wrong: 0, torn: 0, problems: [] });
    await Promise.all(clients.map((each) => each.disconnect()));
  });

  await t.test(
    'a shared volume serves clients of several nodes, also while it moves',
    async (t) => {
      await cluster.must('volume', 'create', 'shared', '--size', String(sizeBytes), '--shared');
      const half = sizeBytes / 2;
      const loads = [
        new Load(await connect(cluster, 'shared', 0, 1), join(cluster.dir, 'a.log'), 0, half),
        new Load(await connect(cluster, 'shared', 1, 1), join(cluster.dir, 'b.log'), half, half),
      ];
      const running = loads.map((load) => load.writer.run());
      await Promise.all(loads.map((load) => load.goesOn()));
      const other = cluster.agent((await cluster.primary('shared')) === 2 ? 1 : 2).place.name;
      await cluster.must('volume', 'move-primary', 'shared', '--to', other);
      await Promise.all(loads.map((load) => load.goesOn()));
      for (const load of loads) load.stop();
      for (const summary of await Promise.all(running)) {
        t.match(summary, { ended: 'stopped', errors: [], wrongReads: [] });
      }
      // each reads what the other wrote, through its own node
      const [first, second] = loads.map(({ clients }) => clients[0]);
      if (!first || !second) throw new Error('no client');
      for (const [client, load] of [
        [second, loads[0]],
        [first, loads[1]],
      ] as const) {
        const verified = await verifyThroughClient(load?.logPath ?? '', client);
        t.match(verified, { wrong: 0, torn: 0, problems: [] });
      }
      await Promise.all([first.disconnect(), second.disconnect()]);
    },
  );

  await t.test('a failure mode changes live: held writes go on', async (t) => {
    await cluster.must(
      'volume',
      'create',
      'policy',
      '--size',
      String(sizeBytes),
      '--replicas',
      '3',
    );
    const [client] = await connect(cluster, 'policy', 0, 1);
    if (!client) throw new Error('no client');
    await client.write(0, Buffer.alloc(4096, 1));
    await cluster.must('volume', 'update', 'policy', '--failure-mode', 'hard', '--no-wait');
    await cluster.agent(2).kill9();
    await waitFor('the volume to hold writes', async () => {
      const { status } = await cluster.inspect('policy');
      return status.serving === 'holding' && status.health === 'suspended' ? true : null;
    });
    let isAnswered = false;
    const held = client.write(0, Buffer.alloc(4096, 2)).then(() => {
      isAnswered = true;
    });
    t.equal((await client.read(4096, 4096))[0], 0, 'reads go on');
    t.equal(isAnswered, false);
    await cluster.must('volume', 'update', 'policy', '--failure-mode', 'soft', '--no-wait');
    await held;
    t.equal((await client.read(0, 4096))[0], 2);
    await client.disconnect();
  });
});
