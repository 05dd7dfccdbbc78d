import { hasCode, makeId, StorError } from '@stor/protocol';
import type { Volume, VolumeId } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import { maxConflicts, tooManyConflicts, VolumeRecords } from '../agent/volume-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import {
  growthBegun,
  growthDone,
  growthOutcome,
  growthUndone,
  type GrowthContext,
} from '../core/volume/grow-volume.ts';
import { findVolume, readHosts, readVolume } from '../resources/find.ts';
import { pause } from '../resources/pause.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { createWaitMs } from './create-wait.ts';
import type { PrimaryAccess, PrimaryHandle } from './primary-access.ts';
import type { VolumeService } from './volume-service.ts';

/** How long the replicas of what is added may take to be created, if they are few (ms). */
const fewReplicasMs = 30_000;
/** How long a primary that takes no orders now is asked again, and how often (ms). */
const orderWaitMs = 15_000;
const orderAgainMs = 500;
/** A primary hears of the new size a moment after it is recorded (ms); clients connect after that. */
const deviceWaitMs = 5_000;
const deviceLookMs = 50;
/** The primary may change between the order and the record: then the next one is asked. */
const maxPrimaries = 5;

/**
 * `volume resize`: places what is added, makes the replicas of what there is larger, and then takes
 * the new size over in one change of the record. A crash anywhere leaves the volume with one size
 * or the other, and never a device that is larger than its replicas.
 */
