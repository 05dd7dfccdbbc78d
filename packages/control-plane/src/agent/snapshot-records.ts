import { hasCode, StorError } from '@stor/protocol';
import type { SnapshotId, VolumeId } from '@stor/protocol';
import type { ClusterStore, Operation } from '../cluster-store.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { readVolume } from '../resources/find.ts';
import { snapshotKey, snapshotNameKey, volumeKey } from '../resources/keys.ts';
import { decodeSnapshot, encodeRecord } from '../resources/records.ts';
import type { SnapshotRecord, StoredVolume } from '../resources/records.ts';
import { maxConflicts, tooManyConflicts } from './volume-records.ts';

export interface SnapshotRef {
  volumeId: VolumeId;
  id: SnapshotId;
}

/**
 * Compare-and-set on snapshot records. What becomes ready or is deleted is written together with the
 * record of its volume, although that stays as it is: so it has another revision, a grant that was
 * decided before does not take effect, and no primary begins with a list that lacks the change.
 */
export class SnapshotRecords {
  readonly #store: ClusterStore;

  constructor(store: ClusterStore) {
    this.#store = store;
  }

  /** Null when there is none. Linearizable unless `local`. */
  async read(ref: SnapshotRef, local = false): Promise<Versioned<SnapshotRecord> | null> {
    const item = await this.#store.get(snapshotKey(ref.volumeId, ref.id), { local });
    if (!item) return null;
    return { value: decodeSnapshot(item.key, item.value), modRevision: item.modRevision };
  }

  /**
   * Changes all of them in one transaction, until it holds; `change` sees each record as it is now
   * and leaves alone what it answers null for. `check` sees each volume's record, and may throw. Names of those that are
   * deleted become free. Returns the records as they are then; those that are gone are left out.
   */
  async change(
    refs: readonly SnapshotRef[],
    change: (record: SnapshotRecord) => SnapshotRecord | null,
    check: (volume: StoredVolume) => void = () => {},
  ): Promise<Versioned<SnapshotRecord>[]> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volumes = await this.#volumes(refs);
      for (const { value } of volumes.values()) check(value);
      const done: Versioned<SnapshotRecord>[] = [];
      const compare = [];
      const operations: Operation[] = [];
      const touched = new Set<VolumeId>();
      for (const ref of refs) {
        // the volume was read before, so this member has all that was committed by then
        const known = await this.read(ref, true);
        if (!known || !volumes.has(ref.volumeId)) continue;
        const record = change(known.value);
        if (!record) {
          done.push(known);
          continue;
        }
        const key = snapshotKey(ref.volumeId, ref.id);
        compare.push({ key, modRevision: known.modRevision });
        operations.push({ type: 'put', key, value: encodeRecord(record) });
        if (
          record.state === 'deleting' &&
          known.value.name !== '' &&
          known.value.state !== 'deleting'
        )
          operations.push({ type: 'delete', key: snapshotNameKey(ref.volumeId, record.name) });
        touched.add(ref.volumeId);
        done.push({ value: record, modRevision: 0 });
      }
      for (const volumeId of touched) {
        const volume = volumes.get(volumeId);
        if (!volume) continue;
        const key = volumeKey(volumeId);
        compare.push({ key, modRevision: volume.modRevision });
        operations.push({ type: 'put', key, value: encodeRecord(volume.value) });
      }
      if (operations.length === 0) return done;
      const revision = await this.#write({ compare, operations });
      if (revision !== null)
        return done.map((each) =>
          each.modRevision === 0 ? { ...each, modRevision: revision } : each,
        );
    }
    throw tooManyConflicts('a snapshot');
  }

  /** The revision; null when something has changed, or nobody knows: then it is looked at again. */
  async #write(transaction: Parameters<ClusterStore['transact']>[0]): Promise<number | null> {
    try {
      const { succeeded, revision } = await this.#store.transact(transaction);
      return succeeded ? revision : null;
    } catch (error) {
      if (!hasCode(error, 'OUTCOME_UNKNOWN')) throw error;
      return null;
    }
  }

  /** By id; one that is gone, or in the trash, is left out. */
  async #volumes(refs: readonly SnapshotRef[]): Promise<Map<VolumeId, Versioned<StoredVolume>>> {
    const volumes = new Map<VolumeId, Versioned<StoredVolume>>();
    for (const { volumeId } of refs) {
      if (volumes.has(volumeId)) continue;
      const volume = await readVolume(this.#store, volumeId, { local: volumes.size > 0 });
      if (volume) volumes.set(volumeId, volume);
    }
    return volumes;
  }
}

/** One of them alone; NOT_FOUND when it is gone. */
export function theOne<T>(found: readonly T[], what: string): T {
  const [only] = found;
  if (only === undefined) throw new StorError('NOT_FOUND', `${what} was deleted meanwhile`);
  return only;
}
