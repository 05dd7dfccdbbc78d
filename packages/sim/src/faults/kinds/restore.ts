import type { SimNode } from '../../cluster/sim-node.ts';
import type { FaultCall } from '../fault-scene.ts';
import { burstMs } from './pace.ts';

/** All agents are started again within (ms). */
const startSpreadMs = 300;
/** For the volumes to be served again (ms). */
const servedMs = 40_000;

/**
 * The control plane goes back to an older state: to a copy of before some changes of the in-sync
 * sets. Nothing else is broken then, as only replicas that are reached can tell what they remember.
 */
export async function restore(call: FaultCall): Promise<void> {
  const { scene, random } = call;
  const { backups, scheduler } = scene.cluster;
  if (!backups.isUsable() || random.next() < 0.6) {
    if (!(await backups.take())) return;
    scene.count('backup');
  }
  const changes = Math.floor(random.next() * 3);
  for (let i = 0; i < changes; i++) {
    const away = secondaryOf(call);
    away?.kill();
    scene.load.burst(burstMs * 4);
    await scheduler.sleep(500 + random.next() * 3_000);
    // at times it is still away, and behind, when all are stopped
    if (i < changes - 1 || random.next() < 0.5) away?.start();
    await scheduler.sleep(random.next() * 3_000);
  }
  const mayRestore = scene.mayLosePower() && scene.broken < 0 && !scene.isOver;
  if (mayRestore && backups.isUsable()) await putBack(call);
}

async function putBack(call: FaultCall): Promise<void> {
  const { scene, volume, random } = call;
  const { cluster, load } = scene;
  const { nodes, network, scheduler } = cluster;
  scene.count('restore');
  scene.isRestoring = true;
  for (const node of nodes) node.kill();
  network.heal();
  await cluster.backups.putBack();
  const target = nodes[Math.floor(random.next() * nodes.length)];
  if (target) load.move(volume, target.index);
  for (const node of nodes) {
    node.files.cancelCrash();
    node.slowDiskMs = 0;
    scheduler.at(random.next() * startSpreadMs, () => node.start());
  }
  const served = new Set<string>();
  scene.onNotice(
    ({ message, fields }) => {
      if (message === 'the primary serves') served.add(fields.volume ?? '');
      return served.size === cluster.volumes.length;
    },
    () => {
      scene.isRestoring = false;
    },
  );
  const endMs = scheduler.nowMs + servedMs;
  // those that rest come too
  while (scene.isRestoring && scheduler.nowMs < endMs) {
    load.burst(burstMs);
    await scheduler.sleep(250);
  }
  scene.isRestoring = false;
}

function secondaryOf({ scene, volume, random }: FaultCall): SimNode | undefined {
  const { cluster } = scene;
  const holder = cluster.holderOf(volume);
  const nodes = scene.judge(volume).members.map((id) => cluster.nodeOfReplica(id));
  const others = nodes.filter((node) => node !== holder);
  return cluster.nodes[others[Math.floor(random.next() * others.length)] ?? -1];
}
