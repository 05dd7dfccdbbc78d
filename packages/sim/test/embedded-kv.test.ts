import t from 'tap';
import { KvWorld } from '../src/index.ts';

/** STOR_KV_SEEDS=n runs more; `node packages/sim/bin/kv.mjs --seeds n` does so on all processors. */
const seeds = Number(process.env['STOR_KV_SEEDS'] ?? 10);

t.test('the embedded store is linearizable whatever happens to its members', async (t) => {
  const total: Record<string, number> = {};
  for (let seed = 1; seed <= seeds; seed++) {
    const { violations, counts } = await KvWorld.run({ seed });
    for (const [name, count] of Object.entries(counts)) total[name] = (total[name] ?? 0) + count;
    for (const violation of violations) t.fail(`seed ${seed}: ${violation}`);
  }
  t.comment(`${seeds} seeds`, total);
  // the runs are worth something: things really happened
  const atLeast = (name: string, perSeed: number): void => {
    t.ok((total[name] ?? 0) >= perSeed * seeds, `${name}: ${total[name] ?? 0}`);
  };
  atLeast('reads', 50);
  atLeast('writes', 30);
  atLeast('faults', 10);
  atLeast('changes', 0.5);
  atLeast('full disks', 0.5);
  atLeast('lost disks', 0.3);
  atLeast('replaced members', 0.3);
  atLeast('renewals', 2);
  atLeast('leases ended', 2);
  atLeast('watched', 100);
});

t.test('one seed is one history', async (t) => {
  const [a, b] = [await KvWorld.run({ seed: 7 }), await KvWorld.run({ seed: 7 })];
  t.same(a, b);
});
