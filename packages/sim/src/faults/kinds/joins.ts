import type { SimNode } from '../../cluster/sim-node.ts';
import type { FaultCall, Noticed } from '../fault-scene.ts';
import { cutAllPower, kill, power } from './processes.ts';

/** A resync that was meant to be met, and did not come, is no longer waited for after this (ms). */
const resyncPatienceMs = 45_000;
/** A disk or link that makes a resync long enough to be met, so much slower (ms). */
const drag = [5, 20, 60, 200];
/** A primary that is moved serves soon; that is waited for so long (ms). */
const servedPatienceMs = 5_000;
/** Clients hurry now and then for so long when a node serves that has no member (ms). */
const burstsForMs = 1_800;
/** Power goes within this time after a set with the newcomer is agreed on (ms). */
const soonMs = 20;

/** A replica of the volume is about to be filled, and it is known with what. */
function isPlanned({ scene, volume }: FaultCall, { message, fields }: Noticed): boolean {
  if (message !== 'resync is planned') return false;
  const replicas = scene.cluster.replicasOf(volume);
  return replicas.some(({ replicaId }) => replicaId === fields.replica);
}

function nodeOf({ scene }: FaultCall, { fields }: Noticed): number {
  return scene.cluster.nodeOfReplica(fields.replica ?? '');
}

/** The disk of a node is slow for so long. */
export function slowDiskOf(
  { scene }: FaultCall,
  index: number,
  extraMs: number,
  forMs: number,
): void {
  const node = scene.cluster.nodes[index];
  if (!node) return;
  node.slowDiskMs = extraMs;
  scene.after(forMs, () => {
    if (node.slowDiskMs === extraMs) node.slowDiskMs = 0;
  });
}

/** All links of a node are slow for so long, in both directions. */
function slowLinksOf({ scene }: FaultCall, index: number, extraMs: number, forMs: number): void {
  const { nodes, network } = scene.cluster;
  const host = nodes[index]?.host ?? '';
  const others = nodes.filter((each) => each.index !== index).map((each) => each.host);
  const set = (ms: number): void => {
    for (const other of others) {
      network.slowDown(host, other, ms);
      network.slowDown(other, host, ms);
    }
  };
  set(extraMs);
  scene.after(forMs, () => set(0));
}

function dragOf({ random }: FaultCall): number {
  return drag[Math.floor(random.next() * drag.length)] ?? 20;
}

/** A node goes and comes back; it has missed something by then. */
function goAndReturn(call: FaultCall): void {
  const { scene, random } = call;
  if (random.next() < 0.5) kill(call);
  else power(call);
  scene.after(30, () => scene.load.burst(60));
}

/**
 * Clients write what is being copied: a replica returns, and from the moment in which it is known
 * what it lacks they hurry, while a disk or link on the way of the copies is slow. Then its node is
 * the one they ask.
 */
export function resyncBurst(call: FaultCall): void {
  const { scene, random, volume } = call;
  goAndReturn(call);
  scene.onNotice(
    (noticed) => isPlanned(call, noticed),
    (noticed) => {
      scene.count('resync-burst');
      const forMs = 80 + random.next() * 250;
      const newcomer = nodeOf(call, noticed);
      const primary = scene.cluster.holderOf(volume);
      const dice = random.next();
      if (dice < 0.4) slowDiskOf(call, primary, dragOf(call), forMs);
      else if (dice < 0.8) slowLinksOf(call, newcomer, dragOf(call), forMs);
      scene.load.burst(forMs);
      scene.after(forMs, () => scene.load.hush(1_500));
      scene.after(forMs + 500, () => scene.load.move(volume, newcomer));
    },
    resyncPatienceMs,
  );
}

/**
 * A replica on a slow disk becomes a member while clients write and flush; in that moment all hosts
 * lose power, and its node is the first that clients ask.
 */
export function powerOnSlowJoin(call: FaultCall): void {
  const { scene, random, volume } = call;
  goAndReturn(call);
  scene.onNotice(
    (noticed) => isPlanned(call, noticed),
    (noticed) => {
      const { replica = '' } = noticed.fields;
      const newcomer = nodeOf(call, noticed);
      slowDiskOf(call, newcomer, dragOf(call), 4_000);
      const burstMs = 100 + random.next() * 350;
      scene.load.burst(burstMs);
      // what comes after the last flush is of no use here
      if (random.next() < 0.5) scene.after(burstMs, () => scene.load.hush(1_500));
      scene.onCommit(
        (set) => set.volume === volume.name && set.inSync.includes(replica),
        () => {
          scene.after(random.next() * soonMs, () => {
            if (!scene.mayLosePower()) return;
            cutAllPower(call, 'power-on-slow-join');
            scene.load.move(volume, newcomer);
          });
        },
        5_000,
      );
    },
    resyncPatienceMs,
  );
}

