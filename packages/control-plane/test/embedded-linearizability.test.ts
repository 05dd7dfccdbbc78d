import { hasCode } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import type { EmbeddedClusterStore } from '../src/embedded/index.ts';
import { EmbeddedCluster, until } from './embedded-cluster.ts';
import { isLinearizable, type RegisterOperation } from './embedded-register-history.ts';

const decode = (value: Uint8Array): string => new TextDecoder().decode(value);

function operation(fields: Partial<RegisterOperation>): RegisterOperation {
  return {
    type: 'read',
    seen: null,
    next: null,
    succeeded: null,
    calledAt: 0,
    answeredAt: 1,
    ...fields,
  };
}

t.test('the checker finds what is wrong', async (t) => {
  const write = (next: string, calledAt: number, answeredAt: number): RegisterOperation =>
    operation({ type: 'write', next, calledAt, answeredAt });
  const read = (seen: string | null, calledAt: number, answeredAt: number): RegisterOperation =>
    operation({ seen, calledAt, answeredAt });
  const set = (
    seen: string | null,
    next: string,
    succeeded: boolean | null,
    [calledAt, answeredAt]: [number, number],
  ): RegisterOperation =>
    operation({ type: 'compareAndSet', seen, next, succeeded, calledAt, answeredAt });
  t.equal(isLinearizable([]), true);
  t.equal(isLinearizable([write('a', 0, 1), read('a', 2, 3)]), true);
  t.equal(isLinearizable([write('a', 0, 1), read(null, 2, 3)]), false, 'a stale read');
  t.equal(isLinearizable([write('a', 0, 4), read('a', 1, 2), read(null, 3, 4)]), false, 'back');
  t.equal(isLinearizable([write('a', 0, 4), read(null, 1, 2), read('a', 3, 4)]), true);
  t.equal(isLinearizable([set(null, 'a', true, [0, 1]), set(null, 'b', true, [0, 1])]), false);
  t.equal(isLinearizable([set(null, 'a', true, [0, 1]), set(null, 'b', false, [0, 1])]), true);
  t.equal(isLinearizable([write('a', 0, Infinity), read(null, 5, 6)]), true, 'not yet or never');
  t.equal(isLinearizable([write('a', 0, Infinity), read('a', 5, 6), read(null, 7, 8)]), false);
  t.equal(
    isLinearizable([write('a', 0, Infinity), write('b', 1, 2), read('a', 3, 4), read('a', 5, 6)]),
    true,
  );
  t.equal(
    isLinearizable([
      write('a', 0, 1),
      set('a', 'c', null, [2, Infinity]),
      read('a', 3, 4),
      read('c', 5, 6),
    ]),
    true,
    'a compare-and-set without an answer may come late',
  );
  t.equal(
    isLinearizable([
      write('a', 0, 1),
      set('a', 'c', null, [2, Infinity]),
      write('b', 3, 4),
      read('c', 5, 6),
    ]),
    false,
    'but not when what it expects is gone',
  );
  t.equal(isLinearizable([set('a', 'c', null, [2, Infinity]), read('c', 5, 6)]), false);
});

/** One client: random operations on random members, each noted with its times. */
class Client {
  readonly history = new Map<string, RegisterOperation[]>();
  readonly #name: string;
  readonly #random: SeededRandom;
  readonly #cluster: EmbeddedCluster;
  readonly #tick: () => number;
  unknown = 0;
  done = 0;

  constructor(name: string, seed: number, cluster: EmbeddedCluster, tick: () => number) {
    this.#name = name;
    this.#random = new SeededRandom(seed);
    this.#cluster = cluster;
    this.#tick = tick;
  }

  async run(keys: string[], operations: number): Promise<void> {
    for (let i = 0; i < operations; i++) {
      const key = keys[Math.floor(this.#random.next() * keys.length)] as string;
      const stores = this.#cluster.stores();
      const store = stores[Math.floor(this.#random.next() * stores.length)];
      if (store) await this.#operate(store, key, `${this.#name}.${i}`);
    }
  }

  async #operate(store: EmbeddedClusterStore, key: string, value: string): Promise<void> {
    const options = { timeoutMs: 500 };
    const read = operation({ calledAt: this.#tick() });
    let modRevision: number;
    try {
      const item = await store.get(key, options);
      read.seen = item && decode(item.value);
      modRevision = item?.modRevision ?? 0;
    } catch (error) {
      if (hasCode(error, 'UNAVAILABLE')) return;
      throw error;
    }
    this.#note(key, read);
    const blind = this.#random.next() < 0.3;
    const write = operation({
      type: blind ? 'write' : 'compareAndSet',
      seen: read.seen,
      next: value,
      calledAt: this.#tick(),
    });
    try {
      const { succeeded } = await store.transact(
        {
          compare: blind ? [] : [{ key, modRevision }],
          operations: [{ type: 'put', key, value: new TextEncoder().encode(value) }],
        },
        options,
      );
      write.succeeded = succeeded;
      this.#note(key, write);
      this.done++;
    } catch (error) {
      // UNAVAILABLE promises that nothing has happened: the history must be right without it
      if (hasCode(error, 'UNAVAILABLE')) return;
      if (!hasCode(error, 'OUTCOME_UNKNOWN')) throw error;
      this.unknown++;
      this.#note(key, write, Infinity);
    }
  }

  #note(key: string, one: RegisterOperation, answeredAt = this.#tick()): void {
    one.answeredAt = answeredAt;
    const list = this.history.get(key);
    if (list) list.push(one);
    else this.history.set(key, [one]);
  }
}

t.test('clients on all members, while leaders die', async (t) => {
  const seed = Number(process.env['STOR_SEED'] ?? Date.now() % 1_000_000);
  t.comment(`STOR_SEED=${seed}`);
  const cluster = await EmbeddedCluster.open(t, { snapshotEntries: 30 });
  let now = 0;
  const tick = (): number => ++now;
  const keys = ['k0', 'k1', 'k2', 'k3', 'k4', 'k5'];
  const clients = [0, 1, 2, 3].map((i) => new Client(`c${i}`, seed + i, cluster, tick));
  const running = clients.map((client) => client.run(keys, 90));
  const done = (): number => clients.reduce((sum, client) => sum + client.done, 0);
  for (const fault of ['hears nothing', 'dies']) {
    const start = done();
    await until(() => done() >= start + 40 && cluster.leaderId() !== '');
    const victim = cluster.leaderId();
    if (fault === 'hears nothing') {
      // it still sends: it must notice by itself that it may no longer lead, and serve nothing old
      cluster.deafen(victim);
      await until(() => !['', victim].includes(cluster.leaderId()));
    } else {
      await cluster.stop(victim);
    }
    const before = done();
    await until(() => done() >= before + 40);
    await cluster.stop(victim);
    await cluster.start(victim);
  }
  await Promise.all(running);
  const unknown = clients.reduce((sum, client) => sum + client.unknown, 0);
  t.comment(`${unknown} writes of unknown outcome`);
  t.ok(done() > 150, `${done()} writes were answered`);
  for (const key of keys) {
    const history = clients.flatMap((client) => client.history.get(key) ?? []);
    t.ok(isLinearizable(history), `${key}: ${history.length} operations`);
  }
});
