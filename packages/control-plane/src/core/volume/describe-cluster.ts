import type {
  ClusterStatus,
  Node,
  Pool,
  Scrub,
  ViolationKind,
  Volume,
  VolumeHealth,
} from '@stor/protocol';
import { isComputeOnly } from '../node/compute-only.ts';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { NodeRecord } from '../../resources/records.ts';
import { describeDisk } from '../disk/describe-disk.ts';

/** What the leader shows in metrics. */
export interface ClusterObservation {
  nodes: Node[];
  volumes: Volume[];
  scrubs: Scrub[];
  trashedVolumes: number;
  pools: Pool[];
  /** rules of placement that are broken, by kind */
  violations: Record<ViolationKind, number>;
  rebalance: RebalanceObservation;
}

/** The last rebalance, and how unequal disks are. */
export interface RebalanceObservation {
  isRunning: boolean;
  moved: number;
  movedBytes: number;
  /** between the fullest and the emptiest disk of each tag, 0 to 1 */
  spreads: { tag: string; spread: number }[];
}

/** Who leads the cluster store, and who of its members has no vote. */
export interface StoreRoles {
  leaderId: string | null;
  learners?: readonly string[];
}

/** What `node inspect` shows. */
export function describeNode(
  node: Versioned<NodeRecord>,
  state: ClusterState,
  roles: StoreRoles,
): Node {
  const { id, name, labels, createdAtMs, addresses } = node.value;
  const up = isUp(state, id);
  return {
    metadata: { id, name, labels, createdAtMs, resourceVersion: node.modRevision },
    spec: { ...node.value.spec },
    status: {
      state: up ? 'up' : 'down',
      addresses,
      agentInstance: node.value.agentInstance,
      bootId: node.value.bootId,
      version: node.value.version,
      raftRole: up ? roleOf(id, roles) : 'none',
      computeOnly: isComputeOnly(state, id),
    },
  };
}

function roleOf(id: string, { leaderId, learners }: StoreRoles): Node['status']['raftRole'] {
  if (id === leaderId) return 'leader';
  return learners?.includes(id) ? 'learner' : 'voter';
}

/** Counts for `cluster status`; what is offline or failed offers no room. */
export function countCluster(
  state: ClusterState,
  healths: VolumeHealth[],
): {
  nodes: { total: number; up: number };
  disks: { total: number; online: number; capacityBytes: number; usedBytes: number };
  volumes: ClusterStatus['volumes'];
} {
  const disks = [...state.disks.values()].map(
    (disk) => describeDisk(disk, state, new Map()).status,
  );
  const online = disks.filter((disk) => disk.state === 'online');
  const count = (health: VolumeHealth): number => healths.filter((h) => h === health).length;
  return {
    nodes: {
      total: state.nodes.size,
      up: [...state.nodes.keys()].filter((id) => isUp(state, id)).length,
    },
    disks: {
      total: disks.length,
      online: online.length,
      capacityBytes: online.reduce((sum, disk) => sum + disk.capacityBytes, 0),
      usedBytes: online.reduce((sum, disk) => sum + disk.usedBytes, 0),
    },
    volumes: {
      total: healths.length,
      healthy: count('healthy'),
      degraded: count('degraded'),
      suspended: count('suspended'),
      unavailable: count('unavailable'),
    },
  };
}
