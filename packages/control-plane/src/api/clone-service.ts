import { checkLabels, checkVolumeName, makeId, StorError } from '@stor/protocol';
import type { Volume, VolumePolicy } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { SnapshotRecords } from '../agent/snapshot-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { cloneRecord, cloneSize } from '../core/volume/clone-volume.ts';
import { checkChangeable } from '../core/volume/change-volume.ts';
import { deletingSnapshot } from '../core/volume/snapshot-rules.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { readSnapshots, readVolume } from '../resources/find.ts';
import { volumeNameKey } from '../resources/keys.ts';
import type { SnapshotRecord, StoredVolume } from '../resources/records.ts';
import type { PrimaryAccess } from './primary-access.ts';
import { readySnapshotIn } from './snapshot-orders.ts';
import type { SnapshotService } from './snapshot-service.ts';
import type { SnapshotTaker } from './snapshot-taker.ts';
import { isMadeBy, requestOf } from './creation-requests.ts';
import type { VolumeService } from './volume-service.ts';

export interface CloneVolumeRequest {
  source: string;
  snapshot: string;
  name: string;
  sizeBytes: number;
  labels: Record<string, string>;
  policy?: Partial<VolumePolicy> | null;
  requestId?: string;
}

/** Volumes that begin as the image of another one. */
export class CloneService {
  readonly #store: ClusterStore;
  readonly #records: SnapshotRecords;
  readonly #access: PrimaryAccess;
  readonly #taker: SnapshotTaker;
  readonly #snapshots: SnapshotService;
  readonly #volumes: VolumeService;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    access: PrimaryAccess;
    taker: SnapshotTaker;
    snapshots: SnapshotService;
    volumes: VolumeService;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#records = new SnapshotRecords(options.store);
    this.#access = options.access;
    this.#taker = options.taker;
    this.#snapshots = options.snapshots;
    this.#volumes = options.volumes;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  /** See StorApi.cloneVolume. */
  async clone(request: CloneVolumeRequest, signal?: AbortSignal): Promise<Volume> {
    const { name, labels, policy, sizeBytes, requestId = '' } = request;
    checkVolumeName(name);
    checkLabels(labels);
    // one that was made before must not need its source once more
    const own = requestOf('cloneVolume', request);
    const made = await this.#madeBefore(name, own);
    if (made !== null) return this.#volumes.settled(made, name, signal);
    const source = await this.#snapshots.findVolume(request.source);
    checkChangeable(source.value);
    const snapshot = await this.#image(source.value, request, signal);
    try {
      const now = await readVolume(this.#store, source.value.metadata.id);
      if (!now) throw new StorError('NOT_FOUND', `volume ${request.source} was deleted meanwhile`);
      const order = { name, sizeBytes, labels, policy, requestId };
      const volumeId = makeId('v', this.#random.bytes(8));
      const clone = await this.#volumes.createAs(
        { name, ...own },
        (state) =>
          cloneRecord(now.value, snapshot, order, {
            state,
            volumeId,
            wallMs: this.#clock.wallMs(),
            newReplicaId: () => makeId('r', this.#random.bytes(8)),
          }),
        signal,
      );
      this.#logger.info({ volume: name, source: request.source, snapshot: snapshot.id }, 'cloned');
      return clone;
    } finally {
      if (snapshot.isHidden) await this.#dropHidden(snapshot);
    }
  }

  /** The snapshot that is meant, or a hidden one of the live volume; whole on every in-sync replica. */
  async #image(
    source: StoredVolume,
    request: CloneVolumeRequest,
    signal: AbortSignal | undefined,
  ): Promise<SnapshotRecord> {
    const { id, name } = source.metadata;
    const known =
      request.snapshot === ''
        ? null
        : readySnapshotIn(
            await readSnapshots(this.#store, id, { local: true }),
            name,
            request.snapshot,
          );
    // before anything is taken
    cloneSize(request.sizeBytes, known?.sizeBytes ?? source.spec.sizeBytes);
    return this.#access.with(
      [id],
      async (primaries) => {
        const hidden = { volumeIds: [id], name: '', labels: {}, requestId: '', isHidden: true };
        const taken = known
          ? null
          : (await this.#taker.takeWith(primaries, hidden, signal))[0]?.value;
        const snapshot = known ?? taken;
        if (!snapshot) throw new StorError('INTERNAL', 'no snapshot was taken');
        for (const primary of primaries)
          await primary.orderWhenReady({ type: 'confirm', snapshotId: snapshot.id }, signal);
        return snapshot;
      },
      signal,
    );
  }

  /** Id of the volume that this request has made, or begun to. ALREADY_EXISTS. */
  async #madeBefore(name: string, request: ReturnType<typeof requestOf>): Promise<string | null> {
    const item = await this.#store.get(volumeNameKey(name));
    if (!item) return null;
    const id = new TextDecoder().decode(item.value);
    const volume: Versioned<StoredVolume> | null = await readVolume(this.#store, id, {
      local: true,
    });
    if (volume && isMadeBy(volume.value, request)) return id;
    throw new StorError('ALREADY_EXISTS', `there is a volume ${name} already`);
  }

  /** What cannot be dropped now is dropped by the leader later. */
  async #dropHidden({ volumeId, id }: SnapshotRecord): Promise<void> {
    try {
      await this.#records.change([{ volumeId, id }], (record) => deletingSnapshot(record, ''));
    } catch (error) {
      const { message } = StorError.from(error);
      this.#logger.warn({ id, error: message }, 'a hidden snapshot is left to the leader');
    }
  }
}
