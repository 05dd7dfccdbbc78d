import fc from 'fast-check';
import t from 'tap';
import { ReplicaWorld } from './replica-world.ts';
import type { WorldEvent } from './replica-world.ts';

/** Set STOR_RUNS to try more. */
const numRuns = Number(process.env['STOR_RUNS'] ?? 300);
const index = fc.nat({ max: 20 });

const event: fc.Arbitrary<WorldEvent> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ type: fc.constant('down' as const), node: index }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('up' as const), node: index }) },
  { weight: 6, arbitrary: fc.record({ type: fc.constant('reconcile' as const), node: index }) },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant('fail-creations' as const), node: index }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('lose-disk' as const), disk: index }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('forget' as const), node: index }) },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant('decommission' as const),
      node: index,
      wanted: fc.boolean(),
    }),
  },
  { weight: 5, arbitrary: fc.record({ type: fc.constant('primary' as const), volume: index }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('write' as const), volume: index }) },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('count' as const),
      volume: index,
      replicas: fc.integer({ min: 1, max: 5 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('move' as const),
      volume: index,
      replica: index,
      node: index,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant('pause' as const),
      volume: index,
      paused: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant('time' as const),
      ms: fc.constantFrom(100, 2_000, 30_000, 61_000, 400_000),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('drain' as const),
      disk: index,
      wanted: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('evacuate' as const),
      node: index,
      wanted: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant('maintenance' as const),
      node: index,
      ms: fc.constantFrom(1_000, 70_000, 400_000),
    }),
  },
  {
    weight: 10,
    arbitrary: fc.record({ type: fc.constant('control' as const), isLate: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('leader' as const) }) },
);

t.test('whatever happens, no member is deleted, and in the end all is as wanted', async (t) => {
  const totals: Record<string, number> = {};
  fc.assert(
    fc.property(
      fc.integer({ min: 3, max: 6 }),
      fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 }),
      fc.array(event, { maxLength: 120, size: 'max' }),
      fc.integer({ min: 0, max: 1 }),
      (nodes, counts, events, moreDisks) => {
        const volumes = counts.map((replicas, i) => ({ name: `v${i}`, replicas }));
        const world = new ReplicaWorld(nodes, volumes, moreDisks);
        for (const each of events) world.run(each);
        const wrong = world.settle();
        for (const [what, times] of Object.entries(world.counts)) {
          totals[what] = (totals[what] ?? 0) + times;
        }
        if (wrong.length > 0) throw new Error(wrong.join('; '));
      },
    ),
    { numRuns },
  );
  t.comment(totals);
  t.ok((totals['placed beside'] ?? 0) > 0, 'on another disk of the same node');
  t.ok((totals['succeeded on its node'] ?? 0) > 0);
  for (const purpose of ['replacement', 'update', 'move']) {
    t.ok((totals[`another replica (${purpose})`] ?? 0) > 0, purpose);
  }
  t.ok((totals['a leaving replica stays'] ?? 0) > 0);
  t.ok((totals['a replica is to leave'] ?? 0) > 0);
  t.ok((totals['mark-failed'] ?? 0) > 0);
  t.ok((totals['put-node'] ?? 0) > 0, 'a maintenance ends by itself');
});
