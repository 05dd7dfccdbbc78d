import {
  blockBytes,
  changePolicy,
  formatByteSize,
  maxVolumeBytes,
  segmentBytesOf,
  segmentCount,
  StorError,
} from '@stor/protocol';
import type { ReplicaId, SegmentStatus, VolumeId, VolumePolicy } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { SnapshotRecord, StoredVolume } from '../../resources/records.ts';
import { settingsOf } from '../placement/cluster-limits.ts';
import { refusalOf } from '../placement/disk-room.ts';
import { diskUses, unused } from '../placement/disk-use.ts';
import { checkGuarantee } from '../qos/guarantees.ts';
import { withAllSegments } from '../placement/place-segments.ts';
import { segmentSizeOf } from './segment-size.ts';

export interface CloneOrder {
  name: string;
  /** 0: that of the snapshot */
  sizeBytes: number;
  labels: Record<string, string>;
  policy?: Partial<VolumePolicy> | null | undefined;
  requestId: string;
}

/** Bytes of the clone, whole blocks. INVALID_ARGUMENT when it would be smaller than its source. */
export function cloneSize(wantedBytes: number, sourceBytes: number): number {
  if (wantedBytes === 0) return sourceBytes;
  if (!Number.isSafeInteger(wantedBytes) || wantedBytes < 0 || wantedBytes > maxVolumeBytes) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `size ${wantedBytes} is not valid: a volume has 1 byte to ${formatByteSize(maxVolumeBytes)}`,
    );
  }
  const sizeBytes = Math.ceil(wantedBytes / blockBytes) * blockBytes;
  if (sizeBytes >= sourceBytes) return sizeBytes;
  throw new StorError(
    'INVALID_ARGUMENT',
    `a clone cannot be smaller than what it is made of: ${formatByteSize(wantedBytes)} is asked for, and that has ${formatByteSize(sourceBytes)}`,
  );
}

/**
 * The record of a clone that is being created: its replicas lie beside those of the source that are
 * in sync and so have the snapshot, because chunks are shared within a disk. When these are fewer
 * than wanted the others are filled later, as after any loss. UNAVAILABLE when there is none, NO_SPACE
 * when these disks may not be promised as much as it may come to hold.
 */
export function cloneRecord(
  source: StoredVolume,
  snapshot: SnapshotRecord,
  order: CloneOrder,
  context: {
    state: ClusterState;
    volumeId: VolumeId;
    wallMs: number;
    newReplicaId: () => ReplicaId;
  },
): StoredVolume {
  const { state, newReplicaId } = context;
  const { policy } = source.spec;
  const segmentBytes = segmentBytesOf(source.spec);
  const { attachTo: _attachTo, ...spec } = source.spec;
  const count = segmentCount(snapshot.sizeBytes, segmentBytes);
  const cloned = source.status.segments
    .filter(({ index }) => index < count)
    .map((segment) => clonedSegment(segment, source, snapshot, { state, newReplicaId }));
  const record: StoredVolume = {
    metadata: {
      id: context.volumeId,
      name: order.name,
      labels: order.labels,
      createdAtMs: context.wallMs,
      resourceVersion: 0,
    },
    spec: {
      ...spec,
      segmentBytes,
      sizeBytes: cloneSize(order.sizeBytes, snapshot.sizeBytes),
      policy: changePolicy({ ...policy, rebuildPaused: false }, order.policy ?? {}),
    },
    status: {
      phase: 'creating',
      message: '',
      epoch: 0,
      attachment: null,
      cleanRelease: true,
      segments: cloned,
    },
    requestId: order.requestId,
    failure: null,
    origin: {
      volumeId: source.metadata.id,
      volume: source.metadata.name,
      snapshotId: snapshot.id,
      snapshot: snapshot.name,
    },
  };
  checkLimits(record, source, state);
  checkGuarantee(record, state);
  return withAllSegments(record, state, newReplicaId);
}

/**
 * A clone takes nothing at first, but may come to hold as much as any volume of its size: its disks
 * must be allowed to promise that, and have room, as for a volume that is created.
 */
function checkLimits(clone: StoredVolume, source: StoredVolume, state: ClusterState): void {
  const uses = diskUses(state);
  for (const { index, replicas } of clone.status.segments) {
    const sizeBytes = segmentSizeOf(clone, index);
    for (const { diskId, nodeId } of replicas) {
      const disk = state.disks.get(diskId)?.value;
      if (!disk) continue;
      const use = uses.get(diskId) ?? unused;
      const need = { kind: 'new' as const, sizeBytes, fillBytes: 0, tag: '' };
      const refusal = refusalOf(disk, use, need, settingsOf(state));
      if (refusal?.noSpace === true) {
        throw new StorError(
          'NO_SPACE',
          `volume ${source.metadata.name} cannot be cloned with ${formatByteSize(clone.spec.sizeBytes)}: node ${nodeName(state, nodeId)}, where a clone must lie beside its source, ${refusal.reason}; delete volumes, move the source, or change the limits ("storctl pool set")`,
        );
      }
      // several segments may lie on one disk
      const provisionedBytes = use.provisionedBytes + sizeBytes;
      uses.set(diskId, { ...use, provisionedBytes });
    }
  }
}

function clonedSegment(
  segment: SegmentStatus,
  source: StoredVolume,
  snapshot: SnapshotRecord,
  { state, newReplicaId }: { state: ClusterState; newReplicaId: () => ReplicaId },
): SegmentStatus {
  const able = segment.replicas.filter(
    (replica) =>
      replica.state === 'ready' &&
      segment.inSync.includes(replica.id) &&
      isUp(state, replica.nodeId) &&
      state.disks.get(replica.diskId)?.value.state === 'online',
  );
  if (able.length === 0) {
    throw new StorError(
      'UNAVAILABLE',
      `no node with an in-sync replica of volume ${source.metadata.name} is up: a clone begins beside one`,
    );
  }
  // those that are about to leave the source last: their disks may be emptied
  able.sort((a, b) => Number(a.leaving === true) - Number(b.leaving === true));
  // a node may have two for a while: one of them is enough
  const apart = able.filter((r, at) => able.findIndex(({ nodeId }) => nodeId === r.nodeId) === at);
  return {
    index: segment.index,
    setRevision: 0,
    replicas: apart.slice(0, source.spec.replicas).map(({ id, nodeId, diskId }) => ({
      id: newReplicaId(),
      nodeId,
      diskId,
      state: 'creating' as const,
      cloneOf: { replicaId: id, snapshotId: snapshot.id },
    })),
    inSync: [],
  };
}
