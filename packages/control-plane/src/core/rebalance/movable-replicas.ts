import type { DiskId, ReplicaId, SegmentStatus, VolumeReplica } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { expectedBytes, reportedBytes } from '../placement/disk-use.ts';
import { hasLabels } from '../placement/placement-board.ts';
import { placedSegments } from '../volume/segment-size.ts';

/** Replicas that take less are left where they are: disks do not report so small changes (bytes). */
export const minMoveBytes = 16 * 1024 * 1024;

/** A replica that a rebalance may move, as far as its record goes. */
export interface Movable {
  volume: StoredVolume;
  segment: SegmentStatus;
  replica: VolumeReplica;
  /** what its disk gets back */
  bytes: number;
  /** what another disk must take */
  fillBytes: number;
}

/**
 * By disk, the largest first. Left out is what moving makes worse: clones and what they grow from (on one
 * disk they share their chunks, apart they do not), and volumes beside which others want to be, or from
 * which others would rather keep away.
 */
export function movableReplicas(
  state: ClusterState,
  isSettled: (replica: VolumeReplica) => boolean,
): Map<DiskId, Movable[]> {
  const sharing = sharingReplicas(state);
  const isNamed = namedByOthers(state);
  const byDisk = new Map<DiskId, Movable[]>();
  for (const { value: volume } of state.volumes.values()) {
    const { status, spec } = volume;
    if (status.phase !== 'ready' || spec.policy.rebuildPaused || isNamed(volume)) continue;
    for (const segment of status.segments) {
      for (const replica of segment.replicas) {
        const bytes = reportedBytes(state, replica);
        if (bytes < minMoveBytes || isSettled(replica) || sharing.has(replica.id)) continue;
        const fillBytes = Math.max(bytes, expectedBytes(state, segment));
        const movable = { volume, segment, replica, bytes, fillBytes };
        const known = byDisk.get(replica.diskId);
        if (known) known.push(movable);
        else byDisk.set(replica.diskId, [movable]);
      }
    }
  }
  for (const all of byDisk.values()) all.sort((a, b) => b.bytes - a.bytes);
  return byDisk;
}

function sharingReplicas(state: ClusterState): Set<ReplicaId> {
  const sharing = new Set<ReplicaId>();
  for (const volumes of [state.volumes, state.trash]) {
    for (const { value } of volumes.values()) {
      for (const { replicas } of placedSegments(value)) {
        for (const { id, cloneOf } of replicas) {
          if (!cloneOf) continue;
          sharing.add(id);
          sharing.add(cloneOf.replicaId);
        }
      }
    }
  }
  return sharing;
}

/** Whether a rule of affinity, or a preferred one of anti-affinity, of some other volume names it. */
function namedByOthers(state: ClusterState): (volume: StoredVolume) => boolean {
  const rules = new Map<string, { labels: Record<string, string>; owners: Set<string> }>();
  for (const { value } of state.volumes.values()) {
    const { affinity = [], antiAffinity = [] } = value.spec.placement ?? {};
    for (const { labels } of [...affinity, ...antiAffinity.filter((rule) => !rule.required)]) {
      const key = JSON.stringify(Object.entries(labels).sort());
      const known = rules.get(key) ?? { labels, owners: new Set<string>() };
      known.owners.add(value.metadata.id);
      rules.set(key, known);
    }
  }
  if (rules.size === 0) return () => false;
  return ({ metadata }) =>
    [...rules.values()].some(
      ({ labels, owners }) =>
        hasLabels(metadata.labels, labels) && (owners.size > 1 || !owners.has(metadata.id)),
    );
}
