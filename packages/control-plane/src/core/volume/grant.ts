import { segmentBytesOf } from '@stor/protocol';
import type { Attachment, AttachmentGrant, VolumeReplica, VolumeSettings } from '@stor/protocol';
import { snapshotsOf } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import { snapshotPhase } from './describe-snapshot.ts';
import { enforcedQos } from '../qos/volume-qos.ts';
import { peerAddress } from './lane-addresses.ts';
import { publishedTo } from './publication-rules.ts';
import type { StoredVolume } from '../../resources/records.ts';

/** Those on their disks: a replica that is still being created can be fenced and filled by nobody. */
function isOnDisk(replica: VolumeReplica): boolean {
  return replica.state !== 'creating';
}

/**
 * What the primary of `epoch` is to know of the record, and where the replicas' nodes listen. `isLeased`
 * false: its node has lost its lease, so it may not use what it shares with other nodes.
 */
export function settingsOf(
  volume: Versioned<StoredVolume>,
  epoch: number,
  state: ClusterState,
  isLeased = true,
): VolumeSettings {
  const { metadata, spec, status } = volume.value;
  const qos = enforcedQos(volume.value, state, isLeased);
  return {
    volumeId: metadata.id,
    epoch,
    resourceVersion: volume.modRevision,
    sizeBytes: spec.sizeBytes,
    replicas: spec.replicas,
    policy: spec.policy,
    ...(qos ? { qos } : {}),
    ...publishedTo(volume.value),
    ...(status.rollback ? { rollback: { id: status.rollback.id } } : {}),
    snapshots: snapshotsOf(state, metadata.id).map(({ value }) => ({
      id: value.id,
      // replicas that have it ready keep it
      state: value.state === 'deleting' && value.neverReady ? 'abandoned' : snapshotPhase(value),
      sizeBytes: value.sizeBytes,
    })),
    segments: status.segments.map((segment) => ({
      index: segment.index,
      setRevision: segment.setRevision,
      inSync: segment.inSync,
      ...(segment.unconfirmed?.epoch === epoch ? { unconfirmed: segment.unconfirmed.members } : {}),
      replicas: segment.replicas.filter(isOnDisk).map((replica) => {
        const { id, nodeId, diskId } = replica;
        return {
          id,
          nodeId,
          diskId,
          ...peerAddress(state, nodeId, diskId),
          leaving: replica.leaving ?? false,
          failed: replica.state === 'failed',
          purpose: replica.purpose ?? 'volume',
        };
      }),
    })),
  };
}

/** What the new primary is told: the record that granted, and where the replicas' nodes listen. */
export function grantOf(
  volume: Versioned<StoredVolume>,
  attachment: Attachment,
  previousReleased: boolean,
  state: ClusterState,
): AttachmentGrant {
  const { metadata, spec, status } = volume.value;
  return {
    ...settingsOf(volume, attachment.epoch, state),
    name: metadata.name,
    sizeBytes: spec.sizeBytes,
    segmentBytes: segmentBytesOf(spec),
    mode: attachment.mode,
    previousReleased,
    // given for the next epoch, not for those that follow it
    acceptUnflushedLoss: status.acceptLossSinceEpoch === attachment.epoch - 1,
  };
}
