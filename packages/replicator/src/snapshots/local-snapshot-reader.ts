import { StorError, type ReplicaId, type SnapshotId } from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import type { Extent } from '../block-device.ts';
import type { ReplicaView, SnapshotStore } from '../replica-snapshots.ts';
import type { ReplicaStore, StoreDone } from '../replica-store.ts';
import { snapshotsOf } from '../replication/snapshots-of.ts';
import { dirtyExtents } from './dirty-extents.ts';
import type { DirtyDone, ExtentsDone, ReplicaSnapshotReader } from './snapshot-reader.ts';

/** What is needed of a replica. */
export type SnapshotReplica = Pick<SnapshotStore, 'snapshots' | 'view' | 'changedChunks'> & {
  readonly replicaId: ReplicaId;
  /** why it gives nothing at all; null: nothing of it has failed */
  readonly failure: StorError | null;
};

/**
 * A snapshot on a disk of this lane. Once it is dropped the view answers NOT_FOUND, and never with
 * what its slots hold then.
 */
export class LocalSnapshotReader implements ReplicaSnapshotReader {
  readonly replicaId: ReplicaId;
  readonly sizeBytes: number;
  readonly #replica: SnapshotReplica;
  readonly #snapshotId: SnapshotId;
  readonly #view: ReplicaView;

  private constructor(replica: SnapshotReplica, snapshotId: SnapshotId, view: ReplicaView) {
    this.replicaId = replica.replicaId;
    this.sizeBytes = view.sizeBytes;
    this.#replica = replica;
    this.#snapshotId = snapshotId;
    this.#view = view;
  }

  /** NOT_FOUND: the replica does not have it. UNAVAILABLE: not yet as the others have it. */
  static open(replica: SnapshotReplica, snapshotId: SnapshotId): LocalSnapshotReader {
    const view = isReady(replica, snapshotId) ? replica.view(snapshotId) : null;
    if (!view) throw missing(replica, snapshotId);
    return new LocalSnapshotReader(replica, snapshotId, view);
  }

  /** As `open`, of any replica; UNAVAILABLE for a store that has no snapshots. */
  static of(store: ReplicaStore, snapshotId: SnapshotId): LocalSnapshotReader {
    const replica = snapshotsOf(store);
    if (replica) return this.open(replica, snapshotId);
    throw new StorError('UNAVAILABLE', `replica ${store.replicaId} has no snapshots`);
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    this.#view.read(offset, length, target, start, (error) => {
      const { failure } = this.#replica;
      // no verdict on the blocks that were asked for: another replica is read instead
      done(
        error && failure ? new StorError('UNAVAILABLE', failure.message, { cause: error }) : error,
      );
    });
  }

  extents(offset: number, length: number, limit: number, done: ExtentsDone): void {
    let extents: Extent[];
    try {
      extents = this.#view.extents(offset, length, limit);
    } catch (error) {
      done(StorError.from(error), []);
      return;
    }
    done(null, extents);
  }

  changedSince(
    since: SnapshotId,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void {
    const replica = this.#replica;
    // what is not equal to the others' yet would make the difference wrong
    const absent = [this.#snapshotId, since].find((id) => !isReady(replica, id));
    const changed = absent === undefined ? replica.changedChunks(since, this.#snapshotId) : null;
    if (changed) done(null, dirtyExtents(changed, offset, length, limit));
    else done(missing(replica, absent ?? since), []);
  }

  repair(offset: number, bytes: Uint8Array, done: StoreDone): void {
    this.#view.write(offset, bytes.length, bytes, 0, Uint32Array.of(crc32(bytes)), 0, done);
  }

  close(): void {
    // a view holds nothing that would have to be given back
  }
}

function isReady(replica: SnapshotReplica, id: SnapshotId): boolean {
  return replica
    .snapshots()
    .some(({ snapshotId, state }) => snapshotId === id && state === 'ready');
}

function missing(replica: SnapshotReplica, id: SnapshotId): StorError {
  const known = replica.snapshots().some(({ snapshotId }) => snapshotId === id);
  return known
    ? new StorError('UNAVAILABLE', `snapshot ${id} is not ready on replica ${replica.replicaId}`)
    : new StorError('NOT_FOUND', `replica ${replica.replicaId} does not have snapshot ${id}`);
}
