import type { DiskId, SegmentStatus, VolumeReplica } from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { diskShares, unsettledVolumes } from '../../resources/state-index.ts';
import { placedSegments, promisedSizeOf } from '../volume/segment-size.ts';

/** What the records say of the replicas on one disk. */
export interface DiskUse {
  replicas: number;
  /** sum of the sizes of what has replicas here; volumes are thin, so it may exceed the disk */
  provisionedBytes: number;
  /** what replicas that are being filled here will still take, as far as it is known */
  comingBytes: number;
}

export const unused: DiskUse = { replicas: 0, provisionedBytes: 0, comingBytes: 0 };

/** Those that exist, and those in the trash: their replicas lie on disks all the same. */
export function keptVolumes(state: ClusterState): Versioned<StoredVolume>[] {
  return [...state.volumes.values(), ...state.trash.values()];
}

/**
 * Replicas and promises of each disk that has any. Sums come from the index of the tables; what is on
 * its way only from volumes at which something is under way. `instead`: see `PlacementBoard`.
 */
export function diskUses(
  state: ClusterState,
  instead: StoredVolume | null = null,
): Map<DiskId, DiskUse> {
  const uses = new Map<DiskId, DiskUse>();
  const useOf = (diskId: DiskId): DiskUse => {
    const use = uses.get(diskId) ?? { ...unused };
    uses.set(diskId, use);
    return use;
  };
  const count = (volume: StoredVolume, sign: 1 | -1): void => {
    for (const segment of placedSegments(volume)) {
      const bytes = promisedSizeOf(volume, segment.index);
      for (const { diskId } of segment.replicas) {
        const use = useOf(diskId);
        use.replicas += sign;
        use.provisionedBytes += sign * bytes;
      }
    }
  };
  const countComing = (volume: StoredVolume): void => {
    for (const segment of placedSegments(volume)) {
      const expected = expectedBytes(state, segment);
      for (const replica of segment.replicas) {
        const bytes = comingBytes(state, segment, replica, expected);
        if (bytes > 0) useOf(replica.diskId).comingBytes += bytes;
      }
    }
  };
  for (const volumes of [state.volumes, state.trash]) {
    for (const [diskId, { replicas, provisionedBytes }] of diskShares(volumes)) {
      const use = useOf(diskId);
      use.replicas += replicas;
      use.provisionedBytes += provisionedBytes;
    }
    for (const { value } of unsettledVolumes(volumes)) {
      if (value.metadata.id !== instead?.metadata.id) countComing(value);
    }
  }
  if (!instead) return uses;
  const recorded = state.volumes.get(instead.metadata.id);
  if (recorded) count(recorded.value, -1);
  count(instead, 1);
  countComing(instead);
  return uses;
}

/**
 * What a replica of this segment takes once it is filled: as much as the largest that is in sync,
 * by what the disks reported last; 0 when nobody has said it.
 */
export function expectedBytes(state: ClusterState, segment: SegmentStatus): number {
  const members = segment.replicas.filter(({ id }) => segment.inSync.includes(id));
  return Math.max(0, ...members.map((replica) => reportedBytes(state, replica)));
}

/** What this replica takes of its disk, by the last report; 0 when it is not known. */
export function reportedBytes(
  state: ClusterState,
  replica: Pick<VolumeReplica, 'id' | 'diskId'>,
): number {
  return state.disks.get(replica.diskId)?.value.replicaBytes?.[replica.id] ?? 0;
}

function comingBytes(
  state: ClusterState,
  segment: SegmentStatus,
  replica: VolumeReplica,
  expected: number,
): number {
  const isFilled = segment.inSync.includes(replica.id) || replica.filled === true;
  if (isFilled || replica.state === 'failed' || replica.leaving === true) return 0;
  return Math.max(0, expected - reportedBytes(state, replica));
}
