import type { SimNode } from '../../cluster/sim-node.ts';
import { otherThan, type FaultCall } from '../fault-scene.ts';
import { comeToRest, lookEverywhere, pick, wakeUp, type Rest } from './rest.ts';

/** From the first request to a region at rest to the crash (ms). */
const crashWithinMs = 20;
/** Of a disk or a link that is slow just then (ms). */
const slowMs = [2, 20, 200];
/** One that comes back late comes so much later (ms): the others have gone on without it. */
const lateMs = 6_000;

/**
 * All regions are at rest, and processes or hosts die just when requests wake some of them: what is
 * half done must be marked somewhere. Then every node in turn becomes primary and reads it.
 */
export async function wake(call: FaultCall): Promise<void> {
  const { scene, random } = call;
  const rest = await comeToRest(call);
  if (rest) {
    const { scheduler, nodes } = scene.cluster;
    if (await crashInWaking(call, rest)) {
      await scheduler.until(() => nodes.every(({ isUp }) => isUp), lateMs * 4, 100);
      // sometimes at once, sometimes when all are members again
      await scheduler.sleep(random.next() * lateMs);
      await lookEverywhere(call, rest);
    }
  }
  wakeUp(scene);
}

async function crashInWaking(call: FaultCall, rest: Rest): Promise<boolean> {
  const { scene, fault, random, volume } = call;
  const { cluster } = scene;
  const { nodes, scheduler } = cluster;
  const holder = nodes[cluster.holderOf(volume)];
  if (!holder?.isUp) return false;
  const others = nodes.filter((each) => each !== holder);
  impede(call, holder, others);
  await scheduler.sleep(random.next() * 2);
  for (const waking of rest.wakings) {
    // together, or one after the other
    if (random.next() < 0.4) await scheduler.sleep(random.next() * 4);
    void scene.load.ask(volume, waking);
  }
  await scheduler.sleep(crashWithinMs * random.next() ** 2);
  const dead = crash(call, holder, random.next() < 0.65 ? nodes : [holder]);
  if (dead.length === 0) return false;
  // most clients are gone too: nobody sends again what was not answered
  if (random.next() < 0.75) scene.load.move(volume, pick(random, nodes.length));
  const lateOne = random.next() < 0.3 ? holder : null;
  for (const each of dead) {
    const backMs = 50 + fault.forMs * random.next() + (each === lateOne ? lateMs : 0);
    scene.after(backMs, () => each.start());
  }
  return true;
}

/** What the primary does reaches the others late, or not at all, or its own disk late. */
function impede(call: FaultCall, holder: SimNode, others: readonly SimNode[]): void {
  const { scene, fault, random } = call;
  const { network } = scene.cluster;
  const dice = random.next();
  if (dice < 0.4) {
    const ends = others.map(({ host }): [string, string] => [holder.host, host]);
    scene.block(200 + fault.forMs * random.next(), ends);
  } else if (dice < 0.6) {
    const extraMs = slowMs[pick(random, slowMs.length)] ?? 20;
    const other = otherThan(call, holder);
    network.slowDown(holder.host, other.host, extraMs);
    scene.after(1_000, () => network.slowDown(holder.host, other.host, 0));
  }
  const slow = random.next() < 0.3 ? holder : random.next() < 0.3 ? others[0] : undefined;
  if (!slow) return;
  slow.slowDiskMs = slowMs[pick(random, slowMs.length)] ?? 20;
  scene.after(1_000, () => {
    slow.slowDiskMs = 0;
  });
}

/** Kills the processes, or cuts the power of their hosts. */
function crash({ scene, random }: FaultCall, holder: SimNode, whom: readonly SimNode[]): SimNode[] {
  const isPower = random.next() < 0.35 && scene.mayLosePower();
  scene.count(isPower ? 'wake-power' : 'wake-kill');
  for (const each of whom) {
    // an agent alone may die where hosts lose power, too
    if (isPower && (each === holder || random.next() < 0.8)) each.losePower();
    else each.kill();
  }
  return [...whom];
}

/**
 * Hosts lose power when their marks have been cleared: what is not marked any more must be durable.
 */
export async function powerAtRest(call: FaultCall): Promise<void> {
  const { scene, fault, random, node } = call;
  const rest = await comeToRest(call, random.next() < 0.3);
  if (rest && scene.mayLosePower()) {
    const { scheduler, nodes } = scene.cluster;
    scene.count('power-at-rest');
    const whom = random.next() < 0.7 ? [node] : nodes.filter((each) => each !== node);
    for (const each of whom) {
      each.losePower();
      scene.after(50 + fault.forMs * random.next(), () => each.start());
    }
    await scheduler.until(() => nodes.every(({ isUp }) => isUp), lateMs * 4, 100);
    await scheduler.sleep(random.next() * lateMs);
    await lookEverywhere(call, rest);
  }
  wakeUp(scene);
}
