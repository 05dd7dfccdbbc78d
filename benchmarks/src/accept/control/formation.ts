import { namespaceObstacle } from '../../namespaces/obstacle.ts';
import { NamespaceNetwork } from '../../namespaces/network.ts';
import { formInNamespaces } from '../../scenarios/form-in-namespaces.ts';
import type { ControlStage } from './stage.ts';

/** Exit codes of a join with a used token, with none that is known, with a name that is taken. */
const targetRefusals = [6, 6, 4];

/** Five agents in five network namespaces, each with an address and a folder of its own. Needs root. */
export async function formation({ dir, report, figures }: ControlStage): Promise<void> {
  const obstacle = namespaceObstacle();
  if (obstacle !== null) throw new Error(obstacle);
  const network = await NamespaceNetwork.create(5);
  try {
    const found = await formInNamespaces(network, dir);
    figures['elapsed'] = Math.round(found.elapsedMs);
    const line = (name: string, value: string, target: string): void => {
      report.add(`five agents in namespaces: ${name}`, value, target, value === target);
    };
    line('voters when formed, replaced, restarted', found.voters.join(', '), '3, 3, 3');
    line('contents read, different ones', String(new Set(found.hashes).size), '1');
    line('times that they were read', String(found.hashes.length), '3');
    line('one is compute-only', String(found.computeOnly), 'true');
    line('the wiped node is no member under its old id', String(found.oldIdIsGone), 'true');
    line('exit codes of wrong joins', found.refusals.join(', '), targetRefusals.join(', '));
  } finally {
    await network.close();
  }
}
