import type { LossSimulation, NodeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';

/** Whether the voters that are left, up now, are a majority of all. */
export function raftWithout(
  state: ClusterState,
  voters: readonly NodeId[],
  gone: ReadonlySet<NodeId>,
): NonNullable<LossSimulation['raft']> {
  const left = voters.filter((id) => isUp(state, id) && !gone.has(id)).length;
  const needed = Math.floor(voters.length / 2) + 1;
  return { voters: voters.length, left, needed, hasQuorum: left >= needed };
}

/** Why the control plane would stop without this node; null when it would not, or does not matter. */
export function quorumReason(
  state: ClusterState,
  voters: readonly NodeId[] | null,
  nodeId: NodeId,
): string | null {
  if (!voters?.includes(nodeId)) return null;
  const { left, needed, hasQuorum } = raftWithout(state, voters, new Set([nodeId]));
  if (hasQuorum) return null;
  return `the control plane would have no quorum: ${left} of ${voters.length} voters would be up, and ${needed} are needed`;
}
