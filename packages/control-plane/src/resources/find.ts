import { idPattern, StorError, volumeNamePattern } from '@stor/protocol';
import type { VolumeId } from '@stor/protocol';
import type { ClusterStore, StoreCallOptions } from '../cluster-store.ts';
import { applyChange, emptyState } from './cluster-state.ts';
import type { ClusterState, SnapshotTable, Versioned } from './cluster-state.ts';
import {
  disksPrefix,
  forgottenPrefix,
  nodeLeasesPrefix,
  nodesPrefix,
  policiesPrefix,
  rootPrefix,
  settingsKey,
  snapshotsOfPrefix,
  volumeKey,
  volumeNameKey,
} from './keys.ts';
import { decodeVolume } from './records.ts';
import type { StoredVolume } from './records.ts';

/** Reads a volume by id; null when there is none. Linearizable unless `local`. */
export async function readVolume(
  store: ClusterStore,
  id: VolumeId,
  options: StoreCallOptions & { local?: boolean } = {},
): Promise<Versioned<StoredVolume> | null> {
  const item = await store.get(volumeKey(id), options);
  if (!item) return null;
  return { value: decodeVolume(item.key, item.value), modRevision: item.modRevision };
}

/** Reads a volume by name, or else by id. NOT_FOUND. Linearizable unless `local`. */
export async function findVolume(
  store: ClusterStore,
  nameOrId: string,
  options: StoreCallOptions & { local?: boolean } = {},
): Promise<Versioned<StoredVolume>> {
  // what cannot be a name is no key either: it may be longer than the store takes
  const mayBeName = volumeNamePattern.test(nameOrId);
  const named = mayBeName ? await store.get(volumeNameKey(nameOrId), options) : null;
  const id = named ? new TextDecoder().decode(named.value) : nameOrId;
  // the read above waited until this member had all that was committed before: local is enough
  const local = { ...options, local: true };
  const found = named || idPattern.test(id) ? await readVolume(store, id, local) : null;
  if (!found) {
    const name = JSON.stringify(nameOrId.slice(0, 128));
    throw new StorError('NOT_FOUND', `there is no volume ${name}: see "storctl volume ls"`);
  }
  return found;
}

const hostPrefixes = [
  nodesPrefix,
  forgottenPrefix,
  nodeLeasesPrefix,
  disksPrefix,
  settingsKey,
  policiesPrefix,
];

/**
 * Nodes, their leases, disks, policies and the settings as of now: few, where volumes may be many. `options` as for reads
 * of the store; `known`: where records that have not changed since need not be decoded again.
 */
export async function readHosts(
  store: ClusterStore,
  { known, ...options }: StoreCallOptions & { local?: boolean; known?: ClusterState } = {},
): Promise<ClusterState> {
  const state = emptyState();
  let local = options.local ?? false;
  for (const prefix of hostPrefixes) {
    // the first read waits until this member is up to date, so the others may read here
    const { revision, items } = await store.list(prefix, { ...options, local });
    for (const item of items) applyChange(state, item, known);
    state.revision = revision;
    local = true;
  }
  return state;
}

/** Snapshots of one volume. Linearizable unless `local`. */
export async function readSnapshots(
  store: ClusterStore,
  volumeId: VolumeId,
  options: StoreCallOptions & { local?: boolean } = {},
): Promise<SnapshotTable> {
  const { items } = await store.list(snapshotsOfPrefix(volumeId), options);
  const state = emptyState();
  for (const item of items) applyChange(state, item);
  return state.snapshots.get(volumeId) ?? new Map();
}

/** All resources as of now (linearizable), or as this member knows them (`local`). */
export async function readState(
  store: ClusterStore,
  options: StoreCallOptions & { local?: boolean } = {},
): Promise<ClusterState> {
  const { revision, items } = await store.list(rootPrefix, options);
  const state = emptyState();
  for (const item of items) applyChange(state, item);
  state.revision = revision;
  return state;
}
