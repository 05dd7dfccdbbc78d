// Clients and relays over connections that lag and are cut without a word, while the primary moves.
import t, { type Test } from 'tap';
import { StorError } from '@stor/protocol';
import { NbdClient, ReconnectingNbdClient } from 'nbd-client-js';
import { BlockLoad } from './block-load.ts';
import { ExportCluster, type ExportNode } from './export-cluster.ts';
import { LaggingNetwork } from './lagging-network.ts';
import { until } from './nbd-harness.ts';

/** Of a seed (mulberry32): the faults are the same for it, though not the times. */
function chanceOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Run {
  seed: number;
  steps: number;
  /** what is said over the connections of clients and relays is changed by it */
  change?: (bytes: Buffer) => Buffer;
  /** clients that do not reconnect, and whose own connections are not cut */
  plain?: boolean;
}

async function run(
  t: Test,
  { seed, steps, change, plain = false }: Run,
): Promise<{ relayed: number }> {
  const chance = chanceOf(seed);
  const cluster = await ExportCluster.start(t, 3, { chance });
  cluster.shared = true;
  const network = new LaggingNetwork(chance, change);
  cluster.network = network;
  const clients: (NbdClient | ReconnectingNbdClient)[] = [];
  for (let at = 0; at < 3; at++) {
    const addresses = cluster.nodes.map(({ port }) => `nbd://127.0.0.1:${port}/db`);
    clients.push(
      plain
        ? await NbdClient.connect({ uri: addresses[at] ?? '' })
        : await ReconnectingNbdClient.connect({
            addresses: [...addresses.slice(at), ...addresses.slice(0, at)],
            network,
            chance,
            backoffMinMs: 1,
            backoffMaxMs: 10,
            silenceMs: 200,
          }),
    );
  }
  // few blocks and many requests, so that a block is written again soon
  const loads = clients.map((client, at) => new BlockLoad(client, at * 8, 8, chance));
  const running = Promise.all(loads.map((load) => load.run(6)));
  const total = (): number => loads.reduce((sum, load) => sum + load.done, 0);
  let over = false;
  const disturb = async (): Promise<void> => {
    for (let step = 0; step < steps; step++) {
      const before = total();
      const what = chance();
      cluster.failing.clear();
      if (what < 0.6) network.cutOne();
      else if (what < 0.7 && !plain)
        cluster.holder?.primary?.end(new StorError('UNAVAILABLE', 'it failed'));
      else {
        // sometimes the target cannot take it, and the old node takes it back
        const failing = cluster.nodes[Math.floor(chance() * 12)];
        if (failing) cluster.failing.add(failing);
        const target = cluster.nodes[Math.floor(chance() * 3)] as ExportNode;
        // a move that another client's attachment has overtaken is none
        if (cluster.holder) await cluster.movePrimary(target).catch(() => {});
      }
      await until(() => over || total() > before + 3);
      if (over) return;
    }
  };
  try {
    await Promise.race([running, disturb()]);
    for (const load of loads) load.stop();
    await running;
    for (const load of loads) await load.check();
  } finally {
    over = true;
    for (const load of loads) load.stop();
    await Promise.all(clients.map((client) => client.close()));
    await running.catch(() => {});
  }
  t.ok(network.cuts > 0);
  t.ok(cluster.epoch > 1);
  const relayed = cluster.nodes.reduce(
    (sum, each) => sum + each.exports.relayStats.writtenBytes,
    0,
  );
  return { relayed };
}

const seeds = Number(process.env['STOR_CHAOS_SEEDS'] ?? 4);
for (let seed = 1; seed <= seeds; seed++) {
  t.test(`seed ${seed}: nothing old lands on anything new`, async (t) => {
    const { relayed } = await run(t, { seed, steps: 40 });
    t.ok(relayed > 0, 'relays took part');
  });
}

for (let seed = 1; seed <= seeds; seed++) {
  t.test(
    `seed ${seed}: relays are cut and primaries move; plain clients see no error`,
    async (t) => {
      await run(t, { seed, steps: 30, plain: true });
    },
  );
}

t.test('negative control: without saying who they are, old requests do harm', async (t) => {
  const anonymous = (bytes: Buffer): Buffer =>
    Buffer.from(bytes.toString('latin1').replaceAll('x-client:', 'y-client:'), 'latin1');
  for (let seed = 1; seed <= 40; seed++) {
    try {
      await run(t, { seed, steps: 40, change: anonymous });
    } catch (error) {
      t.match(error, { message: /^block \d+ is \d/ });
      t.comment(`seen with seed ${seed}: ${String(error)}`);
      return;
    }
  }
  t.fail('it was not seen');
});
