import { controlHost } from '../../cluster/control-model.ts';
import { operatorHost, peersPorts, type SimVolume } from '../../cluster/sim-cluster.ts';
import type { SimNode } from '../../cluster/sim-node.ts';
import { otherThan, type FaultCall, type FaultScene } from '../fault-scene.ts';
import { hurryWhenServed } from './moves.ts';
import { burstMs, slowDiskMs } from './pace.ts';

/** A fault that waits for a step of the product waits so long at most (ms). */
const stepPatienceMs = 20_000;
/** Up to so much more for a piece on a slow link, so that pings are under way at any time (ms). */
const lateMs = [500, 1_500, 2_800];
/** Regions come to rest and are checkpointed in this time without requests (ms). */
const restMs = 7_500;
/** A burst after a rest: clients look at times only whether there is something to do (ms). */
const zeroMs = 110;
/** Places that are zeroed later are written for so long (ms). */
const fillMs = 150;
/** Slow enough that a fence finds zeros under way, and is answered in time (ms). */
const zeroDiskMs = [60, 150, 400];

/**
 * An order to fence the volume; what comes of it is looked at later. `at`: the node that is asked
 * first, and takes the volume if it can; `what` else is to be counted when it is done.
 */
export function orderFence(
  scene: FaultScene,
  volume: SimVolume,
  { what, at }: { what?: string; at?: SimNode | undefined } = {},
): void {
  void scene.cluster.order('FenceVolume', { name: volume.name }, at?.index).then((isDone) => {
    if (!isDone) return;
    scene.count('order-fence');
    if (what !== undefined) scene.count(what);
  });
}

/**
 * An operator fences the volume while its primary lives: under load, often with a slow disk or link
 * at a member, and sometimes the primary hears neither of it from the control plane nor by a
 * connection to it, though its own connections go on. Clients go elsewhere, or stay, or both.
 */
export async function operatorFence(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { nodes, network } = scene.cluster;
  const old = nodes[scene.cluster.holderOf(volume)];
  if (!old?.clock.running) return;
  const other = otherThan(call, old);
  const slow = random.next() < 0.5 ? otherThan(call, old) : null;
  if (slow) {
    slow.slowDiskMs = slowDiskMs[Math.floor(random.next() * slowDiskMs.length)] ?? 20;
    if (random.next() < 0.3) network.slowDown(old.host, slow.host, 700);
    await scene.cluster.scheduler.sleep(50 + random.next() * 500);
    scene.after(fault.forMs * random.next(), () => {
      slow.slowDiskMs = 0;
      network.slowDown(old.host, slow.host, 0);
    });
  }
  scene.load.burst(burstMs);
  await scene.cluster.scheduler.sleep(burstMs * random.next());
  const isDeaf = random.next() < 0.55;
  if (isDeaf) deafen(call, old);
  leaveWhenGranted(call, old, other, random.next() < 0.6);
  const at = random.next() < 0.5 ? other : undefined;
  orderFence(scene, volume, { what: 'operator-fence', at });
  if (isDeaf) await scene.cluster.scheduler.sleep(fault.forMs);
}

/** Nobody reaches the node any more, nor does it reach the control plane; replicas still hear it. */
function deafen({ scene, fault }: FaultCall, node: SimNode): void {
  const { network } = scene.cluster;
  scene.count('deaf-primary');
  for (const port of peersPorts) network.deafen(node.host, port);
  scene.after(fault.forMs, () => {
    for (const port of peersPorts) network.undeafen(node.host, port);
  });
  scene.block(fault.forMs, [
    ...scene.cluster.controlLinks(node.index),
    [operatorHost, node.host],
    [node.host, operatorHost],
  ]);
}

/** One client goes to `other` when somebody is granted the volume; the rest stay at the old one. */
function leaveWhenGranted(call: FaultCall, old: SimNode, other: SimNode, bothWrite: boolean): void {
  const { scene, fault, volume } = call;
  scene.onNotice(
    ({ message, fields }) => message === 'attachment granted' && fields.volume === volume.name,
    () => {
      const mover = scene.load.split(volume, other.index, fault.forMs, bothWrite);
      if (mover === null) scene.load.move(volume, other.index);
      else {
        scene.block(fault.forMs, [
          [old.host, mover],
          [mover, old.host],
        ]);
      }
      hurryWhenServed(call);
    },
    stepPatienceMs,
  );
}

/**
 * The primary stops while answers to its pings are on slow links; they come in, then it is cut off
 * and fenced, and goes on when another one serves: what it was promised is over by then.
 */
