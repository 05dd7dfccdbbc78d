import { checkVolumeName, StorError } from '@stor/protocol';
import type { TrashedVolume, Volume, VolumeId } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import {
  describeTrashed,
  emptyingOf,
  findTrashed,
  undeletionOf,
} from '../core/volume/trash-rules.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import type { StoredVolume } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';
import type { ReplicaSpaces } from './replica-spaces.ts';
import type { VolumeService } from './volume-service.ts';

const maxConflicts = 20;

/** Deleted volumes that are kept for a while. */
export class TrashService {
  readonly #store: ClusterStore;
  readonly #volumes: VolumeService;
  readonly #spaces: ReplicaSpaces;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    volumes: VolumeService;
    spaces: ReplicaSpaces;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#volumes = options.volumes;
    this.#spaces = options.spaces;
    this.#logger = options.logger;
  }

  /** See StorApi.listTrash. */
  async list(): Promise<TrashedVolume[]> {
    const state = await readSoon((options) => readState(this.#store, options));
    return this.#describe([...state.trash.values()], state);
  }

  /** See StorApi.undeleteVolume. */
  async undelete(nameOrId: string, newName: string): Promise<Volume> {
    if (newName !== '') checkVolumeName(newName);
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readSoon((options) => readState(this.#store, options));
      const volume = findTrashed(state, nameOrId);
      const { id, name: oldName } = volume.value.metadata;
      const name = newName === '' ? oldName : newName;
      if (state.names.has(name)) {
        throw new StorError(
          'ALREADY_EXISTS',
          `there is a volume ${name} already: bring this one back under another name with "storctl volume undelete ${nameOrId} --as NAME"`,
        );
      }
      const { succeeded } = await this.#store.transact(undeletionOf(volume, name));
      if (!succeeded) continue;
      this.#logger.info({ volume: name, was: oldName, id }, 'volume undeleted');
      return this.#volumes.get(id);
    }
    throw new StorError('CONFLICT', `the trash changes too often: try again`);
  }

  /** See StorApi.emptyTrash; `nameOrId` '': all of it. */
  async empty(nameOrId: string): Promise<TrashedVolume[]> {
    const done = new Map<VolumeId, TrashedVolume>();
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readSoon((options) => readState(this.#store, options));
      const wanted = nameOrId === '' ? [...state.trash.values()] : [findTrashed(state, nameOrId)];
      const described = await this.#describe(wanted, state);
      let isChanged = false;
      for (const volume of wanted) {
        const { succeeded } = await this.#store.transact(emptyingOf(volume));
        // brought back, or deleted for good, by somebody else meanwhile
        if (!succeeded) {
          isChanged = true;
          continue;
        }
        const { id, name } = volume.value.metadata;
        const shown = described.find(({ metadata }) => metadata.id === id);
        if (shown) done.set(id, shown);
        this.#logger.info({ volume: name, id }, 'deleted for good');
      }
      if (!isChanged) return newestFirst([...done.values()]);
    }
    throw new StorError('CONFLICT', `the trash changes too often: try again`);
  }

  /** Newest first. */
  async #describe(
    volumes: readonly Versioned<StoredVolume>[],
    state: ClusterState,
  ): Promise<TrashedVolume[]> {
    const spaces = await this.#spaces.of(
      volumes.map(({ value }) => value),
      state,
    );
    const described = volumes.map((volume) => {
      const space = spaces.get(volume.value.metadata.id);
      const bytes = space ? space.allocatedBytes + space.snapshotBytes : null;
      return describeTrashed(volume, state, bytes);
    });
    return newestFirst(described);
  }
}

function newestFirst(volumes: TrashedVolume[]): TrashedVolume[] {
  return volumes.sort((a, b) => b.status.deletedAtMs - a.status.deletedAtMs);
}
