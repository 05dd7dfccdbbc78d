import t from 'tap';
import { EmbeddedCluster, until } from './embedded-cluster.ts';
import { isLinearizable, type RegisterOperation } from './embedded-register-history.ts';
import { operation, RegisterClient } from './register-client.ts';

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

t.test('clients on all members, while leaders die', async (t) => {
  const seed = Number(process.env['STOR_SEED'] ?? Date.now() % 1_000_000);
  t.comment(`STOR_SEED=${seed}`);
  const cluster = await EmbeddedCluster.open(t, { snapshotEntries: 30 });
  let now = 0;
  const tick = (): number => ++now;
  const keys = ['k0', 'k1', 'k2', 'k3', 'k4', 'k5'];
  const clients = [0, 1, 2, 3].map((i) => new RegisterClient(`c${i}`, seed + i, cluster, tick));
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
