import type { VolumePolicy } from '@stor/protocol';

import type { SimVolume } from '../../cluster/sim-cluster.ts';
import { otherThan, type FaultCall, type FaultScene } from '../fault-scene.ts';
import { burstMs } from './pace.ts';
import { kill } from './processes.ts';

/** Longer than any fault holds a request: what it does is done, and no request fails (ms). */
const longTimeoutMs = 900_000;
/** An order that takes another one back is tried so often, with a pause between (ms). */
const restoreTries = 40;
const restorePauseMs = 500;
/** An order that nobody answered is carried out or forgotten by then (ms). */
const lateOrderMs = 3_000;

const failureModes = ['hard', 'soft', 'alwayson', 'threshold=2'] as const;

/** Policy and number of replicas change while clients write; both are taken back later. */
export function orderUpdate(call: FaultCall): void {
  const { scene, fault, volume, random } = call;
  const { nodes } = scene.cluster;
  const most = Math.min(nodes.length, 5);
  const policy: Partial<VolumePolicy> = {};
  if (random.next() < 0.6) {
    policy.failureMode = failureModes[Math.floor(random.next() * failureModes.length)] ?? 'soft';
  }
  if (random.next() < 0.4) policy.ioTimeoutMs = random.next() < 0.6 ? longTimeoutMs : 0;
  if (random.next() < 0.15) policy.rebuildPaused = true;
  const replicas = random.next() < 0.6 ? 1 + Math.floor(random.next() * most) : undefined;
  const request = { name: volume.name, policy, ...(replicas === undefined ? {} : { replicas }) };
  give(call, 'order-update', 'UpdateVolume', request);
  scene.atHeal.set(volume.name, async () => {
    await Promise.all(scene.orders);
    await restored(scene, volume);
    // what a process that was stopped had been asked for may have been done after that
    await scene.cluster.scheduler.sleep(lateOrderMs);
    await restored(scene, volume);
  });
  scene.after(fault.forMs, () => void restored(scene, volume));
}

/** A replica moves to a node that has none, if there is one. */
export function orderMoveReplica(call: FaultCall): void {
  const { scene, volume, random } = call;
  const { cluster } = scene;
  const { members } = scene.judge(volume);
  const replica = members[Math.floor(random.next() * members.length)];
  const taken = new Set(cluster.replicasOf(volume).map(({ node }) => node));
  const free = cluster.nodes.filter(({ index }) => !taken.has(index));
  const node = free[Math.floor(random.next() * free.length)];
  if (replica === undefined || !node) return;
  const request = { name: volume.name, replica, node: node.host, disk: '' };
  give(call, 'order-move-replica', 'MoveReplica', request);
}

export function orderMovePrimary(call: FaultCall): void {
  const { scene, volume } = call;
  const old = scene.cluster.nodes[scene.cluster.holderOf(volume)];
  if (!old) return;
  const { host } = otherThan(call, old);
  give(call, 'order-move-primary', 'MovePrimary', { name: volume.name, node: host });
}

/** Under load; at times a process dies while it is being carried out. */
function give(call: FaultCall, what: string, method: string, request: object): void {
  const { scene, random } = call;
  scene.load.burst(burstMs * 4);
  const order = scene.cluster.order(method, request).then((isDone) => {
    scene.orders.delete(order);
    if (isDone) scene.count(what);
  });
  scene.orders.add(order);
  if (random.next() < 0.35) {
    const short = { ...call, fault: { ...call.fault, forMs: 200 + random.next() * 4_000 } };
    const soonMs = random.next() < 0.5 ? random.next() * 40 : random.next() * 2_000;
    scene.after(soonMs, () => kill(short));
  }
}

/**
 * As it was made. More replicas are refused while no node can take one, for good when a disk has
 * failed: then the volume has as many as it was left with.
 */
async function restored(scene: FaultScene, volume: SimVolume): Promise<void> {
  const { name, replicas } = volume;
  const failureMode = replicas === 1 ? 'alwayson' : 'soft';
  const policy = { failureMode, ioTimeoutMs: 0, rebuildPaused: false };
  const isOrdered = async (request: object): Promise<boolean> => {
    for (let tries = 0; tries < restoreTries; tries++) {
      if (await scene.cluster.order('UpdateVolume', { name, ...request })) return true;
      await scene.cluster.scheduler.sleep(restorePauseMs);
    }
    return false;
  };
  await isOrdered({ policy });
  await isOrdered({ replicas });
}
