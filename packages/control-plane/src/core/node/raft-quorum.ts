import type { LossSimulation, NodeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { bearsLoss, fits } from '../members/plan-members.ts';
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

/**
 * Why the node cannot give up its vote now; null when it has none, or when the others bear that, or when
 * another member takes it over.
 */
export function demotionReason(
  state: ClusterState,
  members: { voters: readonly NodeId[] | null; learners: readonly NodeId[] },
  nodeId: NodeId,
): string | null {
  const { voters, learners } = members;
  if (!voters?.includes(nodeId) || bearsLoss(state, voters, nodeId)) return null;
  if (learners.some((id) => id !== nodeId && fits(state, id))) return null;
  if (voters.length === 1) {
    return 'it is the only voter of the control plane, and no other node can take its vote over';
  }
  const left = voters.filter((id) => id !== nodeId);
  const up = left.filter((id) => isUp(state, id)).length;
  return `the control plane would have no quorum without its vote: ${up} of the ${left.length} other voters ${up === 1 ? 'is' : 'are'} up`;
}
