import { idPattern, splitSnapshotName, StorError } from '@stor/protocol';
import type { Snapshot } from '@stor/protocol';
import type { ClusterStore } from '../cluster-store.ts';
import { describeSnapshot } from '../core/volume/describe-snapshot.ts';
import { snapshotsOf } from '../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { findVolume, readHosts, readSnapshots, readState } from '../resources/find.ts';
import type { SnapshotRecord, StoredVolume } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';
import type { ReplicaSpaces } from './replica-spaces.ts';

export interface FoundSnapshot {
  volume: Versioned<StoredVolume>;
  snapshot: Versioned<SnapshotRecord>;
}

/** The calls of the API that show snapshots. */
export class SnapshotService {
  readonly #store: ClusterStore;
  readonly #spaces: ReplicaSpaces;

  constructor(options: { store: ClusterStore; spaces: ReplicaSpaces }) {
    this.#store = options.store;
    this.#spaces = options.spaces;
  }

  /** See StorApi.listSnapshots. */
  async list(volume: string): Promise<Snapshot[]> {
    if (volume !== '') {
      const found = await this.findVolume(volume);
      const { id } = found.value.metadata;
      const snapshots = new Map([[id, await readSnapshots(this.#store, id, { local: true })]]);
      const hosts = await readHosts(this.#store, { local: true });
      return this.#shown({ ...hosts, snapshots }, [found.value]);
    }
    const state = await readSoon((options) => readState(this.#store, options));
    const volumes = [...state.volumes.values()].map(({ value }) => value);
    volumes.sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
    return this.#shown(state, volumes);
  }

  /** See StorApi.getSnapshot. */
  async get(name: string): Promise<Snapshot> {
    const { volume, snapshot } = await this.find(name);
    const hosts = await readHosts(this.#store, { local: true });
    const { metadata } = volume.value;
    const space = (await this.#spaces.of([volume.value], hosts)).get(metadata.id);
    const ownBytes = space?.ownBytes.get(snapshot.value.id) ?? null;
    return describeSnapshot(snapshot, metadata.name, ownBytes);
  }

  /** By name or id. NOT_FOUND; UNAVAILABLE without a quorum. */
  async findVolume(name: string): Promise<Versioned<StoredVolume>> {
    return readSoon((options) => findVolume(this.#store, name, options));
  }

  /** By `VOLUME@SNAPSHOT` (names or ids), or by the id alone. NOT_FOUND. */
  async find(name: string): Promise<FoundSnapshot> {
    const split = splitSnapshotName(name);
    const state = await readSoon((options) => readState(this.#store, options));
    const found = split ? inVolume(state, split) : byId(state, name);
    if (found) return found;
    if (split && !volumeOf(state, split.volume)) {
      const volume = JSON.stringify(split.volume.slice(0, 128));
      throw new StorError('NOT_FOUND', `there is no volume ${volume}: see "storctl volume ls"`);
    }
    const text = JSON.stringify(name.slice(0, 257));
    const advice = split ? `see "storctl snapshot ls"` : `write VOLUME@SNAPSHOT, as in db@monday`;
    throw new StorError('NOT_FOUND', `there is no snapshot ${text}: ${advice}`);
  }

  async #shown(state: ClusterState, volumes: readonly StoredVolume[]): Promise<Snapshot[]> {
    const some = volumes.filter(({ metadata }) => state.snapshots.has(metadata.id));
    const spaces = await this.#spaces.of(some, state);
    return some.flatMap(({ metadata }) => {
      const ownBytes = spaces.get(metadata.id)?.ownBytes;
      return snapshotsOf(state, metadata.id)
        .filter(({ value }) => !value.isHidden)
        .map((each) => describeSnapshot(each, metadata.name, ownBytes?.get(each.value.id) ?? null));
    });
  }
}

function inVolume(
  state: ClusterState,
  wanted: { volume: string; snapshot: string },
): FoundSnapshot | null {
  const volume = volumeOf(state, wanted.volume);
  if (!volume) return null;
  const all = snapshotsOf(state, volume.value.metadata.id).filter(({ value }) => !value.isHidden);
  // the name of one that is being deleted is free, and may be taken by another
  const named = all.filter(({ value }) => value.name === wanted.snapshot);
  const snapshot =
    named.find(({ value }) => value.state !== 'deleting') ??
    named[0] ??
    all.find(({ value }) => value.id === wanted.snapshot);
  return snapshot ? { volume, snapshot } : null;
}

/** By name or id. */
function volumeOf(state: ClusterState, nameOrId: string): Versioned<StoredVolume> | undefined {
  return state.volumes.get(state.names.get(nameOrId)?.value ?? nameOrId);
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