/**
 * The volume is served by a node whose own replica is not in the set yet, with one or two members
 * elsewhere; clients hurry, and the connections to the members break in the middle of it, more than
 * once. With every member away none can leave the set, and who is back first goes on as a member.
 */
export function homecoming(call: FaultCall): void {
  const { scene, random, volume } = call;
  const { cluster, load } = scene;
  const others = cluster.nodes.filter(({ index }) => index !== cluster.holderOf(volume));
  const node = others[Math.floor(random.next() * others.length)];
  if (!node?.isUp || !scene.mayLosePower()) return;
  // away until its own last lease is over: it could be no primary before
  power({ ...call, node, fault: { ...call.fault, forMs: 6_200 + random.next() * 2_000 } });
  scene.after(30, () => load.burst(60));
  scene.onNotice(
    (noticed) => isPlanned(call, noticed) && nodeOf(call, noticed) === node.index,
    () => {
      // it is not filled before it serves
      slowDiskOf(call, node.index, 40, servedPatienceMs);
      void cluster.order('MovePrimary', { name: volume.name, node: node.host });
      load.move(volume, node.index);
      scene.onNotice(
        ({ host, message }) => host === node.host && message === 'the primary serves',
        () => cutInBursts(call, node),
        servedPatienceMs,
      );
    },
    resyncPatienceMs,
  );
}

/**
 * In some moments in which clients write, nothing of the node arrives elsewhere any more, and then its
 * connections break: what was on its way is lost.
 */
function cutInBursts(call: FaultCall, node: SimNode): void {
  const { scene, random } = call;
  const { nodes, network } = scene.cluster;
  scene.count('homecoming');
  slowDiskOf(call, node.index, 200, burstsForMs);
  const others = nodes.filter((each) => each !== node);
  const isCut = random.next() < 0.8;
  for (let i = 0; i < 5; i++) {
    const atMs = 200 + random.next() * (burstsForMs - 300);
    const muteAfterMs = 20 + random.next() * 60;
    const muteForMs = random.next() * 60;
    scene.after(atMs, () => {
      scene.load.change(80);
      scene.load.burst(80);
    });
    if (!isCut) continue;
    scene.after(atMs + muteAfterMs, () => {
      const forMs = muteForMs + 1;
      scene.block(
        forMs,
        others.map((other): [string, string] => [node.host, other.host]),
      );
    });
    scene.after(atMs + muteAfterMs + muteForMs, () => {
      for (const other of others) network.cut(node.host, other.host);
    });
  }
}

/** Marks are cleared in two checkpoints; more are not waited for than this (ms). */
const restMs = 16_000;

/**
 * Clients write and then rest, without a FLUSH at the end, until checkpoints have cleared the marks
 * of what they wrote. Then a host, or all, lose power: whatever was on no disk is gone, and nothing
 * says where it was. The node that is asked next is one of them.
 */
export async function powerUnflushed(call: FaultCall): Promise<void> {
  const { scene, random, volume, node } = call;
  const { scheduler } = scene.cluster;
  const burstMs = 40 + random.next() * 120;
  scene.load.burst(burstMs);
  await scheduler.sleep(burstMs);
  await untilMarksAreCleared(call);
  await scheduler.sleep(random.next() * 2_000);
  if (scene.isOver || !scene.mayLosePower()) return;
  scene.count('power-unflushed');
  if (random.next() < 0.6) cutAllPower(call, 'power-all');
  else power(call);
  scene.load.move(volume, node.index);
  scene.load.hush(2_000);
}

/** Clients rest until two checkpoints have come, and some seconds more. */
export async function untilMarksAreCleared({ scene }: FaultCall): Promise<void> {
  scene.load.hush(restMs + 4_000);
  let checkpoints = 0;
  const isCheckpoint = ({ message }: Noticed): boolean =>
    message === 'checkpoint: marks at rest are cleared';
  const again = (): void => {
    checkpoints += 1;
    scene.onNotice(isCheckpoint, again, restMs);
  };
  scene.onNotice(isCheckpoint, again, restMs);
  const { scheduler } = scene.cluster;
  await scheduler.until(() => checkpoints >= 2 || scene.isOver, restMs - 2_000, 100);
}
