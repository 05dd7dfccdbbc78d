import type { NodeId, NodePlan, NodeVerb } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { describeNode } from '../volume/describe-cluster.ts';
import { StorError } from '@stor/protocol';

/**
 * What a verb means for a node, in a state in which the verb is wanted already. `leaderId`: the
 * leading member of the cluster store.
 */
export function planNode(
  state: ClusterState,
  nodeId: NodeId,
  verb: NodeVerb,
  leaderId: string | null,
): NodePlan {
  const node = state.nodes.get(nodeId);
  if (!node) throw new StorError('NOT_FOUND', `there is no node ${nodeId}`);
  return {
    verb,
    node: describeNode(node, state, leaderId),
    attachments: [],
    moves: [],
    bytes: 0,
    rate: { bytesPerSecond: assumedBytesPerSecond, source: 'assumed' },
    etaMs: 0,
    effects: [],
    blocked: [],
    safe: true,
    reasons: [],
  };
}

/** What a node copies while no rebuild runs that could be measured (bytes per second). */
export const assumedBytesPerSecond = 64 * 1024 * 1024;
