import type { NodeId } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';

/**
 * True for a node that holds no replica because it has no disk, and means it so. A node that has just
 * come up and whose disks are not recorded yet is none.
 */
export function isComputeOnly(state: ClusterState, nodeId: NodeId): boolean {
  if (state.nodes.get(nodeId)?.value.computeOnly !== true) return false;
  for (const { value } of state.disks.values()) if (value.nodeId === nodeId) return false;
  return true;
}

/** Nodes that replicas may be spread over, now or once they are up. */
export function countStorageNodes(state: ClusterState): number {
  return [...state.nodes.keys()].filter((id) => !isComputeOnly(state, id)).length;
}
