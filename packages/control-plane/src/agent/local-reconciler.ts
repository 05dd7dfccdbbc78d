import { StorError } from '@stor/protocol';
import type { DiskId, NodeId, ReplicaId, VolumeId, VolumeReplica } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort, LocalReplica as AgentReplica } from '../agent-port.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { placedSegments, segmentSizeOf } from '../core/volume/segment-size.ts';
import { readVolume } from '../resources/find.ts';
import { replicaReportKey } from '../resources/keys.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { unsettledVolumes, volumesOn } from '../resources/state-index.ts';
import { ReplicaReports } from './replica-reports.ts';

/**
 * Replicas of one disk that are created or deleted at once: a volume may have hundreds of segments,
 * and the other work of the node goes on meanwhile.
 */
const maxWorkPerDisk = 16;
/** What failed is tried again after this (ms): a client waits for creations, nobody for deletions. */
const createRetryMs = 1_000;
const deleteRetryMs = 10_000;
/**
 * A clone whose source on its disk is not known as ready yet waits so long for it (ms): who takes it has
 * told the primary, and the word may be on its way. The caller of the clone waits longer than that.
 */
const cloneSourceWaitMs = 8_000;

interface LocalReplica {
  volume: StoredVolume;
  segment: number;
  replica: Pick<VolumeReplica, 'id' | 'nodeId' | 'diskId'> & { state: string };
}

/**
 * Makes this node's disks hold what the records say: creates replicas of volumes that are being
 * created, deletes those of deleted ones, and reports what it did. A replica that no record knows is
 * never deleted: the control plane may have been restored from a backup.
 */
