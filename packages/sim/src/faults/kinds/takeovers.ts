import type { SimNode } from '../../cluster/sim-node.ts';
import type { FaultCall } from '../fault-scene.ts';
import { orderFence } from './fences.ts';
import { hurryWhenServed } from './moves.ts';
import { burstMs, slowDiskMs } from './pace.ts';

/** A fault that waits for a step of the product waits so long at most (ms). */
const stepPatienceMs = 20_000;
const slowLinkMs = [60, 400, 1_500];

function secondaryOf(call: FaultCall, old: SimNode): SimNode | null {
  const { scene, volume, random } = call;
  const { cluster } = scene;
  const members = scene.judge(volume).members.map((id) => cluster.nodeOfReplica(id));
  const others = members.filter((index) => index !== old.index);
  return cluster.nodes[others[Math.floor(random.next() * others.length)] ?? -1] ?? null;
}

/** The primary dies with writes under way at a slow disk, which stays slow while another settles. */
export async function slowTakeover(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { nodes, scheduler } = scene.cluster;
  const old = nodes[scene.cluster.holderOf(volume)];
  const slow = old?.isUp ? secondaryOf(call, old) : null;
  if (!old || !slow) return;
  slow.slowDiskMs = slowDiskMs[Math.floor(random.next() * slowDiskMs.length)] ?? 20;
  await scheduler.sleep(100 + random.next() * 1_000);
  scene.load.burst(burstMs * 4);
  await scheduler.sleep(burstMs * 4 * random.next());
  scene.count('slow-takeover');
  if (random.next() < 0.3 && scene.mayLosePower()) old.losePower();
  else old.kill();
  scene.after(fault.forMs, () => old.start());
  const isSlowNext = random.next() < 0.6;
  scene.load.move(volume, isSlowNext ? slow.index : otherIndex(call, old, slow));
  if (random.next() < 0.5) orderFence(scene, volume);
  hurryWhenServed(call);
  const fast = (): void => {
    slow.slowDiskMs = 0;
  };
  scene.onNotice(
    ({ message }) => message === 'the primary serves',
    () => scene.after(200 + random.next() * 3_000, fast),
    stepPatienceMs,
  );
  scene.after(stepPatienceMs, fast);
}

function otherIndex({ scene, random }: FaultCall, ...not: SimNode[]): number {
  const others = scene.cluster.nodes.filter((each) => !not.includes(each));
  return others[Math.floor(random.next() * others.length)]?.index ?? not[0]?.index ?? 0;
}

/**
 * The primary's host loses power with writes that were not flushed, and is back before another node
 * takes over: its clients reach no other one.
 */
export async function powerReturn(call: FaultCall): Promise<void> {
  const { scene, fault, volume, random } = call;
  const { nodes, scheduler } = scene.cluster;
  const old = nodes[scene.cluster.holderOf(volume)];
  if (!old?.isUp || !scene.mayLosePower()) return;
  const ends = nodes
    .filter((each) => each !== old)
    .flatMap(({ host }) =>
      scene.load.clientHosts.flatMap((client): [string, string][] => [
        [host, client],
        [client, host],
      ]),
    );
  scene.load.move(volume, old.index);
  scene.load.burst(300);
  await scheduler.sleep(100 + random.next() * 200);
  if (!old.isUp || !scene.mayLosePower()) return;
  scene.count('power-return');
  scene.block(fault.forMs + 5_000, ends);
  old.losePower();
  scene.after(fault.forMs, () => old.start());
  hurryWhenServed(call);
}

/**
 * A replica is about to become a member while its primary's links to the control plane are slow, and
 * an operator fences that primary. Then the replica sees no writes, and its node is to serve.
 */
export function fenceOnJoin(call: FaultCall): void {
  const { scene, volume, random } = call;
  const { cluster } = scene;
  const old = cluster.nodes[cluster.holderOf(volume)];
  const newcomer = old?.isUp ? secondaryOf(call, old) : null;
  if (!old || !newcomer?.isUp) return;
  newcomer.kill();
  scene.after(300 + random.next() * 2_000, () => newcomer.start());
  scene.onNotice(
    ({ message, host, fields }) => {
      if (message !== 'a change of the in-sync set is proposed' || host !== old.host) return false;
      const { members } = scene.judge(volume);
      const proposed = fields.inSync ?? [];
      return proposed.length > members.length && members.some((id) => proposed.includes(id));
    },
    () => fenceNow(call, old, newcomer),
    stepPatienceMs,
  );
}

function fenceNow(call: FaultCall, old: SimNode, newcomer: SimNode): void {
  const { scene, fault, volume, random } = call;
  const { nodes, network } = scene.cluster;
  const others = nodes.filter((each) => each !== old);
  const extraMs = slowLinkMs[Math.floor(random.next() * slowLinkMs.length)] ?? 60;
  const slowDown = (ms: number): void => {
    for (const { host } of others) {
      network.slowDown(old.host, host, ms);
      network.slowDown(host, old.host, ms);
    }
  };
  slowDown(extraMs);
  scene.after(extraMs * 8, () => slowDown(0));
  const next = others.filter((each) => each !== newcomer)[0] ?? newcomer;
  scene.after(random.next() * 2, () => {
    orderFence(scene, volume, { what: 'fence-on-join', at: next });
    scene.load.move(volume, next.index);
  });
  const peers = nodes.filter((each) => each !== newcomer);
  const ends = peers.flatMap(({ index }) => scene.cluster.dataLinks(index, newcomer.index));
  scene.after(random.next() * 200, () => scene.block(fault.forMs, ends));
  hurryWhenServed(call);
  scene.onNotice(
    ({ message }) => message === 'the primary serves',
    () => {
      scene.after(500 + random.next() * 2_500, () => {
        scene.load.move(volume, newcomer.index);
        hurryWhenServed(call);
      });
    },
    stepPatienceMs,
  );
}
