import { makeId, StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { maxConflicts, VolumeRecords } from '../agent/volume-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { holdOfPolicy } from '../core/qos/policy-rules.ts';
import { movedReplica, updatedVolume } from '../core/volume/change-volume.ts';
import type { ChangeContext, VolumeUpdate } from '../core/volume/change-volume.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import { findVolume, readHosts, readVolume } from '../resources/find.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { findNode } from './find-node.ts';
import type { VolumeService } from './volume-service.ts';

/** Changes of volumes that are in use: policy, number and places of replicas. */
export class VolumeChanges {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #records: VolumeRecords;
  readonly #volumes: VolumeService;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    volumes: VolumeService;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#records = new VolumeRecords(options.store);
    this.#volumes = options.volumes;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  /** See StorApi.updateVolume. */
  async update(request: { name: string } & VolumeUpdate): Promise<Volume> {
    const { name: volume, ...changes } = request;
    const { replicas, policy, placement, qos, clearQos, policyName } = changes;
    const what = { volume, replicas, policy, placement, qos, clearQos, policyName };
    return this.#change(request.name, what, (record, context) =>
      updatedVolume(record, request, context),
    );
  }

  /** See StorApi.moveReplica. */
  async moveReplica(request: {
    name: string;
    replica: string;
    node: string;
    disk: string;
  }): Promise<Volume> {
    const { name, replica, node, disk } = request;
    return this.#change(name, { volume: name, replica, node, disk }, (record, context) => {
      const nodeId = findNode(context.state, node).value.id;
      return movedReplica(record, { replica, nodeId, disk }, context);
    });
  }

  /** Writes what `change` makes of the record (null: nothing to do), and again if it lost a race. */
  async #change(
    name: string,
    what: object,
    change: (record: StoredVolume, context: ChangeContext) => StoredVolume | null,
  ): Promise<Volume> {
    const { id } = (await findVolume(this.#store, name)).value.metadata;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await readVolume(this.#store, id);
      if (!volume) throw new StorError('NOT_FOUND', `volume ${name} was deleted meanwhile`);
      const context = await this.#context();
      const record = change(volume.value, context);
      if (!record) return this.#volumes.get(id);
      const hold = holdOfPolicy(record, volume.value, context.state);
      if (await this.#records.write(volume, record, hold.compare, hold.operations)) {
        this.#logger.info(what, 'volume changed');
        return this.#volumes.get(id);
      }
    }
    throw new StorError('CONFLICT', `volume ${name} changes too often: try again`);
  }

  async #context(): Promise<ChangeContext> {
    // what other volumes were promised may be a moment old: it only ranks the disks
    const { volumes, trash } = this.#cache.state;
    const state: ClusterState = {
      ...(await readHosts(this.#store, { local: true, known: this.#cache.state })),
      volumes,
      trash,
    };
    return {
      state,
      wallMs: this.#clock.wallMs(),
      newReplicaId: () => makeId('r', this.#random.bytes(8)),
    };
  }
}
