import { controlHost } from '../../cluster/control-model.ts';
import { otherThan, type FaultCall } from '../fault-scene.ts';

/** Both sides of a split hurry for so long at a time (ms). */
const splitBurstMs = 60;
/** When they do, after the new primary began to serve (ms). */
const splitBurstsAtMs = [0, 250, 1_000, 3_000];

export function move({ scene, volume, random }: FaultCall): void {
  scene.count('move');
  scene.load.move(volume, Math.floor(random.next() * scene.cluster.nodes.length));
}

/**
 * The primary is cut off from all nodes, and one client goes on elsewhere, while another one still
 * asks the old primary: what that reads must not be old.
 */
export async function split(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { nodes, scheduler } = scene.cluster;
  const old = nodes[scene.cluster.holderOf(volume)];
  if (!old?.clock.running) return;
  const other = otherThan(call, old);
  const mover = scene.load.split(volume, other.index, fault.forMs);
  if (mover === null) return;
  scene.count('split');
  const hosts = nodes.filter((each) => each !== old).map((each) => each.host);
  const ends = [...hosts, controlHost].flatMap((host): [string, string][] => [
    [old.host, host],
    [host, old.host],
  ]);
  const clientEnds: [string, string][] = [
    [old.host, mover],
    [mover, old.host],
  ];
  scene.block(fault.forMs, clientEnds);
  if (random.next() < 0.4) {
    hurryWhenServed(call);
    scene.block(fault.forMs, ends);
  } else {
    // first without the control plane only: replicas renew its leases until the next one fences them
    scene.block(fault.forMs, scene.cluster.controlLinks(old.index));
    const delayMs = random.next() < 0.5 ? 0 : random.next() * 3;
    scene.onNotice(
      ({ message, fields }) => message === 'attachment granted' && fields.volume === volume.name,
      () => {
        scene.after(delayMs, () => scene.block(fault.forMs, ends));
        hurryWhenServed(call);
      },
      fault.forMs,
    );
  }
  await scheduler.sleep(fault.forMs);
}

/** When the next primary serves, both sides hurry, at once and a little later. */
export function hurryWhenServed({ scene }: FaultCall): void {
  scene.onNotice(
    ({ message }) => message === 'the primary serves',
    () => {
      for (const delayMs of splitBurstsAtMs) {
        scene.after(delayMs, () => scene.load.burst(splitBurstMs));
      }
    },
  );
}
