import { joinSnapshotName } from '@stor/protocol';
import type { Snapshot, SnapshotPhase } from '@stor/protocol';
import type { Versioned } from '../../resources/cluster-state.ts';
import type { SnapshotRecord } from '../../resources/records.ts';

/** A state that this version does not know is no `ready` one: nothing may be built on it. */
export function snapshotPhase({ state }: SnapshotRecord): SnapshotPhase {
  return state === 'ready' || state === 'deleting' ? state : 'creating';
}

/** What `snapshot ls` shows. `ownBytes` null: no replica said what it holds. */
export function describeSnapshot(
  snapshot: Versioned<SnapshotRecord>,
  volume: string,
  ownBytes: number | null,
): Snapshot {
  const { id, name, labels, createdAtMs, volumeId, sizeBytes, groupId } = snapshot.value;
  const { pausedMs, message } = snapshot.value;
  return {
    metadata: {
      id,
      name: joinSnapshotName(volume, name),
      labels,
      createdAtMs,
      resourceVersion: snapshot.modRevision,
    },
    spec: { volumeId, sizeBytes, groupId },
    status: { volume, state: snapshotPhase(snapshot.value), message, pausedMs, ownBytes },
  };
}
