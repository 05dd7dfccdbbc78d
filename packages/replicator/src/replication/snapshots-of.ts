import type { ReplicaStore } from '../replica-store.ts';

/** The replica with its snapshots; null when its store keeps none. */
export function snapshotsOf(store: ReplicaStore): ReplicaStore | null {
  return 'takeSnapshot' in store ? store : null;
}
