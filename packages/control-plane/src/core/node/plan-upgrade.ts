import type { NodeId, UpgradePlan } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { NodeRecord } from '../../resources/records.ts';
import { attachmentMoves } from './plan-attachments.ts';
import { effectsOf } from './plan-node.ts';
import { quorumReason } from './raft-quorum.ts';

/**
 * Agents are restarted one after the other: first those without a vote in the control plane, then its
 * voters, its leader last, so that it changes once. A node may be restarted when every volume is served
 * without it, and the control plane too.
 */
export function planUpgrade(
  state: ClusterState,
  sight: { leaderId: NodeId | null; voters: readonly NodeId[] | null },
): UpgradePlan {
  const { leaderId, voters } = sight;
  const roleOf = (id: NodeId): string => {
    if (id === leaderId) return 'leader';
    return voters?.includes(id) ? 'voter' : 'none';
  };
  const order = ['none', 'voter', 'leader'];
  const nodes = [...state.nodes.values()].sort(
    (a, b) =>
      order.indexOf(roleOf(a.value.id)) - order.indexOf(roleOf(b.value.id)) ||
      (a.value.name < b.value.name ? -1 : 1),
  );
  const steps = nodes.map((node) => stepOf(state, node, roleOf(node.value.id), voters));
  const down = nodes.filter(({ value }) => !isUp(state, value.id)).map(({ value }) => value.name);
  const reasons = steps.flatMap(({ node, reasons: [first] }) =>
    first === undefined ? [] : [`node ${node}: ${first}`],
  );
  if (down.length > 0) {
    reasons.unshift(
      `${down.join(', ')} ${down.length === 1 ? 'is' : 'are'} down: start that first`,
    );
  }
  return { versions: versionsOf(nodes), steps, safe: reasons.length === 0, reasons };
}

function stepOf(
  state: ClusterState,
  { value }: Versioned<NodeRecord>,
  raftRole: string,
  voters: readonly NodeId[] | null,
): UpgradePlan['steps'][number] {
  const { id, name, version } = value;
  const effects = effectsOf(state, id);
  const reasons = effects
    .filter(({ becomes }) => becomes !== 'degraded')
    .map((effect) =>
      effect.inSync === 0
        ? `it holds the only in-sync copy of volume ${effect.volume}`
        : `volume ${effect.volume} would be ${effect.becomes}: ${effect.text}`,
    );
  const quorum = quorumReason(state, voters, id);
  if (quorum !== null) reasons.push(quorum);
  const attachments = attachmentMoves(state, id).length;
  return { node: name, nodeId: id, version, raftRole, attachments, effects, reasons };
}

function versionsOf(nodes: readonly Versioned<NodeRecord>[]): UpgradePlan['versions'] {
  const byVersion = new Map<string, string[]>();
  for (const { value } of nodes) {
    byVersion.set(value.version, [...(byVersion.get(value.version) ?? []), value.name]);
  }
  return [...byVersion]
    .map(([version, names]) => ({ version, nodes: names.sort() }))
    .sort((a, b) => (a.version < b.version ? -1 : 1));
}
