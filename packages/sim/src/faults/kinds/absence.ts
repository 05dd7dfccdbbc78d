import { sectorBytes } from '../../checkers/volume-history.ts';
import type { SimNode } from '../../cluster/sim-node.ts';
import type { Request } from '../../workload/choose-request.ts';
import type { FaultCall } from '../fault-scene.ts';
import {
  areMarksCleared,
  chunkSectors,
  comeToRest,
  done,
  lookEverywhere,
  openAt,
  pick,
  requestOf,
  wakeUp,
  type Rest,
} from './rest.ts';

/** A member that is silent has left by then, and one that is back is a member again (ms). */
const leaveMs = 12_000;
const returnMs = 30_000;

/**
 * A member is away while regions that were at rest change, and other primaries and checkpoints come
 * and go. What it missed is then known only by generations. Sometimes the one that remained leaves
 * when it has given another one all that it knows, and that one must tell the third.
 */
export async function absence(call: FaultCall): Promise<void> {
  const { scene } = call;
  const rest = await comeToRest(call);
  if (rest && (await beAway(call, rest))) await lookEverywhere(call, rest);
  for (const each of scene.cluster.nodes) if (!each.isUp) each.start();
  wakeUp(scene);
}

async function beAway(call: FaultCall, rest: Rest): Promise<boolean> {
  const { scene, random, volume } = call;
  const { nodes } = scene.cluster;
  const members = membersOf(call);
  const holder = nodes[scene.cluster.holderOf(volume)];
  const [first, second] = members.filter((each) => each !== holder);
  const source = members.find((each) => each !== first && each !== second);
  if (!first || !source) return false;
  const half = Math.ceil(rest.wakings.length * random.next());
  scene.count('absence');
  if (!(await leave(call, first))) return false;
  if (!(await change(call, rest.wakings.slice(0, half)))) return false;
  const isRelayed = second !== undefined && random.next() < 0.5;
  if (isRelayed) {
    scene.count('absence-relayed');
    if (!(await leave(call, second))) return false;
  }
  const undone =
    isRelayed && random.next() < 0.7
      ? undoOf(rest.wakings.slice(0, half), call.volume.sizeBytes / sectorBytes)
      : [];
  if (!(await change(call, [...rest.wakings.slice(half), ...undone]))) return false;
  if (!(await comeBack(call, first))) return false;
  if (!isRelayed) return true;
  // what the first one missed it now knows; the second asks it, while the source is away
  if (random.next() < 0.5) await areMarksCleared(scene, volume);
  return (await leave(call, source)) && (await comeBack(call, second)) && comeBack(call, source);
}

/**
 * New chunks are freed again: who was away all the time has nothing to be given there and must know
 * all the same that they changed, for who saw only the write.
 */
function undoOf(wakings: Rest['wakings'], sectors: number): Request[][] {
  return wakings.map((waking) =>
    waking
      .filter(({ kind }) => kind === 'write')
      .map(({ from }) => {
        const first = Math.floor(from / chunkSectors) * chunkSectors;
        return requestOf('trim', first, Math.min(first + chunkSectors, sectors));
      }),
  );
}

/** Regions change, and often their marks are cleared again, by time or by an orderly move. */
async function change(call: FaultCall, wakings: Rest['wakings']): Promise<boolean> {
  const { scene, random, volume } = call;
  for (const waking of wakings) {
    if (!(await done(scene, volume, waking))) return false;
    if (random.next() < 0.3) await openSomewhere(call);
    else if (random.next() < 0.4) await areMarksCleared(scene, volume);
  }
  if (random.next() < 0.6) await openSomewhere(call);
  return true;
}

async function openSomewhere(call: FaultCall): Promise<void> {
  const up = call.scene.cluster.nodes.filter(({ isUp }) => isUp);
  const at = up[pick(call.random, up.length)];
  if (at) await openAt(call, at.index);
}

/** A kill or a power cut; true when the set has gone on without it. */
async function leave(call: FaultCall, node: SimNode): Promise<boolean> {
  const { scene, random } = call;
  if (!node.isUp) return false;
  if (random.next() < 0.3 && scene.mayLosePower()) node.losePower();
  else node.kill();
  // somebody serves, else nobody would notice
  const up = scene.cluster.nodes.find(({ isUp }) => isUp);
  if (!up || !(await openAt(call, up.index))) return false;
  return scene.cluster.scheduler.until(() => !membersOf(call).includes(node), leaveMs, 50);
}

/** True when it is a member again, under a primary that did not see it leave. */
async function comeBack(call: FaultCall, node: SimNode): Promise<boolean> {
  const { scene, random } = call;
  if (random.next() < 0.7) await openSomewhere(call);
  node.start();
  return scene.cluster.scheduler.until(() => membersOf(call).includes(node), returnMs, 50);
}

function membersOf({ scene, volume }: FaultCall): SimNode[] {
  const { cluster } = scene;
  const { members } = scene.judge(volume);
  return members.flatMap((id) => cluster.nodes[cluster.nodeOfReplica(id)] ?? []);
}
