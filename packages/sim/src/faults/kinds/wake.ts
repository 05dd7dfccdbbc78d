import type { Random } from '@stor/runtime';

import type { SimNode } from '../../cluster/sim-node.ts';
import type { Request } from '../../workload/choose-request.ts';
import { otherThan, type FaultCall } from '../fault-scene.ts';
import { comeToRest, lookEverywhere, pick, wakeUp, type Rest } from './rest.ts';

/** From the first request to a region at rest to the crash (ms). */
const crashWithinMs = 20;
/** What a disk or a link that is slow just then takes longer (ms). */
const slowMs = [2, 20, 200];
/** One that comes back late comes so much later (ms): the others have gone on without it. */
const lateMs = 6_000;
/** That one lasts so long (ms). */
const slowForMs = 1_000;
/** A crash within an operation of the disk that did not come is made without one after this (ms). */
const crashPatienceMs = 300;

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
  const extraMs = impede(call, holder);
  await scheduler.sleep(random.next() * 2);
  for (const waking of inOrder(random, rest.wakings)) {
    // together, or while the disk is still busy with the one before
    if (random.next() < 0.7) await scheduler.sleep((0.5 + extraMs / 4) * random.next());
    void scene.load.ask(volume, waking);
  }
  const dead = random.next() < 0.65 ? nodes : [holder];
  const withinMs = random.next() < 0.5 ? crashWithinMs : 0.5 + extraMs;
  await crash(call, holder, dead, withinMs * random.next());
  // most clients are gone too: nobody sends again what was not answered
  if (random.next() < 0.75) scene.load.move(volume, pick(random, nodes.length));
  const lateOne = random.next() < 0.3 ? holder : null;
  for (const each of dead) {
    const backMs = 50 + fault.forMs * random.next() + (each === lateOne ? lateMs : 0);
    scene.after(backMs, () => each.start());
  }
  return true;
}

/** Often writes come first: their marks are on their way to the disk when chunks are freed. */
function inOrder(random: Random, wakings: Rest['wakings']): readonly (readonly Request[])[] {
  if (random.next() < 0.4) return wakings;
  const isWrite = (waking: readonly Request[]): boolean => waking[0]?.kind === 'write';
  return [...wakings.filter(isWrite), ...wakings.filter((waking) => !isWrite(waking))];
}

/**
 * What the primary does reaches the others late, or not at all, or some disk late. Returns how slow
 * that disk is (ms).
 */
function impede(call: FaultCall, holder: SimNode): number {
  const { scene, fault, random } = call;
  const { network, nodes } = scene.cluster;
  const isSlow = random.next() < 0.7;
  const slow = random.next() < 0.8 ? holder : otherThan(call, holder);
  const extraMs = isSlow ? pickOf(random, slowMs) : 0;
  // writes go to the page cache at once, or wait as well
  if (random.next() < 0.6) slow.slowSyncMs = extraMs;
  else slow.slowDiskMs = extraMs;
  const dice = random.next();
  // what is still in the memory of a slow primary is known to nobody when the others do not hear it
  if (dice < (isSlow ? 0.7 : 0.4)) {
    const others = nodes.filter((each) => each !== holder);
    const ends = others.map(({ host }): [string, string] => [holder.host, host]);
    scene.block(500 + fault.forMs * random.next(), ends);
  } else if (dice < 0.85) {
    const other = otherThan(call, holder);
    network.slowDown(holder.host, other.host, pickOf(random, slowMs));
    scene.after(slowForMs, () => network.slowDown(holder.host, other.host, 0));
  }
  scene.after(slowForMs, () => {
    slow.slowDiskMs = 0;
    slow.slowSyncMs = 0;
  });
  return extraMs;
}

/** Kills processes or cuts the power of their hosts, often within an operation of the primary's disk. */
async function crash(
  { scene, random }: FaultCall,
  holder: SimNode,
  whom: readonly SimNode[],
  delayMs: number,
): Promise<void> {
  const { scheduler } = scene.cluster;
  const isPower = random.next() < 0.25 && scene.mayLosePower();
  scene.count(isPower ? 'wake-power' : 'wake-kill');
  const end = (each: SimNode): void => {
    // an agent alone may die where other hosts lose power
    if (isPower && (each === holder || random.next() < 0.8)) each.losePower();
    else each.kill();
  };
  if (random.next() < 0.5) {
    holder.onCrash = () => {
      for (const each of whom) if (each !== holder) end(each);
    };
    holder.files.crashAfter(1 + pick(random, 10), isPower ? 'power' : 'kill');
    if (await scheduler.until(() => !holder.isUp, crashPatienceMs, 5)) return;
    holder.files.cancelCrash();
  } else await scheduler.sleep(delayMs);
  for (const each of whom) end(each);
}

function pickOf(random: Random, values: readonly number[]): number {
  return values[pick(random, values.length)] ?? 0;
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
