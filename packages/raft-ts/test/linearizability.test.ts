import t from 'tap';
import { KeyValueWorld } from './key-value-world.ts';

/** RAFT_SEED=n runs only that one; RAFT_SEEDS=n so many. */
const only = process.env['RAFT_SEED'];
const seeds = Number(process.env['RAFT_SEEDS'] ?? 25);
const range = only ? [Number(only)] : Array.from({ length: seeds }, (_, i) => i + 1);

for (const changes of [false, true]) {
  const which = changes ? 'while the members change' : 'among three members';
  t.test(`keys and values are linearizable ${which}`, async (t) => {
    const total: Record<string, number> = {};
    for (const seed of range) {
      const world = new KeyValueWorld({ seed, steps: 250, changes });
      await world.run();
      for (const { key, verdict } of world.wrong()) {
        const what = verdict === null ? 'was too much to check' : 'is not linearizable';
        const history = world.histories.get(key);
        t.fail(`RAFT_SEED=${seed}: the history of ${key} ${what}`, { history });
      }
      for (const [name, count] of Object.entries(world.stats)) {
        total[name] = (total[name] ?? 0) + count;
      }
    }
    t.comment(`${range.length} seeds`, total);
    if (only) return;
    const atLeast = (name: string, count: number, what: string) => {
      t.ok((total[name] ?? 0) >= count, what);
    };
    atLeast('gets', 20 * range.length, 'enough was read by quorum rounds');
    atLeast('leaseGets', 20 * range.length, 'enough was read by leases');
    atLeast('unknown', range.length / 2, 'some outcomes were unknown');
    atLeast('kills', range.length, 'members died');
    atLeast('losses', range.length / 5, 'disks lost entries');
    if (changes) atLeast('changes', range.length / 4, 'the members changed');
  });
}
