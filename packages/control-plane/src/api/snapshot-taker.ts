import { hasCode, makeId, snapshotHoldMs, StorError } from '@stor/protocol';
import type { VolumeId } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { SnapshotRecords } from '../agent/snapshot-records.ts';
import type { SnapshotRef } from '../agent/snapshot-records.ts';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import { checkChangeable } from '../core/volume/change-volume.ts';
import { checkNotRollingBack } from '../core/volume/rollback-rules.ts';
import {
  checkSnapshotCount,
  deletingSnapshot,
  newSnapshot,
  readySnapshot,
} from '../core/volume/snapshot-rules.ts';
import type { SnapshotOrder } from '../core/volume/snapshot-rules.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { readVolume } from '../resources/find.ts';
import { snapshotKey, snapshotNameKey, volumeKey } from '../resources/keys.ts';
import { pause } from '../resources/pause.ts';
import { encodeRecord } from '../resources/records.ts';
import type { SnapshotRecord, StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { maxConflicts, tooManyConflicts } from '../agent/volume-records.ts';
import type { PrimaryAccess, PrimaryHandle } from './primary-access.ts';

/** How often a snapshot is tried when its primary changes. */
const maxTries = 4;
/**
 * How often when its pause would be too long: each try costs clients one pause, and on a machine whose
 * disks are busy for seconds the last ones come after that (some 6 s with the waits below).
 */
const maxSlowTries = 6;
/** What was busy gets so long until the next try (ms), twice as long each time. */
const retryWaitMs = 250;
const maxRetryWaitMs = 2_000;
/** A primary that cannot take one yet gets so long to get ready (ms), as after a crash. */
const notReadyWaitMs = 10_000;

/** What the caller wants; name, labels and the like are the same for all volumes. */
export type WantedSnapshots = Omit<SnapshotOrder, 'groupId' | 'createdAtMs'> & {
  volumeIds: readonly VolumeId[];
};

/**
 * Takes snapshots, of several volumes at one instant. While it is taken a snapshot has a record that
 * says `creating`; when it fails, or this process dies, that record is turned into one that says
 * `deleting`, here or by the leader, and what replicas have prepared is dropped.
 */
export class SnapshotTaker {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #access: PrimaryAccess;
  readonly #records: SnapshotRecords;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    access: PrimaryAccess;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#access = options.access;
    this.#records = new SnapshotRecords(options.store);
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  /** The ready snapshots, in the order of the volumes. ALREADY_EXISTS (details: requestId of that one), TIMEOUT. */
  async take(wanted: WantedSnapshots, signal?: AbortSignal): Promise<Versioned<SnapshotRecord>[]> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#access.with(
          wanted.volumeIds,
          (primaries) => this.takeWith(primaries, wanted, signal),
          signal,
        );
      } catch (error) {
        // a primary has ended between being found and being asked: the next one is asked
        if (!hasCode(error, 'STALE_EPOCH')) throw error;
        if (tries < maxTries && signal?.aborted !== true) continue;
        throw new StorError('UNAVAILABLE', `${error.message}: try again`, { cause: error });
      }
    }
  }

  /** As `take`, with primaries that the caller has. */
  async takeWith(
    primaries: readonly PrimaryHandle[],
    wanted: WantedSnapshots,
    signal?: AbortSignal,
  ): Promise<Versioned<SnapshotRecord>[]> {
    const deadlineMs = this.#clock.monotonicMs() + notReadyWaitMs;
    for (let tries = 1; ; tries++) {
      try {
        return await this.#attempt(primaries, wanted);
      } catch (error) {
        const { code, message, details } = StorError.from(error);
        const waitMs = Math.min(retryWaitMs * 2 ** (tries - 1), maxRetryWaitMs);
        const isSlow = code === 'TIMEOUT';
        if (isSlow && (tries >= maxSlowTries || signal?.aborted === true))
          throw tooSlow(primaries, tries, message);
        // a primary that has only just begun makes replicas equal first, or finds them
        const mayGetReady = code === 'UNAVAILABLE' && details['unreachable'] === undefined;
        const isInTime = this.#clock.monotonicMs() + waitMs < deadlineMs;
        if (!isSlow && !(mayGetReady && isInTime && signal?.aborted !== true)) throw error;
        await pause(this.#clock, waitMs, signal);
      }
    }
  }

  /** Every try has ids of its own: what one left behind somewhere must not count for the next. */
  async #attempt(
    primaries: readonly PrimaryHandle[],
    wanted: WantedSnapshots,
  ): Promise<Versioned<SnapshotRecord>[]> {
    const refs = await this.#reserve(wanted);
    try {
      const { pausedMs, takenAtMs } = await this.#freeze(primaries, refs);
      const ready = await this.#commit(primaries, refs, { pausedMs, takenAtMs });
      const names = primaries.map(({ name }) => name);
      this.#logger.info({ volumes: names, snapshot: wanted.name, pausedMs }, 'snapshot taken');
      await this.#confirm(primaries, refs);
      return ready;
    } catch (error) {
      const made = await this.#abandon(primaries, refs, StorError.from(error).message);
      if (!made) throw error;
      await this.#confirm(primaries, refs);
      return made;
    }
  }

  /** Writes records that say `creating`, with the names, in one transaction. */
  async #reserve(wanted: WantedSnapshots): Promise<SnapshotRef[]> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volumes = await this.#volumes(wanted.volumeIds);
      checkSnapshotCount(
        this.#cache.state,
        volumes.map(({ value }) => value.metadata),
      );
      await this.#checkNames(volumes, wanted);
      const groupId = volumes.length > 1 ? makeId('g', this.#random.bytes(8)) : '';
      const order = { ...wanted, groupId, createdAtMs: this.#clock.wallMs() };
      const compare: Compare[] = [];
      const operations: Operation[] = [];
      const refs: SnapshotRef[] = [];
      for (const { value, modRevision } of volumes) {
        const record = newSnapshot(value, makeId('s', this.#random.bytes(8)), order);
        const { id, volumeId } = record;
        refs.push({ id, volumeId });
        // a volume that is being deleted gets none
        compare.push({ key: volumeKey(volumeId), modRevision });
        const put = encodeRecord(record);
        operations.push({ type: 'put', key: snapshotKey(volumeId, id), value: put });
        if (wanted.isHidden) continue;
        const key = snapshotNameKey(volumeId, wanted.name);
        compare.push({ key, modRevision: 0 });
        operations.push({ type: 'put', key, value: new TextEncoder().encode(id) });
      }
      const { succeeded } = await this.#store.transact({ compare, operations });
      if (succeeded) return refs;
    }
    throw tooManyConflicts(`snapshot ${wanted.name}`);
  }

  async #volumes(ids: readonly VolumeId[]): Promise<Versioned<StoredVolume>[]> {
    const volumes: Versioned<StoredVolume>[] = [];
    for (const id of ids) {
      const volume = await readVolume(this.#store, id, { local: volumes.length > 0 });
      if (!volume) throw new StorError('NOT_FOUND', `volume ${id} was deleted meanwhile`);
      checkChangeable(volume.value);
      checkNotRollingBack(volume.value);
      volumes.push(volume);
    }
    return volumes;
  }

  async #checkNames(
    volumes: readonly Versioned<StoredVolume>[],
    { name, isHidden }: WantedSnapshots,
  ): Promise<void> {
    if (isHidden) return;
    for (const { value } of volumes) {
      const { id, name: volume } = value.metadata;
      const item = await this.#store.get(snapshotNameKey(id, name), { local: true });
      if (!item) continue;
      const known = await this.#records.read(
        { volumeId: id, id: new TextDecoder().decode(item.value) },
        true,
      );
      throw new StorError('ALREADY_EXISTS', `there is a snapshot ${volume}@${name} already`, {
        details: { requestId: known?.value.requestId ?? '' },
      });
    }
  }

  /** Durable on every in-sync replica when done; TIMEOUT when clients would have waited too long. */
  async #freeze(
    primaries: readonly PrimaryHandle[],
    refs: readonly SnapshotRef[],
  ): Promise<{ pausedMs: number; takenAtMs: number }> {
    const idOf = (primary: PrimaryHandle): string =>
      refs.find(({ volumeId }) => volumeId === primary.volumeId)?.id ?? '';
    const [only, ...others] = primaries;
    if (only && others.length === 0) {
      const takenAtMs = this.#clock.wallMs();
      const order = { type: 'take' as const, snapshotId: idOf(only), holdMs: snapshotHoldMs };
      return { ...(await only.order(order)), takenAtMs };
    }
    const token = refs[0]?.id ?? '';
    await inAll(primaries, (primary) => primary.order({ type: 'flush' }));
    let takenAtMs: number;
    try {
      await inAll(primaries, (primary) =>
        primary.order({ type: 'hold', token, holdMs: snapshotHoldMs }),
      );
      // all are held now, so this instant lies in every one of them
      takenAtMs = this.#clock.wallMs();
      await inAll(primaries, (primary) =>
        primary.order({ type: 'prepare', token, snapshotId: idOf(primary) }),
      );
    } catch (error) {
      // whatever held is let go; what does not answer lets go by itself
      await Promise.allSettled(primaries.map((each) => each.order({ type: 'release', token })));
      throw error;
    }
    const answers = await inAll(primaries, (primary) => primary.order({ type: 'release', token }));
    const broken = primaries.filter((_, i) => answers[i]?.intact !== true);
    if (broken.length > 0) {
      const names = broken.map(({ name }) => name).join(', ');
      throw new StorError('TIMEOUT', `volume ${names} could not be held for long enough`);
    }
    await inAll(primaries, (primary) => primary.order({ type: 'seal', snapshotId: idOf(primary) }));
    return { pausedMs: Math.max(...answers.map(({ pausedMs }) => pausedMs)), takenAtMs };
  }

  /**
   * One transaction makes all of them ready, provided that each primary is still the one that took
   * its part: a later one has dropped what it found prepared.
   */
  async #commit(
    primaries: readonly PrimaryHandle[],
    refs: readonly SnapshotRef[],
    taken: { pausedMs: number; takenAtMs: number },
  ): Promise<Versioned<SnapshotRecord>[]> {
    const records = await this.#records.change(
      refs,
      (record) => readySnapshot(record, taken),
      ({ metadata, status }) => {
        const primary = primaries.find(({ volumeId }) => volumeId === metadata.id);
        if (status.attachment?.epoch === primary?.epoch) return;
        throw new StorError(
          'STALE_EPOCH',
          `volume ${metadata.name} got another primary while its snapshot was taken: try again`,
        );
      },
    );
    const isWhole =
      records.length === refs.length && records.every(({ value }) => value.state === 'ready');
    if (isWhole) return records;
    throw new StorError(
      'UNAVAILABLE',
      'the snapshot was deleted, or given up by the leader, while it was taken: try again',
    );
  }

  /** Primaries are told by their settings too: this is only sooner, and before one is detached. */
  async #confirm(primaries: readonly PrimaryHandle[], refs: readonly SnapshotRef[]): Promise<void> {
    const waits = refs.map(async ({ volumeId, id }) => {
      const primary = primaries.find((each) => each.volumeId === volumeId);
      const told = primary?.order({ type: 'confirm', snapshotId: id }).catch(() => {});
      if (primary?.isOurs === true) await told;
    });
    await Promise.all(waits);
  }

  /**
   * After this the names are free, and replicas drop what they have. Never fails: the leader would.
   * What was made ready after all, when only the answer was lost, is there for everybody, who may have
   * been told of it by now: it stays, and is returned.
   */
  async #abandon(
    primaries: readonly PrimaryHandle[],
    refs: readonly SnapshotRef[],
    reason: string,
  ): Promise<Versioned<SnapshotRecord>[] | null> {
    try {
      const records = await this.#records.change(refs, (record) =>
        record.state === 'creating' ? deletingSnapshot(record, reason) : null,
      );
      const ready = records.filter(({ value }) => value.state === 'ready');
      if (ready.length > 0 && ready.length === refs.length) return ready;
      for (const { volumeId, id } of refs) {
        if (ready.some(({ value }) => value.id === id)) continue;
        const primary = primaries.find((each) => each.volumeId === volumeId);
        primary?.order({ type: 'drop', snapshotId: id }).catch(() => {});
      }
    } catch (error) {
      const { message } = StorError.from(error);
      this.#logger.warn({ refs, error: message }, 'a failed snapshot is left to the leader');
    }
    return null;
  }
}

/** Waits for all, so that nothing is under way when it fails; the first error counts. */
async function inAll<T>(
  primaries: readonly PrimaryHandle[],
  run: (primary: PrimaryHandle) => Promise<T>,
): Promise<T[]> {
  const settled = await Promise.allSettled(primaries.map(run));
  const failed = settled.find((each) => each.status === 'rejected');
  if (failed) throw failed.reason as Error;
  return settled.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
}

function tooSlow(primaries: readonly PrimaryHandle[], tries: number, reason: string): StorError {
  const names = primaries.map(({ name }) => name).join(', ');
  return new StorError(
    'TIMEOUT',
    `no snapshot of ${names}: it would have paused I/O for more than ${snapshotHoldMs} ms, ${tries} times (${reason}); nothing was left behind, try again when there is less load`,
  );
}
