import { StorError } from '@stor/protocol';
import type { NodeId, VolumeId } from '@stor/protocol';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { readVolume } from '../resources/find.ts';
import { nodeLeaseKey, volumeKey } from '../resources/keys.ts';
import { decodeNodeLease, encodeRecord } from '../resources/records.ts';
import type { NodeLeaseRecord, StoredVolume } from '../resources/records.ts';

/** Lost races in a row after which a caller is told to come back. */
export const maxConflicts = 100;

/** Compare-and-set on volume records, and the leases that such writes depend on. */
export class VolumeRecords {
  readonly #store: ClusterStore;

  constructor(store: ClusterStore) {
    this.#store = store;
  }

  /** The lease of a node, read after a volume's record; null: the node is down. */
  async lease(nodeId: NodeId): Promise<Versioned<NodeLeaseRecord> | null> {
    // follows a linearizable read of the record, so this member has all that it depends on
    const item = await this.#store.get(nodeLeaseKey(nodeId), { local: true });
    if (!item) return null;
    return { value: decodeNodeLease(item.key, item.value), modRevision: item.modRevision };
  }

  /** Null when the record, or what else is compared, has changed since it was read. */
  async write(
    volume: Versioned<StoredVolume>,
    record: StoredVolume,
    compare: Compare[] = [],
    operations: Operation[] = [],
  ): Promise<Versioned<StoredVolume> | null> {
    const key = volumeKey(record.metadata.id);
    const { succeeded, revision } = await this.#store.transact({
      compare: [{ key, modRevision: volume.modRevision }, ...compare],
      operations: [{ type: 'put', key, value: encodeRecord(record) }, ...operations],
    });
    return succeeded ? { value: record, modRevision: revision } : null;
  }

  /** Changes the record until it holds; null when `change` finds nothing to do. CONFLICT. */
  async update(
    volumeId: VolumeId,
    change: (record: StoredVolume) => StoredVolume | null,
  ): Promise<Versioned<StoredVolume> | null> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await readVolume(this.#store, volumeId);
      const record = volume && change(volume.value);
      if (!volume || !record) return null;
      const written = await this.write(volume, record);
      if (written) return written;
    }
    throw tooManyConflicts(volumeId);
  }
}

export function leaseCompare(nodeId: NodeId, lease: Versioned<unknown> | null): Compare {
  return { key: nodeLeaseKey(nodeId), modRevision: lease?.modRevision ?? 0 };
}

export function tooManyConflicts(what: string): StorError {
  return new StorError('CONFLICT', `${what} changes too often to be changed: try again`);
}
