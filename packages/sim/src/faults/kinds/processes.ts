import type { SimNode } from '../../cluster/sim-node.ts';
import { otherThan, type FaultCall } from '../fault-scene.ts';
import { burstMs, slowDiskMs } from './pace.ts';

/** A crash that was set for a file operation, and did not come, is called off after this (ms). */
const crashPatienceMs = 4_000;

export function kill({ scene, fault, node }: FaultCall): void {
  if (!node.isUp) return;
  scene.count('kill');
  node.kill();
  scene.after(fault.forMs, () => node.start());
}

export function doubleKill(call: FaultCall): void {
  kill(call);
  kill({ ...call, node: otherThan(call, call.node) });
}

/** Every process at one instant; often while one disk is slow, so that much is under way there. */
export async function killAll({ scene, fault, random, node }: FaultCall): Promise<void> {
  const { nodes, scheduler } = scene.cluster;
  const isSlow = random.next() < 0.6;
  if (isSlow) {
    node.slowDiskMs = slowDiskMs[1 + Math.floor(random.next() * 2)] ?? 200;
    await scheduler.sleep(100 + random.next() * 1_500);
    scene.load.burst(burstMs);
    await scheduler.sleep(burstMs * random.next());
  }
  scene.count('kill-all');
  for (const each of nodes) each.kill();
  node.slowDiskMs = 0;
  for (const each of nodes) {
    // often the slow one is the first that is back
    const share = isSlow && each === node && random.next() < 0.7 ? 0 : random.next();
    scene.after(50 + fault.forMs * share, () => each.start());
  }
}

export function pause({ scene, fault, node }: FaultCall): void {
  if (!node.clock.running) return;
  scene.count('pause');
  const { clock } = node;
  clock.pause();
  scene.after(fault.forMs, () => clock.resume());
}

export function power({ scene, fault, node }: FaultCall): void {
  if (!scene.mayLosePower()) return;
  scene.count('power');
  node.losePower();
  scene.after(fault.forMs, () => node.start());
}

export function powerAll(call: FaultCall): void {
  if (call.scene.mayLosePower()) cutAllPower(call, 'power-all');
}

/** All hosts, soon after some replica has become a member. */
export function powerOnJoin(call: FaultCall): void {
  const { scene, random } = call;
  scene.onNotice(
    ({ message }) => message === 'resync is complete: the replica is in sync',
    () => {
      scene.after(random.next() * 300, () => {
        if (scene.mayLosePower()) cutAllPower(call, 'power-on-join');
      });
    },
  );
}

export function cutAllPower({ scene, fault, random }: FaultCall, kind: string): void {
  scene.count(kind);
  for (const each of scene.cluster.nodes) {
    each.losePower();
    scene.after(fault.forMs * (0.5 + random.next() * 0.5), () => each.start());
  }
}

export function killInWrite(call: FaultCall): void {
  crash(call, call.node, 'kill');
}

export function powerInWrite(call: FaultCall): void {
  if (call.scene.mayLosePower()) crash(call, call.node, 'power');
}

/** In the middle of whatever operation of the disk comes then. */
function crash({ scene, fault, random }: FaultCall, node: SimNode, how: 'kill' | 'power'): void {
  if (!node.isUp) return;
  node.onCrash = () => {
    scene.count(how === 'kill' ? 'kill-in-write' : 'power-in-write');
    scene.after(fault.forMs, () => node.start());
  };
  node.files.crashAfter(1 + Math.floor(random.next() * 60), how);
  scene.after(crashPatienceMs, () => node.files.cancelCrash());
}
