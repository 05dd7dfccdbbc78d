import type { ClusterStore, StoreCallOptions } from '../cluster-store.ts';
import { applyChange, emptyState } from './cluster-state.ts';
import type { ClusterState } from './cluster-state.ts';
import {
  forgottenPrefix,
  memberSettingsKey,
  membersPrefix,
  nodeLeasesPrefix,
  nodesPrefix,
} from './keys.ts';

/** Members of the embedded store with their nodes, as of now (linearizable), or `local`. */
export async function readMembers(
  store: ClusterStore,
  options: StoreCallOptions & { local?: boolean } = {},
): Promise<ClusterState> {
  const state = emptyState();
  let local = options.local ?? false;
  for (const prefix of [
    membersPrefix,
    memberSettingsKey,
    nodesPrefix,
    forgottenPrefix,
    nodeLeasesPrefix,
  ]) {
    // the first read waits until this member is up to date, so the others may read here
    const { revision, items } = await store.list(prefix, { ...options, local });
    for (const item of items) applyChange(state, item);
    state.revision = revision;
    local = true;
  }
  return state;
}
