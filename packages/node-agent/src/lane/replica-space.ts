import type { ReplicaSpace } from '@stor/control-plane';
import type { VolumeId } from '@stor/protocol';
import { snapshotsOf, type DiskStore, type ReplicaStore } from '@stor/replicator';

/** What the replicas of these volumes take on these disks. */
export function replicaSpaces(
  stores: readonly DiskStore[],
  volumeIds: readonly VolumeId[],
): ReplicaSpace[] {
  const wanted = new Set(volumeIds);
  return stores
    .flatMap((store) => store.replicas())
    .filter(({ volumeId, failure }) => wanted.has(volumeId) && failure === null)
    .map(spaceOf);
}

function spaceOf(replica: ReplicaStore): ReplicaSpace {
  const { replicaId, volumeId, allocatedBytes } = replica;
  const known = snapshotsOf(replica);
  const space = known?.space() ?? { allocatedBytes, snapshotBytes: 0, reclaimableBytes: 0 };
  const snapshots = known?.snapshots().map(({ snapshotId, ownBytes, state, sizeBytes }) => {
    return { id: snapshotId, ownBytes, state, sizeBytes };
  });
  return { replicaId, volumeId, ...space, snapshots: snapshots ?? [] };
}
