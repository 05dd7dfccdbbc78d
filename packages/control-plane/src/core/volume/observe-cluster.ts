import type { Volume } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { describePools } from '../disk/describe-pools.ts';
import { PlacementBoard } from '../placement/placement-board.ts';
import { countViolations } from '../placement/placement-violations.ts';
import { observeRebalance } from '../rebalance/describe-rebalance.ts';
import { describeScrubs } from '../scrub/scrub-record.ts';
import { describeNode } from './describe-cluster.ts';
import type { ClusterObservation } from './describe-cluster.ts';

/** What the leader shows in metrics; `roles`: of the members of the store; `volumes` are described by whoever can ask their primaries. */
export function observeCluster(
  state: ClusterState,
  roles: Parameters<typeof describeNode>[2],
  volumes: Volume[],
): ClusterObservation {
  return {
    nodes: [...state.nodes.values()].map((node) => describeNode(node, state, roles)),
    volumes,
    scrubs: describeScrubs(state),
    trashedVolumes: state.trash.size,
    pools: describePools(state),
    violations: countViolations(new PlacementBoard(state)),
    rebalance: observeRebalance(state),
  };
}
