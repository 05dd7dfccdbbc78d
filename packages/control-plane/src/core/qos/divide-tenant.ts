import type { NodeId, QosLimitName, QosSpec } from '@stor/protocol';
import { qosLimitNames } from '@stor/protocol';
import type { NodeShare } from '../../resources/tenant-record.ts';

/** A tenant's limits are divided in so many parts. */
export const allParts = 10_000;
/** Those that the leader gives to nodes; the others are for nodes that it has not given any yet. */
export const sharedParts = 9_900;
/** Nodes up to which what each has from the beginning adds up to what is kept back for that. */
const fewNodes = 10;

/**
 * What every node has without being given anything, so that a volume that has just been attached is
 * served: 10 of 10,000, and less in clusters of more than ten nodes, of which not all know the same number.
 */
export function firstParts(nodes: number): number {
  if (nodes <= fewNodes) return (allParts - sharedParts) / fewNodes;
  return Math.max(1, Math.floor((allParts - sharedParts) / (2 * nodes)));
}

/** What one node says, as far as the leader knows. */
export interface SharingNode {
  id: NodeId;
  /** volumes of the tenant are attached there */
  isUser: boolean;
  /** It has lost its node lease, and time enough has passed that it knows: it uses nothing it was given. */
  isGone: boolean;
  /** it has confirmed that it uses what the present division gives it */
  hasConfirmed: boolean;
}

/**
 * The next division: users get what is their target, equal parts unless it is said. What is taken from a node is given to another one only once
 * the first has confirmed that it uses less, or is gone: the sum of what nodes may use is never more than
 * `sharedParts`, whatever is lost or late. Null: it stays as it is.
 */
export function divideTenant(
  present: Readonly<Record<NodeId, NodeShare>>,
  nodes: readonly SharingNode[],
  targets: ReadonlyMap<NodeId, number> = new Map(),
): Record<NodeId, NodeShare> | null {
  const users = nodes.filter(({ isUser, isGone }) => isUser && !isGone).length;
  const fair = users === 0 ? 0 : Math.floor(sharedParts / users);
  const next: Record<NodeId, NodeShare> = {};
  const known = new Map(nodes.map((node) => [node.id, node]));
  let free = sharedParts;
  for (const [id, share] of Object.entries(present)) {
    const node = known.get(id);
    // one that is not known at all has left for ever
    const bound = !node || node.isGone ? 0 : node.hasConfirmed ? share.parts : share.atMost;
    const wanted = node?.isUser === true && !node.isGone ? (targets.get(id) ?? fair) : 0;
    free -= bound;
    // while nobody uses it, it stays where it was: what is not needed elsewhere is not moved
    const kept = users === 0 ? share.parts : Math.min(wanted, share.parts);
    if (bound > 0 || kept > 0) next[id] = { parts: Math.min(kept, bound), atMost: bound };
  }
  for (const { id, isUser, isGone } of nodes) {
    if (!isUser || isGone) continue;
    const { parts, atMost } = next[id] ?? { parts: 0, atMost: 0 };
    const reach = Math.min(targets.get(id) ?? fair, atMost + Math.max(0, free));
    const raised = Math.max(parts, reach);
    free -= Math.max(0, raised - atMost);
    next[id] = { parts: raised, atMost: Math.max(atMost, raised) };
  }
  return isSame(present, next) ? null : next;
}

/** Only what nodes use from now on counts: what is confirmed meanwhile is no reason to write. */
function isSame(
  a: Readonly<Record<NodeId, NodeShare>>,
  b: Readonly<Record<NodeId, NodeShare>>,
): boolean {
  const ids = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...ids].every((id) => (a[id]?.parts ?? 0) === (b[id]?.parts ?? 0));
}

/** What falls to a node that has so many parts; it divides it among its lanes. */
export function shareOf(qos: QosSpec, parts: number): QosSpec {
  const share: QosSpec = qos.burst && qos.burst.factor > 1 ? { burst: qos.burst } : {};
  for (const name of qosLimitNames) {
    const limit: number = qos[name satisfies QosLimitName] ?? 0;
    if (limit > 0) share[name] = Math.max(1, Math.floor((limit * parts) / allParts));
  }
  return share;
}
