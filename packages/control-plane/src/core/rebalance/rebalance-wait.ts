import type { SegmentStatus } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { unsettledVolumes, volumesOn } from '../../resources/state-index.ts';
import { nodesOf } from '../controllers/replica-sites.ts';
import type { BegunMove, RebalanceRecord } from './rebalance-record.ts';

/**
 * Why no further move begins now, in words; null when one may. Repairs come first: while a copy is
 * missing anywhere, disks and network are left to those who bring it back.
 */
export function rebalanceWait(state: ClusterState, record: RebalanceRecord): string | null {
  for (const [id, { value: node }] of state.nodes) {
    if (isUp(state, id)) continue;
    if (volumesOn(state.volumes, id).some(({ value }) => hasReplicaOn(value, id))) {
      return `node ${node.name} is down, and replicas lie on it`;
    }
  }
  for (const { value } of unsettledVolumes(state.volumes)) {
    if (value.status.phase !== 'ready') continue;
    const own = record.moves.filter(({ volumeId }) => volumeId === value.metadata.id);
    for (const segment of value.status.segments) {
      const why = busyWith(segment, value.spec.replicas, own);
      if (why !== null) return `volume ${value.metadata.name} ${why}`;
    }
  }
  return null;
}

function hasReplicaOn({ status }: StoredVolume, nodeId: string): boolean {
  return status.segments.some(({ replicas }) => replicas.some((r) => r.nodeId === nodeId));
}

function busyWith(
  { replicas, inSync }: SegmentStatus,
  wanted: number,
  own: readonly BegunMove[],
): string | null {
  const isOurs = (id: string): boolean =>
    own.some((move) => move.toReplicaId === id || move.fromReplicaId === id);
  const isGood = (id: string, state: string): boolean => state === 'ready' && inSync.includes(id);
  const bad = replicas.some((r) => !isOurs(r.id) && r.leaving !== true && !isGood(r.id, r.state));
  // the one that leaves counts until the one that comes is there
  const good = replicas.filter(
    (r) => (r.leaving !== true || isOurs(r.id)) && isGood(r.id, r.state),
  );
  if (bad || nodesOf(good) < wanted) return 'is degraded: it is repaired first';
  const leaves = replicas.some((r) => r.leaving === true && !isOurs(r.id));
  return leaves ? 'moves or loses a replica for another reason' : null;
}
