import type { NodeId, QosSpec } from '@stor/protocol';
import { qosLimitNames } from '@stor/protocol';
import type { LiveThrottle } from '../../agent-port.ts';
import { allParts, sharedParts } from './divide-tenant.ts';

/** What a user has at least, busy or not, so that it need not wait for a new division (parts). */
const floorParts = 100;
/** What one that is not throttled may grow by before it is (of what it uses). */
const headroom = 1.5;
/** Divisions that differ by less are not worth a change (parts). */
const leastChange = 200;
/** It waits for the limits of its tenant when requests waited for so much of the time. */
const throttledShare = 0.05;

/** What the volumes of a tenant on one node did of late. */
export interface NodeDemand {
  /** of the limit that they use most */
  usedParts: number;
  /** requests waited for what the node has of the tenant's limits */
  isThrottled: boolean;
}

export interface DemandingNode {
  id: NodeId;
  /** what it has now */
  parts: number;
  /** null: not known, or not any more */
  demand: NodeDemand | null;
}

/**
 * How a tenant's limits would best be divided now: those that need less than their share leave the rest
 * to those that wait. While something is not known the parts are equal; while nobody waits they stay.
 */
export function targetsByDemand(nodes: readonly DemandingNode[]): Map<NodeId, number> {
  if (nodes.length === 0) return new Map();
  const fair = Math.floor(sharedParts / nodes.length);
  if (nodes.some(({ demand }) => demand === null)) return equalParts(nodes, fair);
  const floor = Math.min(floorParts, fair);
  const isSettled = nodes.every(({ parts }) => parts >= floor);
  const waits = nodes.some(({ demand }) => demand?.isThrottled);
  if (isSettled && !waits) return new Map(nodes.map(({ id, parts }) => [id, parts]));
  const wants = nodes.map(({ id, demand }) => ({ id, want: wanted(demand, floor) }));
  const targets = filled(wants);
  const isMuch = nodes.some(
    ({ id, parts }) => Math.abs((targets.get(id) ?? 0) - parts) >= leastChange,
  );
  return isSettled && !isMuch ? new Map(nodes.map(({ id, parts }) => [id, parts])) : targets;
}

function equalParts(nodes: readonly DemandingNode[], fair: number): Map<NodeId, number> {
  return new Map(nodes.map(({ id }) => [id, fair]));
}

function wanted(demand: NodeDemand | null, floor: number): number {
  if (!demand || demand.isThrottled) return Infinity;
  return Math.max(floor, Math.ceil(demand.usedParts * headroom));
}

/** Water filling: the smallest wishes first; what is left is divided equally among the others. */
function filled(wants: readonly { id: NodeId; want: number }[]): Map<NodeId, number> {
  const targets = new Map<NodeId, number>();
  const order = [...wants].sort((a, b) => a.want - b.want);
  let free = sharedParts;
  for (const [index, { id, want }] of order.entries()) {
    const given = Math.min(want, Math.floor(free / (order.length - index)));
    targets.set(id, given);
    free -= given;
  }
  return targets;
}

/** From what the volumes of one node said before and now; `passedMs` lies between. */
export function demandOf(
  qos: QosSpec,
  changes: readonly { before: LiveThrottle; now: LiveThrottle }[],
  passedMs: number,
): NodeDemand {
  const sum = (of: (each: LiveThrottle) => number): number =>
    changes.reduce((total, { before, now }) => total + Math.max(0, of(now) - of(before)), 0);
  const used = {
    readIops: sum((each) => each.readOps),
    writeIops: sum((each) => each.writeOps),
    iops: sum((each) => each.readOps + each.writeOps),
    readBps: sum((each) => each.readBytes),
    writeBps: sum((each) => each.writeBytes),
    bps: sum((each) => each.readBytes + each.writeBytes),
  };
  let usedParts = 0;
  for (const name of qosLimitNames) {
    const limit: number = qos[name] ?? 0;
    if (limit <= 0) continue;
    const perSecond = (used[name] * 1_000) / Math.max(1, passedMs);
    usedParts = Math.max(usedParts, (perSecond / limit) * allParts);
  }
  const waitedMs = sum((each) => each.tenantMs);
  const waitsNow = changes.some(({ now }) => now.waitsFor === 'tenant');
  return { usedParts, isThrottled: waitsNow || waitedMs > passedMs * throttledShare };
}
