import { joinSnapshotName, segmentBytesOf } from '@stor/protocol';
import type { ReplicaId, Snapshot, SnapshotId } from '@stor/protocol';
import type { ReplicaSpace } from '../../agent-port.ts';
import type { SnapshotRecord, StoredVolume } from '../../resources/records.ts';

/** A snapshot that in-sync replicas have as ready and that no record knows. */
export interface OrphanSnapshot {
  id: SnapshotId;
  /** of the volume when it was taken, as far as replicas tell */
  sizeBytes: number;
  ownBytes: number;
  /** every in-sync replica of every segment that it has a part of said that it has it ready */
  isWhole: boolean;
}

/**
 * The orphans of a volume. `isKnown`: a record has named the id, now or just before the replicas were
 * asked, so it is being taken or deleted.
 */
export function orphansOf(
  volume: StoredVolume,
  byReplica: ReadonlyMap<ReplicaId, ReplicaSpace>,
  isKnown: (id: SnapshotId) => boolean,
): OrphanSnapshot[] {
  const { segments } = volume.status;
  const segmentBytes = segmentBytesOf(volume.spec);
  const readyAt = (replica: ReplicaId, id: SnapshotId) =>
    byReplica.get(replica)?.snapshots.find((each) => each.id === id && each.state === 'ready');
  const found = new Map<SnapshotId, OrphanSnapshot>();
  for (const { index, inSync } of segments) {
    for (const { id, state, sizeBytes, ownBytes } of inSync.flatMap(
      (replica) => byReplica.get(replica)?.snapshots ?? [],
    )) {
      if (state !== 'ready' || isKnown(id)) continue;
      const orphan = found.get(id) ?? { id, sizeBytes: 0, ownBytes: 0, isWhole: true };
      orphan.sizeBytes = Math.max(orphan.sizeBytes, index * segmentBytes + sizeBytes);
      orphan.ownBytes = Math.max(orphan.ownBytes, ownBytes);
      found.set(id, orphan);
    }
  }
  for (const orphan of found.values())
    orphan.isWhole = segments
      .filter(({ index }) => index * segmentBytes < orphan.sizeBytes)
      .every(({ inSync }) => inSync.every((replica) => readyAt(replica, orphan.id)));
  return [...found.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** As `snapshot ls --orphans` shows it: it has no name, and nobody knows when it was taken. */
export function describeOrphan(volume: StoredVolume, orphan: OrphanSnapshot): Snapshot {
  const { id: volumeId, name: volumeName } = volume.metadata;
  const { id, sizeBytes, ownBytes, isWhole } = orphan;
  return {
    metadata: {
      id,
      name: joinSnapshotName(volumeName, id),
      labels: {},
      createdAtMs: 0,
      resourceVersion: 0,
    },
    spec: { volumeId, sizeBytes, groupId: '' },
    status: {
      volume: volumeName,
      state: 'orphan',
      message: isWhole
        ? 'no record knows it; every in-sync replica has it'
        : 'no record knows it; not every in-sync replica is known to have it',
      pausedMs: 0,
      ownBytes,
    },
  };
}

/** The record of an orphan that is taken over under a name, or (`deleting`) that is to go. */
export function recordOfOrphan(
  volume: StoredVolume,
  { id, sizeBytes }: OrphanSnapshot,
  as: { name: string; state: 'ready' | 'deleting'; createdAtMs: number },
): SnapshotRecord {
  return {
    id,
    volumeId: volume.metadata.id,
    name: as.name,
    labels: {},
    createdAtMs: as.createdAtMs,
    sizeBytes,
    state: as.state,
    groupId: '',
    pausedMs: 0,
    message: as.state === 'deleting' ? 'it was an orphan' : '',
    requestId: '',
    isHidden: false,
    dropped: [],
  };
}
