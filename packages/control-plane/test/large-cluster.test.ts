import t from 'tap';
import { Controllers } from '../src/core/controllers/controllers.ts';
import { LargeCluster } from '../src/testing/large-cluster.ts';
import { volumeIdOf } from '../src/testing/large-records.ts';

/*
 * What a look and a lost node may cost, counted and not timed: the counts of 100 nodes and 1,000
 * volumes must be about those of 50 nodes and 500 volumes, which have the same work to do.
 */
const replicasOnNode = 30;

interface Counts {
  looks: number;
  transactions: number;
  revisions: number;
}

async function loseOne(nodes: number): Promise<Counts> {
  const volumes = nodes * (replicasOnNode / 3);
  const large = await LargeCluster.open({ nodes, volumes });
  await large.quiet();
  t.equal(large.state.volumes.size, volumes, 'the leader knows all');
  const { revision } = large.cluster.machine.state;
  const before = large.looks;
  await large.lose(7);
  await large.quiet();
  large.clock.advance(10 * 60_000);
  const left = await large.reconcile(7);
  t.same(left, [], 'every volume of the lost node is whole again');
  const counts = {
    looks: large.looks - before,
    transactions: large.transactions,
    revisions: large.cluster.machine.state.revision - revision,
  };
  await large.close();
  return counts;
}

t.test('a look at an unchanged cluster judges no volume, at one change one', async (t) => {
  const large = await LargeCluster.open({ nodes: 50, volumes: 500 });
  await large.quiet();
  const controllers = new Controllers();
  const { state } = large.cache;
  const now = { monotonicMs: large.clock.monotonicMs(), wallMs: large.clock.wallMs() };
  const plan = (): number => {
    const before = controllers.looks;
    controllers.plan(state, now, () => 'r-0');
    return controllers.looks - before;
  };
  t.equal(plan(), 500, 'a new leader judges all');
  t.equal(plan(), 0);
  const id = volumeIdOf(3);
  const volume = state.volumes.get(id);
  if (!volume) throw new Error('no volume');
  state.volumes.set(id, { ...volume, value: { ...volume.value } });
  t.equal(plan(), 1);
  await large.close();
});

t.test('the loss of a node costs what lies on it, not what the cluster has', async (t) => {
  const small = await loseOne(50);
  const large = await loseOne(100);
  t.ok(large.revisions <= small.revisions * 1.3, JSON.stringify({ small, large }));
  t.ok(large.transactions <= small.transactions * 1.3, 'transactions');
  // each volume at rest is looked at every 30 s, which is what grows with the cluster
  const again = (volumes: number, counts: Counts): number => counts.looks - volumes;
  t.ok(again(1_000, large) <= 2.5 * again(500, small), 'and looks grow no faster than the cluster');
});
