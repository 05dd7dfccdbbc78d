import type { DiskId, NodeId, SegmentStatus, VolumeReplica } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { ruledVolumes, volumesOn } from '../../resources/state-index.ts';
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
 * What may move, disk by disk: of most disks of a large cluster nobody asks. Left out is what moving makes
 * worse: clones and what they grow from (on one disk they share their chunks, apart they do not), and volumes
 * beside which others want to be, or from which others would rather keep away.
 */
export class MovableReplicas {
  readonly #state: ClusterState;
  readonly #isSettled: (replica: VolumeReplica) => boolean;
  readonly #isNamed: (volume: StoredVolume) => boolean;
  readonly #byDisk = new Map<DiskId, Movable[]>();
  readonly #sizes = new Map<DiskId, readonly number[]>();

  constructor(state: ClusterState, isSettled: (replica: VolumeReplica) => boolean) {
    this.#state = state;
    this.#isSettled = isSettled;
    this.#isNamed = namedByOthers(state);
  }

  /** The largest first. */
  on({ diskId, nodeId }: { diskId: DiskId; nodeId: NodeId }): readonly Movable[] {
    const known = this.#byDisk.get(diskId) ?? this.#find(diskId, nodeId);
    this.#byDisk.set(diskId, known);
    return known;
  }

  /** What the replicas of a disk take, also of those that may not move: without a look at volumes. */
  sizesOn(diskId: DiskId): readonly number[] {
    const reported = this.#state.disks.get(diskId)?.value.replicaBytes ?? {};
    const known =
      this.#sizes.get(diskId) ?? Object.values(reported).filter((bytes) => bytes >= minMoveBytes);
    this.#sizes.set(diskId, known);
    return known;
  }

  #find(diskId: DiskId, nodeId: NodeId): Movable[] {
    const state = this.#state;
    const found: Movable[] = [];
    const here = volumesOn(state.volumes, nodeId).map(({ value }) => value);
    const sharing = sharingReplicas([
      ...here,
      ...volumesOn(state.trash, nodeId).map(({ value }) => value),
    ]);
    for (const volume of here) {
      const { status, spec } = volume;
      if (status.phase !== 'ready' || spec.policy.rebuildPaused || this.#isNamed(volume)) continue;
      for (const segment of status.segments) {
        for (const replica of segment.replicas) {
          if (replica.diskId !== diskId || sharing.has(replica.id)) continue;
          const bytes = reportedBytes(state, replica);
          if (bytes < minMoveBytes || this.#isSettled(replica)) continue;
          const fillBytes = Math.max(bytes, expectedBytes(state, segment));
          found.push({ volume, segment, replica, bytes, fillBytes });
        }
      }
    }
    return found.sort((a, b) => b.bytes - a.bytes || (a.replica.id < b.replica.id ? -1 : 1));
  }
}

/** A clone lies on the disk of what it grows from, so those of one node are all that count. */
function sharingReplicas(volumes: readonly StoredVolume[]): Set<string> {
  const sharing = new Set<string>();
  for (const volume of volumes) {
    for (const { replicas } of placedSegments(volume)) {
      for (const { id, cloneOf } of replicas) {
        if (cloneOf) sharing.add(id).add(cloneOf.replicaId);
      }
    }
  }
  return sharing;
}

/** Whether a rule of affinity, or a preferred one of anti-affinity, of some other volume names it. */
function namedByOthers(state: ClusterState): (volume: StoredVolume) => boolean {
  const rules = new Map<string, { labels: Record<string, string>; owners: Set<string> }>();
  for (const { value } of ruledVolumes(state.volumes)) {
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
