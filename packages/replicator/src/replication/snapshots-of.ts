import type { SnapshotStore } from '../replica-snapshots.ts';
import type { ReplicaStore } from '../replica-store.ts';

/** The replica with its snapshots; null when its store keeps none. */
export function snapshotsOf(store: ReplicaStore): (ReplicaStore & SnapshotStore) | null {
  return 'takeSnapshot' in store ? (store as ReplicaStore & SnapshotStore) : null;
}
