import { hasCode, makeId, StorError } from '@stor/protocol';
import type { SnapshotId, VolumeId } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { maxConflicts, tooManyConflicts, VolumeRecords } from '../agent/volume-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { rollbackBegun, rollbackEnded, rollbackTurned } from '../core/volume/rollback-rules.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { readVolume } from '../resources/find.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { PrimaryAccess, PrimaryHandle } from './primary-access.ts';

/** What a rollback is to do; the rest of its record follows. */
export interface WantedRollback {
  snapshotId: SnapshotId;
  safetyId: SnapshotId;
  force: boolean;
}

/**
 * Rollbacks of volumes. The record of the volume names a rollback from before anything changes until
 * every segment has been rolled back at every in-sync replica; as long as it does no primary, the
 * present one or a later one, serves a client. So it may end anywhere in between: the leader goes on.
 */
export class VolumeRollbacks {
  readonly #store: ClusterStore;
  readonly #records: VolumeRecords;
  readonly #access: PrimaryAccess;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    access: PrimaryAccess;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#records = new VolumeRecords(options.store);
    this.#access = options.access;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  /**
   * Records it, for the primary that the caller has; nothing has changed when it fails. One that is
   * under way is replaced: what was before it is still what was before. STALE_EPOCH, UNAVAILABLE.
   */
  async begin(primary: PrimaryHandle, wanted: WantedRollback): Promise<Versioned<StoredVolume>> {
    const id = this.#newId();
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await this.#read(primary.volumeId);
      const { attachment, rollback } = volume.value.status;
      // an earlier try of this call, whose answer was lost
      if (rollback?.id === id) return volume;
      if (attachment?.epoch !== primary.epoch) {
        throw new StorError(
          'STALE_EPOCH',
          `volume ${primary.name} got another primary meanwhile: try again`,
        );
      }
      const record = rollbackBegun(volume.value, {
        ...wanted,
        // nobody was served since the one that is replaced began
        ...(rollback ? { safetyId: rollback.safetyId, force: true } : {}),
        id,
        sinceMs: this.#clock.wallMs(),
      });
      try {
        const written = await this.#records.write(volume, record);
        if (written) return written;
      } catch (error) {
        if (!hasCode(error, 'OUTCOME_UNKNOWN')) throw error;
      }
    }
    throw tooManyConflicts(`volume ${primary.name}`);
  }

  /**
   * Carries out what the record says. Resolves when all of the volume has been rolled back and it
   * serves again. On an error whose details say `untouched` it is as it was; after any other one the
   * leader goes on.
   */
  async drive(
    primary: PrimaryHandle,
    volume: Versioned<StoredVolume>,
    signal?: AbortSignal,
  ): Promise<void> {
    const { rollback } = volume.value.status;
    if (!rollback) return;
    const { id, snapshotId, force } = rollback;
    const version = volume.modRevision;
    try {
      const order = { type: 'rollback' as const, id, version, snapshotId, force };
      await primary.orderWhenReady(order, signal);
    } catch (error) {
      const { details } = StorError.from(error);
      if (details['untouched'] === 'true') await this.#end(primary, id);
      else if (hasCode(error, 'NOT_FOUND')) await this.#turn(primary, id, signal);
      throw error;
    }
    await this.#end(primary, id);
    this.#logger.info({ volume: primary.name, snapshotId }, 'volume rolled back');
  }

  /** Goes on with what somebody else has begun. */
  async resume(volumeId: VolumeId, signal?: AbortSignal): Promise<void> {
    await this.#access.with(
      [volumeId],
      async ([primary]) => {
        const volume = await this.#read(volumeId);
        const { rollback } = volume.value.status;
        if (!primary || !rollback) return;
        this.#logger.warn({ volume: primary.name, ...rollback }, 'going on with a rollback');
        // one that only just became ready may not be known as such to all; else the order says why
        const confirm = { type: 'confirm' as const, snapshotId: rollback.snapshotId };
        await primary.orderWhenReady(confirm, signal).catch(() => {});
        await this.drive(primary, volume, signal);
      },
      signal,
    );
  }

  /** It is over under this primary; UNAVAILABLE when another one has come, which begins anew. */
  async #end({ volumeId, name, epoch }: PrimaryHandle, id: string): Promise<void> {
    const ended = await this.#records.update(volumeId, (record) =>
      rollbackEnded(record, { id, epoch }),
    );
    if (ended) return;
    const now = await this.#read(volumeId);
    if (now.value.status.rollback?.id !== id) return;
    throw new StorError(
      'UNAVAILABLE',
      `volume ${name} got another primary while it was rolled back`,
    );
  }

  /** A part of the volume has no such snapshot, and others have been rolled back to it already. */
  async #turn(primary: PrimaryHandle, id: string, signal: AbortSignal | undefined): Promise<void> {
    const newId = this.#newId();
    const turned = await this.#records.update(primary.volumeId, (record) =>
      rollbackTurned(record, id, newId),
    );
    if (!turned) return;
    this.#logger.error({ volume: primary.name }, 'a rollback cannot go on: it is undone');
    await this.drive(primary, turned, signal).catch((error: unknown) => {
      const { message } = StorError.from(error);
      this.#logger.warn({ volume: primary.name, error: message }, 'a rollback is not undone yet');
    });
  }

  async #read(volumeId: VolumeId): Promise<Versioned<StoredVolume>> {
    const volume = await readVolume(this.#store, volumeId);
    if (volume) return volume;
    throw new StorError('NOT_FOUND', `volume ${volumeId} was deleted meanwhile`);
  }

  #newId(): string {
    return makeId('g', this.#random.bytes(8));
  }
}
