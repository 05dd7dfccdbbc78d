import { controlHost } from '../../cluster/control-model.ts';
import { otherThan, type FaultCall } from '../fault-scene.ts';

const slowLinkMs = [5, 60, 700];

/** Connections between two nodes break; new ones are possible at once. */
export function cut(call: FaultCall): void {
  const { scene, node } = call;
  if (scene.cluster.network.cut(node.host, otherThan(call, node).host) > 0) scene.count('cut');
}

export function partition(call: FaultCall): void {
  const { scene, fault, node } = call;
  const other = otherThan(call, node);
  scene.count('partition');
  scene.block(fault.forMs, [
    [node.host, other.host],
    [other.host, node.host],
  ]);
}

export function oneWay(call: FaultCall): void {
  const { scene, fault, node, random } = call;
  const other = otherThan(call, node);
  scene.count('one-way');
  const ends: [string, string] =
    random.next() < 0.5 ? [node.host, other.host] : [other.host, node.host];
  scene.block(fault.forMs, [ends]);
}

/** Cut off from all nodes and the control plane, in one or both directions; clients stay or not. */
export function isolate({ scene, fault, node, random }: FaultCall): void {
  scene.count('isolate');
  const dice = random.next();
  const others = scene.cluster.nodes.filter((each) => each !== node).map((each) => each.host);
  const hosts = [...others, controlHost];
  if (random.next() < 0.4) hosts.push(...scene.load.clientHosts);
  const ends: [string, string][] = [];
  for (const host of hosts) {
    if (dice < 0.8) ends.push([node.host, host]);
    if (dice > 0.2) ends.push([host, node.host]);
  }
  scene.block(fault.forMs, ends);
}

export function controlCut({ scene, fault, node, random }: FaultCall): void {
  scene.count('control-cut');
  const ends = scene.cluster.controlLinks(node.index);
  // one direction at times
  const isOneWay = random.next() < 0.3;
  scene.block(fault.forMs, isOneWay ? ends.filter((_, i) => i % 2 === 0) : ends);
}

export function slowLink(call: FaultCall): void {
  const { scene, fault, node, random } = call;
  const { network } = scene.cluster;
  const other = otherThan(call, node);
  scene.count('slow-link');
  const extraMs = slowLinkMs[Math.floor(random.next() * slowLinkMs.length)] ?? 5;
  network.slowDown(node.host, other.host, extraMs);
  scene.after(fault.forMs, () => network.slowDown(node.host, other.host, 0));
}
