import type { SimNode } from '../../cluster/sim-node.ts';
import { otherThan, type FaultCall } from '../fault-scene.ts';
import { hurryWhenServed } from './moves.ts';
import { burstMs } from './pace.ts';
import { agreed, leaveLeader } from './sets.ts';

/** Between the agreement on the set and what becomes of its node (ms). */
const mostLaterMs = 3_000;
/** A disk fails until the node is reached again and a while longer (ms): alone it has little to write. */
const errorsAfterMs = 3_000;

/**
 * The primary loses all others and shrinks its set to its own replica. In the very event in which that
 * is agreed on, or a moment later, it often loses the control plane too: it does not hear of it, or cannot
 * say that it acknowledges alone. Then its disk fails for good, or its host goes, and clients turn to the
 * others, who have everything as long as it has not said so.
 */
export async function alone(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { cluster } = scene;
  const { scheduler } = cluster;
  if (scene.broken >= 0 || scene.isRestoring) return;
  await leaveLeader(call);
  const primary = cluster.nodes[cluster.holderOf(volume)];
  if (!primary?.clock.running || primary.files.crashPending) return;
  if (scene.membersBut(volume, primary.index) < 2) return;
  if ((await cluster.unhealthy(volume)) !== null) return;
  const change = agreed(call, ({ volume: name, inSync }) => {
    const only = inSync.length === 1 ? cluster.nodeOfReplica(inSync[0] ?? '') : -1;
    return name === volume.name && only === primary.index;
  });
  const endMs = scheduler.nowMs + fault.forMs;
  for (const { index } of cluster.nodes) {
    if (index !== primary.index) scene.block(fault.forMs, cluster.dataLinks(primary.index, index));
  }
  scene.load.burst(burstMs * 4);
  if (!(await change)) return;
  scene.count('alone');
  // its words and the answers to them take some milliseconds each
  if (random.next() < 0.5) await scheduler.sleep(random.next() * 40);
  if (random.next() < 0.85) {
    scene.block(endMs - scheduler.nowMs, cluster.controlLinks(primary.index));
  }
  scene.load.burst(burstMs * 2);
  await scheduler.sleep(random.next() * mostLaterMs);
  takeAway(call, primary);
  scene.load.move(volume, otherThan(call, primary).index);
  hurryWhenServed(call);
  await scheduler.sleep(endMs - scheduler.nowMs);
}

function takeAway({ scene, fault, volume, random }: FaultCall, primary: SimNode): void {
  const { cluster } = scene;
  const dice = random.next();
  const { whole } = cluster.committed(volume);
  // once it has said that it acknowledges alone nobody else has everything, and nothing is promised
  const hasOthers = whole.some((id) => cluster.nodeOfReplica(id) !== primary.index);
  const others = cluster.volumes.filter((each) => each !== volume);
  const isSpared = others.some((each) => scene.membersBut(each, primary.index) < 2);
  if (dice < 0.5 && hasOthers && !isSpared && scene.broken < 0) {
    scene.count('alone-disk-error');
    scene.broken = primary.index;
    primary.files.hook = (operation, path) => {
      const isMeant = ['write', 'datasync'].includes(operation) && path.includes('disk');
      return isMeant && scene.hasOthers(primary.index) ? 'EIO' : null;
    };
    scene.after(fault.forMs + errorsAfterMs, () => {
      primary.files.hook = () => null;
    });
    return;
  }
  if (dice < 0.85) {
    primary.kill();
    scene.after(fault.forMs * (0.5 + random.next()), () => primary.start());
  }
}