export class VolumeGrowthOrders {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #records: VolumeRecords;
  readonly #volumes: VolumeService;
  readonly #access: PrimaryAccess;
  readonly #peers: AgentPeers;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    volumes: VolumeService;
    access: PrimaryAccess;
    peers: AgentPeers;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#records = new VolumeRecords(options.store);
    this.#volumes = options.volumes;
    this.#access = options.access;
    this.#peers = options.peers;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  /** See StorApi.resizeVolume. */
  async resize(name: string, sizeBytes: number, signal?: AbortSignal): Promise<Volume> {
    const { id } = (await findVolume(this.#store, name)).value.metadata;
    if (!(await this.#begin(id, sizeBytes))) return this.#volumes.get(id);
    try {
      await this.#replicasMade(id, signal);
      for (let tries = 1; !(await this.#take(id, signal)); tries++) {
        if (tries >= maxPrimaries) throw tooManyConflicts(`the primary of volume ${name}`);
      }
    } catch (error) {
      await this.#undo(id);
      // another call with the same size may have been faster, or an answer was lost
      const now = await readVolume(this.#store, id);
      if (!now || now.value.spec.sizeBytes < sizeBytes) throw error;
    }
    return this.#volumes.get(id);
  }

  /** Whether a growth to that size is under way now. */
  async #begin(id: VolumeId, sizeBytes: number): Promise<boolean> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await readVolume(this.#store, id);
      if (!volume) throw new StorError('NOT_FOUND', `volume ${id} was deleted meanwhile`);
      const begun = growthBegun(volume.value, sizeBytes, await this.#context());
      if (begun === null) return volume.value.status.growth !== undefined;
      if (await this.#records.write(volume, begun)) return true;
    }
    throw tooManyConflicts(`volume ${id}`);
  }

  async #context(): Promise<GrowthContext> {
    // what other volumes were promised may be a moment old: it only ranks the disks
    const { volumes, trash } = this.#cache.state;
    return {
      state: {
        ...(await readHosts(this.#store, { local: true, known: this.#cache.state })),
        volumes,
        trash,
      },
      wallMs: this.#clock.wallMs(),
      newReplicaId: () => makeId('r', this.#random.bytes(8)),
    };
  }

  async #replicasMade(id: VolumeId, signal: AbortSignal | undefined): Promise<void> {
    const { growth } = (await readVolume(this.#store, id))?.value.status ?? {};
    const added = growth?.segments.flatMap(({ replicas }) => replicas) ?? [];
    const waitMs = createWaitMs(added.length, fewReplicasMs);
    const outcome = await this.#cache.waitFor(
      (state) => {
        const volume = state.volumes.get(id);
        // the cache may not have come to the beginning yet
        if (!volume?.value.status.growth) return undefined;
        return growthOutcome(volume.value, state) ?? undefined;
      },
      { timeoutMs: waitMs, signal },
    );
    if (outcome === 'ready') return;
    if (outcome) throw outcome.failure;
    const seconds = waitMs / 1000;
    throw new StorError('TIMEOUT', `its new replicas were not created within ${seconds} s`);
  }

  /**
   * Makes the replicas larger and records the size, under one primary: only its in-sync members are
   * known to be as large. False when another primary has come in between.
   */
  #take(id: VolumeId, signal: AbortSignal | undefined): Promise<boolean> {
    return this.#access.with(
      [id],
      async ([primary]) => {
        if (!primary) throw new StorError('INTERNAL', 'no primary was found');
        const before = await readVolume(this.#store, id);
        const growth = before?.value.status.growth;
        if (!growth) throw this.#given(id);
        await this.#order(primary, growth.sizeBytes, signal);
        const outcome = await this.#commit(id, primary.epoch, growth.sinceMs);
        if (outcome === 'gone') throw this.#given(id);
        if (outcome === 'taken') await this.#deviceGrown(primary, growth.sizeBytes, signal);
        return outcome === 'taken';
      },
      signal,
    );
  }

  /** While replicas are made equal, or the set changes, a primary takes no orders. */
  async #order(
    primary: PrimaryHandle,
    sizeBytes: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const deadlineMs = this.#clock.monotonicMs() + orderWaitMs;
    for (;;) {
      try {
        await primary.order({ type: 'resize', sizeBytes });
        return;
      } catch (error) {
        const isOver = this.#clock.monotonicMs() >= deadlineMs || signal?.aborted === true;
        if (!hasCode(error, 'UNAVAILABLE') || isOver) throw error;
        await pause(this.#clock, orderAgainMs, signal);
      }
    }
  }

  async #commit(
    id: VolumeId,
    epoch: number,
    sinceMs: number,
  ): Promise<'taken' | 'other primary' | 'gone'> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await readVolume(this.#store, id);
      const { growth, attachment } = volume?.value.status ?? {};
      if (!volume || growth?.sinceMs !== sinceMs) return 'gone';
      if (attachment?.epoch !== epoch) return 'other primary';
      const record = growthDone(volume.value, this.#clock.wallMs());
      if (await this.#records.write(volume, record)) {
        const { name } = record.metadata;
        this.#logger.info({ volume: name, sizeBytes: record.spec.sizeBytes }, 'volume has grown');
        return 'taken';
      }
    }
    throw tooManyConflicts(`volume ${id}`);
  }

  /** The primary has been told and its new segments serve; who connects now sees the new size. */
  async #deviceGrown(
    { nodeId, volumeId, epoch }: PrimaryHandle,
    sizeBytes: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const deadlineMs = this.#clock.monotonicMs() + deviceWaitMs;
    for (;;) {
      const volumes = await this.#peers
        .at(nodeId)
        .liveVolumes([volumeId])
        .catch(() => null);
      const live = volumes?.find((each) => each.volumeId === volumeId && each.epoch === epoch);
      // who does not answer, or is not primary any more, needs no wait: the record counts
      if (!live || (live.sizeBytes ?? sizeBytes) >= sizeBytes) return;
      if (this.#clock.monotonicMs() >= deadlineMs || signal?.aborted === true) return;
      await pause(this.#clock, deviceLookMs, signal);
    }
  }

  #given(id: VolumeId): StorError {
    return new StorError('ABORTED', `the resize of volume ${id} was given up meanwhile`);
  }

  /** What was placed goes again; the leader does it later when this cannot be done now. */
  async #undo(id: VolumeId): Promise<void> {
    try {
      await this.#records.update(id, (record) =>
        record.status.growth ? growthUndone(record) : null,
      );
    } catch (error) {
      this.#logger.warn({ id, error: StorError.from(error).message }, 'a resize is not undone yet');
    }
  }
}
