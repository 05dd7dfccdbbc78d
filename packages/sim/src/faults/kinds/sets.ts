import type { CommittedSet } from '../../cluster/sim-cluster.ts';
import type { SimNode } from '../../cluster/sim-node.ts';
import { otherThan, type FaultCall } from '../fault-scene.ts';
import { hurryWhenServed } from './moves.ts';
import { burstMs } from './pace.ts';

/** A call of the cluster store is given up after this; then nobody knows its outcome (ms). */
const callTimeoutMs = 5_000;
/** A link that is silent for so long is lost (ms). */
const silenceMs = 2_000;
/** For the change of a set that is waited for (ms). */
const changePatienceMs = 12_000;

/**
 * In the very event in which a change of the in-sync set is agreed on, the primary is cut off from
 * the control plane, so that it does not hear of it. Often the newcomer is away from then on, and
 * soon the primary too: the newcomer is in the set, so it has all that was acknowledged.
 */
export async function lostAnswer(call: FaultCall): Promise<void> {
  const { scene, volume, random } = call;
  const { nodes } = scene.cluster;
  await leaveLeader(call);
  const wantsGrowth = random.next() < 0.8;
  let members = scene.judge(volume).members;
  let newcomer: string | undefined;
  const change = agreed(call, (set) => {
    if (set.volume !== volume.name) return false;
    newcomer = set.inSync.find((id) => !members.includes(id));
    members = set.inSync;
    return isApart(call) && (newcomer !== undefined || !wantsGrowth);
  });
  // one that comes back soon makes the set grow
  const secondary = secondaryOf(call);
  if (secondary?.isUp) {
    secondary.kill();
    scene.after(50 + random.next() * 1_500, () => secondary.start());
  }
  if (!(await change)) return;
  const primary = nodes[scene.cluster.holderOf(volume)];
  if (!primary) return;
  const index = newcomer === undefined ? -1 : scene.cluster.nodeOfReplica(newcomer);
  await withoutAnswer(call, primary, nodes[index] ?? null);
}

/** Resolves in the event of the change, or with false when none came. */
export function agreed(
  { scene }: FaultCall,
  isMeant: (set: CommittedSet) => boolean,
): Promise<boolean> {
  return new Promise((resolve) => {
    scene.onCommit(isMeant, () => resolve(true), changePatienceMs);
    scene.cluster.scheduler.at(changePatienceMs, () => resolve(false));
  });
}

async function withoutAnswer(
  call: FaultCall,
  primary: SimNode,
  newcomer: SimNode | null,
): Promise<void> {
  const { scene, fault, random } = call;
  const { scheduler } = scene.cluster;
  scene.count('lost-answer');
  const links = scene.cluster.controlLinks(primary.index);
  // what goes to the primary comes second in each pair
  const isOneWay = random.next() < 0.25;
  scene.block(fault.forMs, isOneWay ? links.filter((_, i) => i % 2 === 1) : links);
  scene.load.burst(burstMs);
  if (newcomer) goAway(call, primary, newcomer);
  const givenUpMs = scheduler.nowMs + callTimeoutMs;
  await scheduler.sleep(random.next() * callTimeoutMs * 0.9);
  scene.load.burst(burstMs * 2);
  await scheduler.sleep(givenUpMs - scheduler.nowMs + random.next() * 1_500);
  if (newcomer && random.next() < 0.75) takeOver(call, primary, newcomer);
  await scheduler.sleep(fault.forMs + givenUpMs - callTimeoutMs - scheduler.nowMs);
}

/**
 * A member is lost under load while its primary has no control plane to agree with that it is: what
 * was not given to it waits. Then the others go, and that member becomes the primary.
 */
export async function lostMember(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { nodes, scheduler } = scene.cluster;
  const primary = nodes[scene.cluster.holderOf(volume)];
  const member = secondaryOf(call);
  if (!primary?.clock.running || !member?.clock.running) return;
  scene.count('lost-member');
  const endMs = scheduler.nowMs + fault.forMs;
  scene.block(fault.forMs, scene.cluster.controlLinks(primary.index));
  const onceMs = 20 + random.next() * 60;
  scene.load.burst(onceMs + burstMs);
  await scheduler.sleep(onceMs);
  goAway(call, primary, member);
  await scheduler.sleep(random.next() < 0.3 ? random.next() * silenceMs : silenceMs);
  scene.load.burst(burstMs);
  await scheduler.sleep(random.next() * 2_000);
  if (random.next() < 0.85) takeOver(call, primary, member);
  await scheduler.sleep(endMs - scheduler.nowMs);
}

/** The member is not heard by the primary any more; its memory stays. */
function goAway({ scene, fault, random }: FaultCall, primary: SimNode, member: SimNode): void {
  const dice = random.next();
  const links = scene.cluster.dataLinks(primary.index, member.index);
  if (dice < 0.6) scene.block(fault.forMs, links);
  else if (dice < 0.8) scene.block(fault.forMs, links.slice(dice < 0.7 ? 0 : 1).slice(0, 1));
  else {
    member.kill();
    scene.after(500 + random.next() * 4_000, () => member.start());
  }
}

/** The primary goes, clients move to the member, and often no other replica can be reached there. */
function takeOver(call: FaultCall, primary: SimNode, member: SimNode): void {
  const { scene, fault, volume, random } = call;
  const { cluster } = scene;
  if (random.next() < 0.7) {
    for (const { index } of cluster.nodes) {
      if (index !== member.index) scene.block(fault.forMs, cluster.dataLinks(index, member.index));
    }
  }
  const isKilled = random.next() < 0.7;
  if (isKilled) {
    primary.kill();
    scene.after(fault.forMs * (0.3 + random.next() * 0.7), () => primary.start());
  } else {
    for (const { host } of cluster.nodes) {
      if (host === primary.host) continue;
      scene.block(fault.forMs, [
        [primary.host, host],
        [host, primary.host],
      ]);
    }
  }
  scene.load.move(volume, member.index);
  hurryWhenServed(call);
}

/** Where the control plane leads, an answer needs no link: the clients go to another node. */
export async function leaveLeader(call: FaultCall): Promise<void> {
  const { scene, volume } = call;
  const { cluster } = scene;
  const leader = cluster.nodes[cluster.leader()];
  if (!leader || isApart(call)) return;
  scene.load.move(volume, otherThan(call, leader).index);
  scene.load.burst(burstMs);
  await cluster.scheduler.until(() => isApart(call), 4_000, 100);
  await cluster.scheduler.sleep(500);
}

function isApart({ scene: { cluster }, volume }: FaultCall): boolean {
  const holder = cluster.holderOf(volume);
  return holder >= 0 && holder !== cluster.leader();
}

function secondaryOf({ scene, volume, random }: FaultCall): SimNode | undefined {
  const { cluster } = scene;
  const holder = cluster.holderOf(volume);
  const others = scene
    .judge(volume)
    .members.map((id) => cluster.nodeOfReplica(id))
    .filter((node) => node !== holder && node !== scene.broken);
  return cluster.nodes[others[Math.floor(random.next() * others.length)] ?? -1];
}
