import { TestCluster } from '../../harness/test-cluster.ts';
import { evacuatedVolume, evacuateUnderFio } from '../../scenarios/evacuate-node.ts';
import type { ControlStage } from './stage.ts';

/** fio writes for about so long; the evacuation takes a part of it. */
const seconds = 20;

/** The node of the primary is evacuated and drained under fio; the plan announces nothing missing. */
export async function evacuation({ dir, report, figures }: ControlStage): Promise<void> {
  const cluster = await TestCluster.create({ nodes: 4, dir });
  try {
    await cluster.start();
    await cluster.waitFit();
    const run = await evacuateUnderFio(cluster, { seconds, dir });
    const node = run.plan.node.metadata.name;
    figures['fioWrites'] = run.fioWrites;
    const announced = run.plan.effects.length;
    report.add(
      'evacuation under fio: errors of fio',
      `${run.fioError} (${run.fioWrites} writes)`,
      '0',
      run.fioError === 0 && run.fioWrites > 1_000,
    );
    report.add(
      'evacuation under fio: effects that the plan announces',
      String(announced),
      '0',
      announced === 0 && run.plan.safe,
    );
    report.add(
      'evacuation under fio: smallest set of the committed history',
      `${run.lowestInSync} of ${evacuatedVolume.replicas} in ${run.changes} changes`,
      `${evacuatedVolume.replicas} of ${evacuatedVolume.replicas}`,
      run.lowestInSync === evacuatedVolume.replicas && run.changes >= 4,
    );
    report.add(
      'evacuation under fio: what is left on the node',
      run.nodes.includes(node) || run.primary === node ? 'a replica or the primary' : 'nothing',
      'nothing',
      !run.nodes.includes(node) && run.primary !== node,
    );
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
  }
}