export class LocalReconciler {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #agent: AgentPort;
  readonly #reports: ReplicaReports;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;
  /** one thing at a time for each replica, so that a deletion waits for its creation */
  readonly #busy = new Map<ReplicaId, Promise<void>>();
  readonly #busyOnDisk = new Map<DiskId, number>();
  /** reads of records that are under way: replicas that are created together share one */
  readonly #reads = new Map<VolumeId, ReturnType<typeof readVolume>>();
  readonly #notBeforeMs = new Map<ReplicaId, number>();
  /** clones that wait for their source */
  readonly #waitingSinceMs = new Map<ReplicaId, number>();
  #orphans = new Set<ReplicaId>();
  /** replicas that were not on their disks at the last look */
  #missing = new Set<ReplicaId>();
  readonly #changed: () => void;
  readonly #replicasChanged: () => void;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    agent: AgentPort;
    nodeId: NodeId;
    clock: Clock;
    logger: Logger;
    /** called when something has finished and it is worth looking again */
    changed: () => void;
    /** called when a replica was created or deleted here: the disks are fuller or emptier */
    replicasChanged: () => void;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#agent = options.agent;
    this.#reports = new ReplicaReports(options.store);
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#changed = options.changed;
    this.#replicasChanged = options.replicasChanged;
  }

  /** replicas on this node that no record knows */
  get orphanCount(): number {
    return this.#orphans.size;
  }

  /** Starts what the state asks for; returns at once. */
  reconcile(): void {
    const { state } = this.#cache;
    const nowMs = this.#clock.monotonicMs();
    for (const [id, atMs] of this.#notBeforeMs) if (atMs <= nowMs) this.#notBeforeMs.delete(id);
    // whoever has one that is to be created or to go is not settled, and the others need no look
    for (const local of this.#replicasOf(unsettledVolumes(state.volumes))) {
      const { state: wanted, id } = local.replica;
      const report = state.reports.get(id)?.value;
      if (wanted === 'creating' && !report)
        this.#start(local, createRetryMs, () => this.#create(local));
      if (wanted === 'removed' && report?.state !== 'deleted')
        this.#start(local, deleteRetryMs, () => this.#deleteRemoved(local));
    }
    for (const local of this.#mine(state.deleted)) {
      const report = state.reports.get(local.replica.id)?.value;
      if (report?.state === 'deleted') continue;
      this.#start(local, deleteRetryMs, () => this.#deleteWithVolume(local));
    }
  }

  /** Counts and logs replicas that no record knows. */
  async lookForOrphans(): Promise<void> {
    const found = await this.#agent.replicas();
    const { state } = this.#cache;
    const known = new Set<ReplicaId>();
    for (const { replica } of this.#mine(state.volumes)) known.add(replica.id);
    for (const { replica } of this.#mine(state.deleted)) known.add(replica.id);
    for (const { replica } of this.#mine(state.trash)) known.add(replica.id);
    const orphans = new Set<ReplicaId>();
    for (const { replicaId, volumeId, diskId } of found) {
      if (known.has(replicaId) || this.#busy.has(replicaId)) continue;
      orphans.add(replicaId);
      if (this.#orphans.has(replicaId)) continue;
      this.#logger.warn({ replicaId, volumeId, diskId }, 'orphan: no volume knows this replica');
    }
    this.#orphans = orphans;
  }

  /**
   * A replica failed for good (I7), here or, as its primary saw, on another node; or all replicas
   * of a disk of this node did (`replicaId` null).
   */
  async reportFailure(failure: {
    diskId: DiskId;
    replicaId: ReplicaId | null;
    reason: string;
  }): Promise<void> {
    const { diskId, replicaId } = failure;
    const error = new StorError('DISK_FAILED', failure.reason);
    for (const { value: volume } of [...this.#cache.state.volumes.values()]) {
      for (const replica of volume.status.segments.flatMap((segment) => segment.replicas)) {
        const isMeant =
          replicaId === null
            ? replica.diskId === diskId && replica.nodeId === this.#nodeId
            : replica.id === replicaId;
        if (!isMeant || this.#isKnownFailed(replica.id)) continue;
        await this.#report(volume, replica, 'failed', error);
      }
    }
  }

  /**
   * Reports what failed for good on this node and is not known as failed: the report made at that
   * moment is lost when the process ends, the store cannot be reached, or the volume is so new that
   * it was not seen here yet.
   */
  async reportKnownFailures(): Promise<void> {
    for (const { diskId, state, message, isLost } of await this.#agent.disks()) {
      if (state !== 'failed' || isLost !== true) continue;
      await this.reportFailure({ diskId, replicaId: null, reason: message });
    }
    for (const { diskId, replicaId, failure } of await this.#agent.replicas()) {
      if (failure === undefined || this.#isKnownFailed(replicaId)) continue;
      await this.reportFailure({ diskId, replicaId, reason: failure });
    }
    await this.#reportMissing();
  }

  /**
   * A replica that the records call ready and that is not on its disk, though the disk is there, at
   * two looks in a row: the records are older than the disk (restored from a backup), or somebody
   * removed its files. It never comes back, so it is reported as failed, to be replaced.
   */
  async #reportMissing(): Promise<void> {
    const disks = await this.#agent.disks();
    const online = new Set(disks.flatMap((d) => (d.state === 'online' ? [d.diskId] : [])));
    const present = new Set((await this.#agent.replicas()).map(({ replicaId }) => replicaId));
    const before = this.#missing;
    this.#missing = new Set();
    for (const { volume, replica } of [...this.#mine(this.#cache.state.volumes)]) {
      const { id, diskId, state } = replica;
      if (state !== 'ready' || !online.has(diskId) || present.has(id)) continue;
      if (this.#busy.has(id) || this.#isKnownFailed(id)) continue;
      this.#missing.add(id);
      if (!before.has(id)) continue;
      const now = await readVolume(this.#store, volume.metadata.id);
      const replicas = now?.value.status.segments.flatMap((segment) => segment.replicas) ?? [];
      if (!replicas.some((known) => known.id === id && known.state === 'ready')) continue;
      this.#logger.error({ replicaId: id, diskId }, 'a replica is not on its disk');
      await this.#report(volume, replica, 'failed', notOnDisk());
    }
  }

  #isKnownFailed(replicaId: ReplicaId): boolean {
    return this.#cache.state.reports.get(replicaId)?.value.state === 'failed';
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#busy.values());
  }

  /** Replicas of this node: of thousands of volumes, the few that have any here are looked at. */
  #mine(volumes: ClusterState['volumes']): Iterable<LocalReplica> {
    return this.#replicasOf(volumesOn(volumes, this.#nodeId));
  }

  *#replicasOf(volumes: readonly Versioned<StoredVolume>[]): Iterable<LocalReplica> {
    for (const { value: volume } of volumes) {
      for (const segment of placedSegments(volume)) {
        for (const replica of segment.replicas) {
          if (replica.nodeId === this.#nodeId) yield { volume, segment: segment.index, replica };
        }
        for (const removed of segment.removed ?? []) {
          if (removed.nodeId !== this.#nodeId) continue;
          yield { volume, segment: segment.index, replica: { ...removed, state: 'removed' } };
        }
      }
    }
  }

  #start(local: LocalReplica, retryMs: number, run: () => Promise<void>): void {
    const { id, diskId } = local.replica;
    if (this.#busy.has(id)) return;
    const onDisk = this.#busyOnDisk.get(diskId) ?? 0;
    // looked at again when one of those has ended
    if (onDisk >= maxWorkPerDisk) return;
    if (this.#clock.monotonicMs() < (this.#notBeforeMs.get(id) ?? 0)) return;
    const work = run()
      .catch((error: unknown) => {
        const { message } = StorError.from(error);
        this.#logger.warn({ replicaId: id, error: message }, 'replica work failed, will retry');
        this.#notBeforeMs.set(id, this.#clock.monotonicMs() + retryMs);
      })
      .then(() => {
        this.#busy.delete(id);
        this.#busyOnDisk.set(diskId, (this.#busyOnDisk.get(diskId) ?? 1) - 1);
        this.#changed();
      });
    this.#busy.set(id, work);
    this.#busyOnDisk.set(diskId, onDisk + 1);
  }

  #read(volumeId: VolumeId): ReturnType<typeof readVolume> {
    let reading = this.#reads.get(volumeId);
    if (!reading) {
      reading = readVolume(this.#store, volumeId).finally(() => this.#reads.delete(volumeId));
      this.#reads.set(volumeId, reading);
    }
    return reading;
  }

  async #create({ volume, segment, replica }: LocalReplica): Promise<void> {
    const { id: volumeId } = volume.metadata;
    // The cache may be old, just after a start: a volume that is gone by now must not come back, and
    // a replica that was reported may be in use: it is never made again, that one would be empty.
    const now = await this.#read(volumeId);
    const segments = now ? placedSegments(now.value) : [];
    const wanted = segments.flatMap((each) => each.replicas).find(({ id }) => id === replica.id);
    if (!now || wanted?.state !== 'creating') return;
    if (await this.#store.get(replicaReportKey(replica.id))) return;
    const sizeBytes = segmentSizeOf(now.value, segment);
    const { cloneOf } = wanted;
    const what = {
      replicaId: replica.id,
      volumeId,
      segment,
      sizeBytes,
      ...(cloneOf ? { cloneOf } : {}),
    };
    try {
      await this.#agent.createReplica(replica.diskId, what);
      this.#replicasChanged();
    } catch (error) {
      if (cloneOf && this.#mayWait(replica.id, error)) throw error;
      this.#waitingSinceMs.delete(replica.id);
      await this.#report(volume, replica, 'failed', StorError.from(error));
      return;
    }
    this.#waitingSinceMs.delete(replica.id);
    await this.#report(volume, replica, 'ready', null);
  }

  #mayWait(replicaId: ReplicaId, error: unknown): boolean {
    if (StorError.from(error).code !== 'FAILED_PRECONDITION') return false;
    const nowMs = this.#clock.monotonicMs();
    const sinceMs = this.#waitingSinceMs.get(replicaId) ?? nowMs;
    this.#waitingSinceMs.set(replicaId, sinceMs);
    return nowMs - sinceMs < cloneSourceWaitMs;
  }

  /**
   * A replica that left its volume, which lives on. Looked at once more in the store; and what this
   * replica itself knows must not contradict it: the records may be older than the data (restored
   * from a backup), and then it may be the only one that has it.
   */
  async #deleteRemoved(local: LocalReplica): Promise<void> {
    const { id } = local.replica;
    const now = await this.#read(local.volume.metadata.id);
    const segment = now?.value.status.segments.find((each) => each.index === local.segment);
    const removed = segment?.removed?.find((each) => each.id === id);
    if (!segment || !removed) return;
    if (segment.replicas.some((replica) => replica.id === id)) return;
    if (segment.inSync.includes(id)) return;
    const view = await this.#setViewOf(id);
    const isMember = view?.members.includes(id) && view.setRevision >= segment.setRevision;
    if (view && (isMember || removed.unused === true)) {
      throw new StorError(
        'UNSAFE',
        `replica ${id} is a member of the in-sync set at revision ${view.setRevision}, and the records know revision ${segment.setRevision}: they are older than the data, so it is not deleted`,
      );
    }
    await this.#delete(local);
  }

  /**
   * Of a volume that an operator deleted, or whose creation was undone. The latter never served: a
   * replica that did proves that the records are older than the data.
   */
  async #deleteWithVolume(local: LocalReplica): Promise<void> {
    const { id } = local.replica;
    const view = local.volume.failure === null ? undefined : await this.#setViewOf(id);
    if (view) {
      throw new StorError(
        'UNSAFE',
        `replica ${id} served at epoch ${view.epoch}, and the records say that its volume could not be created: they are older than the data, so it is not deleted`,
      );
    }
    await this.#delete(local);
  }

  async #setViewOf(replicaId: ReplicaId): Promise<AgentReplica['setView']> {
    return (await this.#agent.replicas()).find((each) => each.replicaId === replicaId)?.setView;
  }

  async #delete({ volume, replica }: LocalReplica): Promise<void> {
    const { diskId, id } = replica;
    await this.#agent.deleteReplica(diskId, id);
    this.#replicasChanged();
    await this.#report(volume, replica, 'deleted', null);
    // What is seen here may be older for a moment: a second report could come after the leader has
    // finished with the first one, and would stay for ever.
    this.#notBeforeMs.set(id, this.#clock.monotonicMs() + deleteRetryMs);
    this.#logger.info({ replicaId: id, volume: volume.metadata.name }, 'replica deleted');
  }

  async #report(
    volume: StoredVolume,
    replica: LocalReplica['replica'],
    state: 'ready' | 'failed' | 'deleted',
    error: StorError | null,
  ): Promise<void> {
    await this.#reports.write({
      replicaId: replica.id,
      volumeId: volume.metadata.id,
      nodeId: replica.nodeId,
      state,
      code: error?.code ?? '',
      message: error?.message ?? '',
    });
  }
}

function notOnDisk(): StorError {
  return new StorError('NOT_FOUND', 'it is not on its disk, although the disk is');
}