export async function stalledSplit(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { nodes, network, scheduler } = scene.cluster;
  const old = nodes[scene.cluster.holderOf(volume)];
  if (!old?.clock.running || nodes.some((node) => !node.clock.running)) return;
  const others = nodes.filter((each) => each !== old);
  const extraMs = lateMs[Math.floor(random.next() * lateMs.length)] ?? 500;
  for (const { host } of others) network.slowDown(host, old.host, extraMs);
  await scheduler.sleep(600 + random.next() * 900);
  scene.load.burst(burstMs);
  const { clock } = old;
  if (clock.dead || clock.paused) return;
  scene.count('stalled-split');
  clock.pause();
  await scheduler.sleep(200 + random.next() * extraMs);
  for (const { host } of others) network.slowDown(host, old.host, 0);
  const ends = [...others.map(({ host }) => host), controlHost, operatorHost].flatMap(
    (host): [string, string][] => [
      [old.host, host],
      [host, old.host],
    ],
  );
  scene.block(fault.forMs, ends);
  const other = otherThan(call, old);
  leaveWhenGranted(call, old, other, random.next() < 0.5);
  const goOnMs = random.next() * 900;
  scene.onNotice(
    ({ message, host }) => message === 'the primary serves' && host !== old.host,
    () => {
      scene.after(goOnMs, () => {
        clock.resume();
        scene.load.burst(200);
      });
    },
    stepPatienceMs,
  );
  scene.after(stepPatienceMs, () => clock.resume());
  orderFence(scene, volume, { at: random.next() < 0.5 ? other : undefined });
  await scheduler.sleep(fault.forMs);
}

/**
 * The primary is cut off from its replicas with zeros under way that reach one slow member only, and
 * another one is made primary at once: what that member still has to do is of the old epoch.
 */
export async function fenceInZero(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { nodes, scheduler } = scene.cluster;
  scene.load.borders(fillMs, 'write');
  scene.load.burst(fillMs);
  await scheduler.sleep(fillMs);
  // without requests nothing is marked: what comes then marks each region anew
  scene.load.hush(restMs);
  await scheduler.sleep(restMs);
  const old = nodes[scene.cluster.holderOf(volume)];
  const holders = scene.judge(volume).members.map((id) => scene.cluster.nodeOfReplica(id));
  const members = nodes.filter((each) => each !== old && holders.includes(each.index));
  const slow = members[Math.floor(random.next() * members.length)];
  if (!old?.isUp || !slow || members.length < 2) return;
  slow.slowDiskMs = zeroDiskMs[Math.floor(random.next() * zeroDiskMs.length)] ?? 200;
  const others = members.filter((each) => each !== slow);
  const ends = (each: SimNode): [string, string][] =>
    scene.cluster.dataLinks(old.index, each.index);
  if (random.next() < 0.8) scene.block(fault.forMs, others.flatMap(ends));
  scene.load.borders(zeroMs, 'zero');
  scene.load.burst(zeroMs);
  await scheduler.sleep(zeroMs * (0.4 + random.next() * 0.6));
  scene.count('fence-in-zero');
  scene.block(fault.forMs, members.flatMap(ends));
  scene.after(2_000 + fault.forMs * random.next(), () => {
    slow.slowDiskMs = 0;
  });
  const next = random.next() < 0.7 ? slow : (others[0] ?? slow);
  const last = next === slow ? (others[0] ?? slow) : slow;
  orderFence(scene, volume, { at: next });
  // clients come while it begins: a primary that nobody uses would end after a fence, and begin anew
  scene.onNotice(
    ({ message, fields }) => message === 'attachment granted' && fields.volume === volume.name,
    () => scene.load.move(volume, next.index),
    stepPatienceMs,
  );
  scene.onNotice(
    ({ message }) => message === 'the primary serves',
    () => {
      // both are read, and marks are cleared in between
      readBorders(call, 800);
      scene.after(800 + fillMs, () => scene.load.hush(restMs));
      scene.after(1_000 + restMs, () => scene.load.move(volume, last.index));
      readBorders(call, 1_500 + restMs);
    },
    stepPatienceMs,
  );
  // nothing else comes in between: any change of members would make them equal
  await scheduler.sleep(restMs + 7_000);
}

function readBorders({ scene }: FaultCall, delayMs: number): void {
  scene.after(delayMs, () => {
    scene.load.borders(fillMs, 'read');
    scene.load.burst(fillMs);
  });
}
