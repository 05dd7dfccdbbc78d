import { maxTrashKeepMs, StorError } from '@stor/protocol';
import type { TrashedVolume, VolumeId } from '@stor/protocol';
import type { Transaction } from '../../cluster-store.ts';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import { deletedKey, trashKey, volumeKey, volumeNameKey } from '../../resources/keys.ts';
import { encodeRecord } from '../../resources/records.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { wantNowhere } from '../controllers/attachment-rules.ts';

/** INVALID_ARGUMENT unless deleted volumes may be kept for so long. */
export function checkKeepMs(keepMs: number): void {
  if (Number.isSafeInteger(keepMs) && keepMs >= 0 && keepMs <= maxTrashKeepMs) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `a deleted volume can be kept for 0 to ${maxTrashKeepMs / 86_400_000} days, not for ${keepMs} ms`,
  );
}

/** Moves a volume's record to where its replicas are removed from, and frees its name. */
export function deletionOf(
  volume: Versioned<StoredVolume>,
  failure: StoredVolume['failure'],
): Transaction {
  const { id, name } = volume.value.metadata;
  const status = {
    ...volume.value.status,
    phase: 'deleting' as const,
    message: failure ? `creation failed: ${failure.message}` : '',
    attachment: null,
  };
  const record: StoredVolume = { ...wantNowhere(volume.value), status, failure };
  return {
    compare: [{ key: volumeKey(id), modRevision: volume.modRevision }],
    operations: [
      { type: 'delete', key: volumeKey(id) },
      { type: 'delete', key: volumeNameKey(name) },
      { type: 'put', key: deletedKey(id), value: encodeRecord(record) },
    ],
  };
}

/** Moves a volume that is attached nowhere to the trash, and frees its name. */
export function trashingOf(
  volume: Versioned<StoredVolume>,
  trash: { deletedAtMs: number; keptUntilMs: number },
): Transaction {
  const { id, name } = volume.value.metadata;
  const record: StoredVolume = { ...wantNowhere(volume.value), trash };
  return {
    compare: [
      { key: volumeKey(id), modRevision: volume.modRevision },
      { key: trashKey(id), modRevision: 0 },
    ],
    operations: [
      { type: 'delete', key: volumeKey(id) },
      { type: 'delete', key: volumeNameKey(name) },
      { type: 'put', key: trashKey(id), value: encodeRecord(record) },
    ],
  };
}

/** Brings a volume back from the trash under `name`, which must be free. */
export function undeletionOf(volume: Versioned<StoredVolume>, name: string): Transaction {
  const { trash: _trash, ...kept } = volume.value;
  const { id } = kept.metadata;
  const record: StoredVolume = { ...kept, metadata: { ...kept.metadata, name } };
  return {
    compare: [
      { key: trashKey(id), modRevision: volume.modRevision },
      { key: volumeKey(id), modRevision: 0 },
      { key: volumeNameKey(name), modRevision: 0 },
    ],
    operations: [
      { type: 'delete', key: trashKey(id) },
      { type: 'put', key: volumeKey(id), value: encodeRecord(record) },
      { type: 'put', key: volumeNameKey(name), value: new TextEncoder().encode(id) },
    ],
  };
}

/** Records how much of its time in the trash is over (ms). */
export function agedInTrash(volume: Versioned<StoredVolume>, agedMs: number): Transaction {
  const { trash, metadata } = volume.value;
  const key = trashKey(metadata.id);
  const record = { ...volume.value, ...(trash ? { trash: { ...trash, agedMs } } : {}) };
  return {
    compare: [{ key, modRevision: volume.modRevision }],
    operations: [{ type: 'put', key, value: encodeRecord(record) }],
  };
}

/** Deletes a volume in the trash for good: its nodes delete the replicas. */
export function emptyingOf(volume: Versioned<StoredVolume>): Transaction {
  const { id } = volume.value.metadata;
  const status = { ...volume.value.status, phase: 'deleting' as const, message: '' };
  return {
    compare: [
      { key: trashKey(id), modRevision: volume.modRevision },
      { key: deletedKey(id), modRevision: 0 },
    ],
    operations: [
      { type: 'delete', key: trashKey(id) },
      { type: 'put', key: deletedKey(id), value: encodeRecord({ ...volume.value, status }) },
    ],
  };
}

/** By id, or by the name that it had. NOT_FOUND; FAILED_PRECONDITION when several had that name. */
export function findTrashed(state: ClusterState, nameOrId: string): Versioned<StoredVolume> {
  const byId = state.trash.get(nameOrId);
  if (byId) return byId;
  const named = [...state.trash.values()].filter(({ value }) => value.metadata.name === nameOrId);
  const [found, ...others] = named;
  if (!found) {
    throw new StorError(
      'NOT_FOUND',
      `there is no volume ${JSON.stringify(nameOrId.slice(0, 128))} in the trash: see "storctl trash ls"`,
    );
  }
  if (others.length === 0) return found;
  const ids = named.map(({ value }) => value.metadata.id).join(', ');
  throw new StorError(
    'FAILED_PRECONDITION',
    `${named.length} volumes in the trash were named ${nameOrId}: give the id of one (${ids}; see "storctl trash ls")`,
  );
}

/** What `trash ls` shows. `allocatedBytes` null: no node with a replica could be asked. */
export function describeTrashed(
  volume: Versioned<StoredVolume>,
  state: ClusterState,
  allocatedBytes: number | null,
): TrashedVolume {
  const { metadata, spec, status, trash } = volume.value;
  const { id }: { id: VolumeId } = metadata;
  const replicas = status.segments.flatMap((segment) => segment.replicas);
  const shown = [...(state.snapshots.get(id)?.values() ?? [])].filter(
    ({ value }) => !value.isHidden && value.state === 'ready',
  );
  return {
    metadata: { ...metadata, resourceVersion: volume.modRevision },
    spec: { sizeBytes: spec.sizeBytes, replicas: spec.replicas },
    status: {
      deletedAtMs: trash?.deletedAtMs ?? 0,
      keptUntilMs: trash?.keptUntilMs ?? 0,
      snapshots: shown.length,
      nodes: [...new Set(replicas.map(({ nodeId }) => nodeName(state, nodeId)))],
      allocatedBytes,
    },
  };
}
