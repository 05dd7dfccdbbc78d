import { idPattern, splitSnapshotName, StorError } from '@stor/protocol';
import type { Snapshot } from '@stor/protocol';
import type { ClusterStore } from '../cluster-store.ts';
import { describeSnapshot } from '../core/volume/describe-snapshot.ts';
import { emptyState, snapshotsOf } from '../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { findVolume, readSnapshots, readState } from '../resources/find.ts';
import type { SnapshotRecord, StoredVolume } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';

export interface FoundSnapshot {
  volume: Versioned<StoredVolume>;
  snapshot: Versioned<SnapshotRecord>;
}

/** The calls of the API that show snapshots. */
export class SnapshotService {
  readonly #store: ClusterStore;

  constructor(options: { store: ClusterStore }) {
    this.#store = options.store;
  }

  /** See StorApi.listSnapshots. */
  async list(volume: string): Promise<Snapshot[]> {
    if (volume !== '') {
      const { value } = await readSoon((options) => findVolume(this.#store, volume, options));
      const { id, name } = value.metadata;
      const snapshots = new Map([[id, await readSnapshots(this.#store, id, { local: true })]]);
      return shown({ ...emptyState(), snapshots }, id, name);
    }
    const state = await readSoon((options) => readState(this.#store, options));
    const volumes = [...state.volumes.values()].map(({ value }) => value.metadata);
    volumes.sort((a, b) => (a.name < b.name ? -1 : 1));
    return volumes.flatMap(({ id, name }) => shown(state, id, name));
  }

  /** See StorApi.getSnapshot. */
  async get(name: string): Promise<Snapshot> {
    const { volume, snapshot } = await this.find(name);
    return describeSnapshot(snapshot, volume.value.metadata.name, null);
  }

  /** By `VOLUME@SNAPSHOT` (names or ids), or by the id alone. NOT_FOUND. */
  async find(name: string): Promise<FoundSnapshot> {
    const split = splitSnapshotName(name);
    const state = await readSoon((options) => readState(this.#store, options));
    const found = split ? inVolume(state, split) : byId(state, name);
    if (found) return found;
    const text = JSON.stringify(name.slice(0, 257));
    const advice = split ? `see "storctl snapshot ls"` : `write VOLUME@SNAPSHOT, as in db@monday`;
    throw new StorError('NOT_FOUND', `there is no snapshot ${text}: ${advice}`);
  }
}

function shown(state: ClusterState, volumeId: string, volume: string): Snapshot[] {
  return snapshotsOf(state, volumeId)
    .filter(({ value }) => !value.isHidden)
    .map((snapshot) => describeSnapshot(snapshot, volume, null));
}

function inVolume(
  state: ClusterState,
  wanted: { volume: string; snapshot: string },
): FoundSnapshot | null {
  const volumeId = state.names.get(wanted.volume)?.value ?? wanted.volume;
  const volume = state.volumes.get(volumeId);
  if (!volume) return null;
  const all = snapshotsOf(state, volumeId).filter(({ value }) => !value.isHidden);
  // the name of one that is being deleted is free, and may be taken by another
  const named = all.filter(({ value }) => value.name === wanted.snapshot);
  const snapshot =
    named.find(({ value }) => value.state !== 'deleting') ??
    named[0] ??
    all.find(({ value }) => value.id === wanted.snapshot);
  return snapshot ? { volume, snapshot } : null;
}

function byId(state: ClusterState, id: string): FoundSnapshot | null {
  if (!idPattern.test(id)) return null;
  for (const [volumeId, table] of state.snapshots) {
    const snapshot = table.get(id);
    const volume = state.volumes.get(volumeId);
    if (snapshot && volume) return { volume, snapshot };
  }
  return null;
}
