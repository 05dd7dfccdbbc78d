import type { EventNote, SnapshotId } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { SnapshotRecord } from '../../resources/records.ts';

interface SeenSnapshot {
  record: SnapshotRecord;
  volume: string;
}

/**
 * What has happened to snapshots, told from how their records change. Each node looks, so that
 * whoever becomes leader knows what it has seen before; only the leader tells.
 */
export class StateEvents {
  readonly #snapshots = new Map<SnapshotId, SeenSnapshot>();
  #hasLooked = false;

  /** What is new since the last look; the first one only learns how snapshots are. */
  look(state: ClusterState): EventNote[] {
    const notes = this.#lookAtSnapshots(state);
    this.#hasLooked = true;
    return notes;
  }

  #lookAtSnapshots(state: ClusterState): EventNote[] {
    const notes: EventNote[] = [];
    const now = new Set<SnapshotId>();
    for (const [volumeId, table] of state.snapshots) {
      const volume = state.volumes.get(volumeId) ?? state.deleted.get(volumeId);
      for (const { value: record } of table.values()) {
        now.add(record.id);
        const seen = this.#snapshots.get(record.id);
        if (seen?.record === record) continue;
        const name = volume?.value.metadata.name ?? seen?.volume ?? volumeId;
        this.#snapshots.set(record.id, { record, volume: name });
        const note = changeNote(seen?.record.state ?? '', record, name);
        if (note && this.#hasLooked) notes.push(note);
      }
    }
    for (const [id, { record, volume }] of this.#snapshots) {
      if (now.has(id)) continue;
      this.#snapshots.delete(id);
      // one that failed was told of when it did
      if (record.isHidden || (record.state === 'deleting' && record.message !== '')) continue;
      if (record.state === 'creating') continue;
      const message = `snapshot ${volume}@${record.name} is deleted on all replicas`;
      notes.push(snapshotNote('snapshot-deleted', record, volume, message));
    }
    return notes;
  }
}

function changeNote(before: string, record: SnapshotRecord, volume: string): EventNote | null {
  if (record.isHidden) return null;
  const name = `${volume}@${record.name}`;
  if (record.state === 'ready' && before !== 'ready') {
    const message = `snapshot ${name} was taken, clients were paused for ${Math.round(record.pausedMs * 10) / 10} ms`;
    return snapshotNote('snapshot-created', record, volume, message);
  }
  if (record.state === 'deleting' && before !== 'deleting' && record.message !== '') {
    const message = `snapshot ${name} could not be taken: ${record.message}`;
    return snapshotNote('snapshot-failed', record, volume, message);
  }
  return null;
}

function snapshotNote(
  reason: 'snapshot-created' | 'snapshot-deleted' | 'snapshot-failed',
  record: SnapshotRecord,
  volume: string,
  message: string,
): EventNote {
  return {
    type: reason === 'snapshot-failed' ? 'warning' : 'normal',
    reason,
    object: { kind: 'snapshot', id: record.id, name: `${volume}@${record.name}` },
    volumeId: record.volumeId,
    message,
  };
}
