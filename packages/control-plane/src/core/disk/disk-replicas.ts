import type { DiskId, SegmentStatus, VolumeReplica } from '@stor/protocol';
import type { DiskReplicaView } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { keptVolumes, reportedBytes } from '../placement/disk-use.ts';
import { nodesOf } from '../controllers/replica-sites.ts';
import { placedSegments, segmentSizeOf } from '../volume/segment-size.ts';

export interface PlacedReplica {
  volume: StoredVolume;
  segment: SegmentStatus;
  replica: VolumeReplica;
}

/** The replicas that lie on a disk, by the records; volumes by name. */
export function replicasOn(state: ClusterState, diskId: DiskId): PlacedReplica[] {
  const found: PlacedReplica[] = [];
  for (const { value: volume } of keptVolumes(state)) {
    for (const segment of placedSegments(volume)) {
      for (const replica of segment.replicas) {
        if (replica.diskId === diskId) found.push({ volume, segment, replica });
      }
    }
  }
  const key = ({ volume, segment }: PlacedReplica): string =>
    `${volume.metadata.name} ${String(segment.index).padStart(6, '0')}`;
  return found.sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

/** What is still to be deleted from a disk: replicas that left, and those of deleted volumes. */
export function leftoversOn(
  state: ClusterState,
  diskId: DiskId,
): { id: string; volume: StoredVolume; segment: number }[] {
  const found: { id: string; volume: StoredVolume; segment: number }[] = [];
  const isLeft = (id: string): boolean => state.reports.get(id)?.value.state !== 'deleted';
  for (const { value: volume } of [...state.volumes.values(), ...state.deleted.values()]) {
    const isDeleted = state.deleted.has(volume.metadata.id);
    for (const { index, replicas, removed = [] } of placedSegments(volume)) {
      for (const replica of [...removed, ...(isDeleted ? replicas : [])]) {
        if (replica.diskId !== diskId || !isLeft(replica.id)) continue;
        found.push({ id: replica.id, volume, segment: index });
      }
    }
  }
  return found;
}

/** Nodes that are up and have an in-sync replica of the segment on another disk that works. */
export function otherCopies(state: ClusterState, { segment, replica }: PlacedReplica): number {
  const copies = segment.replicas.filter(
    (other) =>
      other.diskId !== replica.diskId &&
      other.state === 'ready' &&
      segment.inSync.includes(other.id) &&
      isUp(state, other.nodeId) &&
      state.disks.get(other.diskId)?.value.state === 'online',
  );
  return nodesOf(copies);
}

/** A volume in the trash, where nothing is moved, and the two ways to get it off a disk. */
export function trashText(state: ClusterState, { metadata }: StoredVolume): string {
  const { id, name } = metadata;
  const named = [...state.trash.values()].filter(({ value }) => value.metadata.name === name);
  const said = named.length === 1 ? name : id;
  return `volume ${name} in the trash, which is not moved: delete it for good with "storctl trash empty ${said}", or bring it back with "storctl volume undelete ${said}" and evacuate the disk then`;
}

export function viewReplica(state: ClusterState, placed: PlacedReplica): DiskReplicaView {
  const { volume, segment, replica } = placed;
  const { id, state: at, leaving } = replica;
  const known = at !== 'ready' ? at : segment.inSync.includes(id) ? 'in-sync' : 'out-of-sync';
  const shown = state.trash.has(volume.metadata.id) ? 'in-trash' : known;
  return {
    id,
    volume: volume.metadata.name,
    volumeId: volume.metadata.id,
    segment: segment.index,
    sizeBytes: segmentSizeOf(volume, segment.index),
    allocatedBytes: reportedBytes(state, replica),
    state: shown,
    leaving: leaving ?? false,
    otherCopies: otherCopies(state, placed),
  };
}
