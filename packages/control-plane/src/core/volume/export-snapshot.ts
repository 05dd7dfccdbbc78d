import { joinSnapshotName, segmentBytesOf, StorError } from '@stor/protocol';
import type { DiskId, NodeId, ReplicaId, SnapshotId, SnapshotName, VolumeId } from '@stor/protocol';
import { snapshotsOf } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { SnapshotRecord, StoredVolume } from '../../resources/records.ts';
import { peerAddress } from './lane-addresses.ts';

/** What a node needs to serve a snapshot read-only. */
export interface SnapshotExport {
  /** `db@monday` */
  name: string;
  snapshotId: SnapshotId;
  volumeId: VolumeId;
  /** of the snapshot */
  sizeBytes: number;
  segmentBytes: number;
  segments: {
    index: number;
    /** those that may have it */
    replicas: {
      replicaId: ReplicaId;
      nodeId: NodeId;
      diskId: DiskId;
      host: string;
      port: number;
    }[];
  }[];
}

/** The ready ones that have a name, in the order in which they were taken. */
export function readySnapshots(state: ClusterState, volumeId: VolumeId): SnapshotRecord[] {
  return snapshotsOf(state, volumeId)
    .map(({ value }) => value)
    .filter((record) => record.state === 'ready' && !record.isHidden);
}

/** NOT_FOUND for one that does not exist, is being taken or is being deleted. */
export function exportOf(
  volume: Versioned<StoredVolume>,
  wanted: SnapshotName,
  state: ClusterState,
): SnapshotExport {
  const { metadata, spec, status } = volume.value;
  const ready = readySnapshots(state, metadata.id);
  const found =
    ready.find(({ name }) => name === wanted.snapshot) ??
    ready.find(({ id }) => id === wanted.snapshot);
  if (!found) {
    const name = JSON.stringify(joinSnapshotName(wanted.volume, wanted.snapshot).slice(0, 257));
    throw new StorError(
      'NOT_FOUND',
      `there is no snapshot ${name} that is ready: see "storctl snapshot ls"`,
    );
  }
  return {
    name: joinSnapshotName(metadata.name, found.name),
    snapshotId: found.id,
    volumeId: metadata.id,
    sizeBytes: found.sizeBytes,
    segmentBytes: segmentBytesOf(spec),
    segments: status.segments.map((segment) => ({
      index: segment.index,
      replicas: segment.replicas
        .filter((replica) => replica.state === 'ready')
        .map(({ id, nodeId, diskId }) => ({
          replicaId: id,
          nodeId,
          diskId,
          ...peerAddress(state, nodeId, diskId),
        })),
    })),
  };
}
