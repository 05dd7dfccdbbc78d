import { maxSnapshots, maxSnapshotsPerVolume, StorError } from '@stor/protocol';
import type { ReplicaId, SnapshotId, VolumeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { SnapshotRecord, StoredVolume } from '../../resources/records.ts';

/** What the snapshots of one order have in common. */
export interface SnapshotOrder {
  /** '' for a hidden one */
  name: string;
  labels: Record<string, string>;
  groupId: string;
  requestId: string;
  isHidden: boolean;
  createdAtMs: number;
}

export function newSnapshot(
  volume: StoredVolume,
  id: SnapshotId,
  order: SnapshotOrder,
): SnapshotRecord {
  return {
    id,
    volumeId: volume.metadata.id,
    name: order.name,
    labels: order.labels,
    createdAtMs: order.createdAtMs,
    sizeBytes: volume.spec.sizeBytes,
    state: 'creating',
    groupId: order.groupId,
    pausedMs: 0,
    message: '',
    requestId: order.requestId,
    isHidden: order.isHidden,
    dropped: [],
  };
}

/** Null when it is no longer being taken. `takenAtMs`: when the image was frozen, by the wall clock. */
export function readySnapshot(
  record: SnapshotRecord,
  taken: { pausedMs: number; takenAtMs: number },
): SnapshotRecord | null {
  if (record.state !== 'creating') return null;
  // a tenth of a millisecond says enough
  const pausedMs = Math.round(taken.pausedMs * 10) / 10;
  return { ...record, state: 'ready', pausedMs, createdAtMs: taken.takenAtMs };
}

/** Null when it is being deleted already. */
export function deletingSnapshot(record: SnapshotRecord, message: string): SnapshotRecord | null {
  if (record.state === 'deleting') return null;
  const deleting = { ...record, state: 'deleting', message };
  return record.state === 'ready' ? deleting : { ...deleting, neverReady: true };
}

/** Null when there is nothing to note. */
export function droppedFrom(
  record: SnapshotRecord,
  replicas: readonly ReplicaId[],
): SnapshotRecord | null {
  if (record.state !== 'deleting') return null;
  const known = new Set(record.dropped);
  const more = replicas.filter((id) => !known.has(id));
  return more.length === 0 ? null : { ...record, dropped: [...record.dropped, ...more] };
}

/**
 * Nobody needs the record of a snapshot that is being deleted any more: those that are in sync have
 * dropped it, and those that are up. One that is away and out of sync drops it when it is made
 * equal to the others; one that failed never comes back.
 */
export function isDropped(
  state: ClusterState,
  volume: StoredVolume,
  { dropped }: SnapshotRecord,
): boolean {
  const by = new Set(dropped);
  return volume.status.segments.every(({ replicas, inSync }) =>
    replicas.every(
      ({ id, nodeId, state: at }) =>
        at !== 'ready' || by.has(id) || !(inSync.includes(id) || isUp(state, nodeId)),
    ),
  );
}

/** Throws FAILED_PRECONDITION when the volume, or the cluster, has as many as it may. */
export function checkSnapshotCount(
  state: ClusterState,
  volumes: readonly { id: VolumeId; name: string }[],
): void {
  for (const { id, name } of volumes) {
    const count = state.snapshots.get(id)?.size ?? 0;
    if (count < maxSnapshotsPerVolume) continue;
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${name} has ${count} snapshots, and may have ${maxSnapshotsPerVolume}: delete some, for example with "storctl snapshot prune ${name} --keep last=100"`,
    );
  }
  let total = 0;
  for (const table of state.snapshots.values()) total += table.size;
  if (total + volumes.length <= maxSnapshots) return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `the cluster has ${total} snapshots, and may have ${maxSnapshots}: delete some, see "storctl snapshot ls"`,
  );
}

/** A volume has every label of the selector, with its value. */
export function isSelected(
  volume: StoredVolume,
  selector: Readonly<Record<string, string>>,
): boolean {
  const { labels } = volume.metadata;
  return Object.entries(selector).every(([key, value]) => labels[key] === value);
}
