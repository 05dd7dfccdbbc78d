import type { ClusterStore } from '../cluster-store.ts';
import type { StoreRoles } from '../core/volume/describe-cluster.ts';

/** Who leads and who only learns, as this member sees it. */
export function storeRoles(store: ClusterStore): StoreRoles {
  const { leaderId } = store.status();
  return { leaderId, learners: store.members?.local().learners ?? [] };
}
