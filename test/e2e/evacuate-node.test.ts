// A node is emptied while fio writes to a volume that is served from there: no error, and no set of the
// committed history is smaller than the plan announced.
import t from 'tap';
import { evacuatedVolume, evacuateUnderFio } from '../../benchmarks/src/scenarios/evacuate-node.ts';
import { startCluster } from '../support/cluster.ts';
import { needs } from '../support/needs.ts';

/** fio writes for about so long; the evacuation takes a part of it. */
const seconds = Number(process.env['STOR_EVACUATE_SECONDS'] ?? 8);

t.test('a node is evacuated and drained under fio', async (t) => {
  if (!needs(t, 'fio', 'fio')) return;
  const cluster = await startCluster(t, { nodes: 4 });
  const run = await evacuateUnderFio(cluster, { seconds, dir: t.testdir() });
  const { plan, nodes, primary } = run;
  const node = plan.node.metadata.name;
  t.match(plan, { verb: 'evacuate', safe: true, reasons: [], effects: [], blocked: [] });
  t.equal(plan.moves.length, 1);
  t.equal(run.fioError, 0, run.fioOutput);
  t.ok(run.fioWrites > 100, `${run.fioWrites} writes`);
  t.match(run.said, /has no replica any more/);
  const planned = plan.moves[0]?.toNode ?? '';
  t.ok(nodes.includes(planned), `the replica went to ${planned}, as planned`);
  t.notOk(nodes.includes(node));
  t.not(primary, node, 'the attachment moved too');
  t.ok(run.changes >= 4, `${run.changes} committed changes`);
  // the plan has no effects, so it announces that nothing is missing at any moment
  t.equal(run.lowestInSync, evacuatedVolume.replicas, 'of every committed revision');
});
