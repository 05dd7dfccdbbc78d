import type { FaultCall } from '../fault-scene.ts';
import { slowDiskOf, untilMarksAreCleared } from './joins.ts';
import { power } from './processes.ts';

/** What is waited for does not come later than this (ms). */
const patienceMs = 15_000;
/** The disks of the members are slow for so long when one returns (ms), and so slow. */
const slowForMs = 4_000;
const slowMs = [20, 60, 200];

/**
 * A volume is written in all places, discarded as a whole, as by mkfs, and rests. Then all agents die
 * and come back with nothing prepared for new chunks, one host without its memory, later than the
 * others. In the moment of its return the first writes since come, on slow disks.
 */
export async function discard(call: FaultCall): Promise<void> {
  const { scene, random, volume, node } = call;
  const { cluster, load } = scene;
  const { nodes, scheduler } = cluster;
  if (!nodes.every(({ clock }) => clock.running) || scene.membersBut(volume, node.index) < 1)
    return;
  let isSwept = false;
  void load.sweep(volume).then(() => (isSwept = true));
  load.hush(patienceMs * 2);
  await scheduler.until(() => isSwept || scene.isOver, patienceMs, 100);
  if (!isSwept) return;
  await untilMarksAreCleared(call);
  if (scene.isOver || !scene.mayLosePower() || nodes.some(({ clock }) => !clock.running)) return;
  scene.count('discard');
  power({ ...call, fault: { ...call.fault, forMs: patienceMs } });
  for (const other of nodes) if (other !== node) restart(call, other.index);
  load.hush(0);
  load.look(patienceMs * 2);
  load.burst(patienceMs);
  let isServed = false;
  scene.onNotice(
    ({ message }) => message === 'the primary serves',
    () => {
      isServed = true;
      load.burst(50);
      scene.after(300 + random.next() * 700, () => node.start());
    },
    patienceMs,
  );
  scene.onNotice(
    ({ host, message }) => host === node.host && message === 'agent started',
    () => {
      const extraMs = slowMs[Math.floor(random.next() * slowMs.length)] ?? 60;
      for (const other of nodes)
        if (other !== node) slowDiskOf(call, other.index, extraMs, slowForMs);
      load.look(0);
      load.burst(150);
      scene.after(slowForMs, () => load.move(volume, node.index));
    },
    patienceMs,
  );
  await scheduler.until(() => isServed || scene.isOver, patienceMs, 100);
  load.burst(50);
  await scheduler.sleep(slowForMs);
  load.look(0);
}

function restart({ scene, random }: FaultCall, index: number): void {
  const node = scene.cluster.nodes[index];
  node?.kill();
  scene.after(50 + random.next() * 300, () => node?.start());
}
