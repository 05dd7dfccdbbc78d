import type { LossSimulation, NodeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { mayStop } from './node-intent.ts';

/** Other nodes that operators are about to stop, or have stopped, for a while. */
export function stoppingBeside(state: ClusterState, nodeId: NodeId): NodeId[] {
  return [...state.nodes.values()].flatMap(({ value }) =>
    value.id !== nodeId && mayStop(value) ? [value.id] : [],
  );
}

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
  const gone = new Set([nodeId, ...stoppingBeside(state, nodeId)]);
  const { left, needed, hasQuorum } = raftWithout(state, voters, gone);
  if (hasQuorum) return null;
  return `the control plane would have no quorum: ${left} of ${voters.length} voters would be up, and ${needed} are needed`;
}
