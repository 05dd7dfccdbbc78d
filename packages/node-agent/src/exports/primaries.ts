import type { LiveVolume, PrimaryAnswer, PrimaryOrder } from '@stor/control-plane';
import {
  StorError,
  autoDetachMs,
  type AttachmentGrant,
  type ScrubOrder,
  type ScrubProgress,
  type VolumeId,
  type VolumeSettings,
} from '@stor/protocol';
import type { PrimaryVolume } from '@stor/replicator';
import type { Clock, Logger } from '@stor/runtime';
import type { MainMethods } from '../lane/lane-protocol.ts';
import { EndedEpochs } from '../core/lanes/ended-epochs.ts';
import { LaneQos } from '../qos/lane-qos.ts';
import type { QosVolume, VolumeQosReport } from '../qos/lane-volume.ts';
import { liveVolume } from './live-volume.ts';
import { PublicationGate, type PublishedUser } from './publication-gate.ts';
import { carryOut } from './primary-orders.ts';
import { RecentNames } from './recent-names.ts';
import { RollbackGate, rollingBackReason } from './rollback-gate.ts';
import { membersOf, watchRepair } from './watch-repair.ts';
import { within } from './within.ts';

/** The part of the replicator that exports need. */
export interface PrimaryHost {
  attach(grant: AttachmentGrant, options: { signal: AbortSignal }): Promise<PrimaryVolume>;
  updateVolume(settings: VolumeSettings): void;
  /** also one that does not serve yet; null when there is none */
  primary(volumeId: VolumeId): PrimaryVolume | null;
}

/**
 * A primary that has not stopped after this is given back as not clean (ms): longer than its drain
 * may take. It acknowledges nothing by then; only a disk that hangs keeps it.
 */
const stopPatienceMs = 15_000;
/**
 * How long a handover waits until what was started is answered, which clients see as a stall (ms).
 * Requests that are held by policy may take for ever: then the volume stays where it is.
 */
const handOverDrainMs = 5_000;
/** After a handover the target has so long to become primary before another node tries (ms). */
export const handOverTargetMs = 5_000;
/** Relays of other nodes that come back so soon after an ordered detach are told to end (ms). */
const detachedMs = 10_000;
/** A connection that is served by a primary of this node. */
export interface PrimaryUser extends PublishedUser {
  /** The volume may not be used any longer: what has begun is answered, then the connection ends. */
  revoke(reason: StorError): void;
  /** The volume is about to be handed over, or rolled back: nothing begins from now on. */
  hold(reason?: string): void;
  /** It was not handed over, or the rollback is over: go on. */
  resume(): void;
  /** It was: find the new primary. */
  move(): void;
}

/** One volume that this lane is primary of, from the grant until its release. */
export interface PrimaryEntry {
  readonly grant: AttachmentGrant;
  readonly sinceMs: number;
  /** the mode may change from repair or auto when a client or an operator comes */
  mode: AttachmentGrant['mode'];
  primary: PrimaryVolume | null;
  /** how its requests share the lane with those of other volumes */
  readonly qos: QosVolume;
  readonly serving: Promise<PrimaryVolume>;
  readonly users: Set<PrimaryUser>;
  /** those of them that wait until it serves: they are told by what that comes to */
  readonly waiting: Set<PrimaryUser>;
  /** orders that are being carried out: as long as there are some it is not idle */
  orders: number;
  /** who may be served while it is published */
  readonly publications: PublicationGate;
  /** closed while it is rolled back: nobody is served */
  readonly gate: RollbackGate;
  /** while it is being given over to another node; rejects when it stays here */
  handingOver: Promise<void> | null;
  /** set from the moment on which nobody new is accepted */
  ending: Promise<void> | null;
  readonly abort: AbortController;
  cancelTimer: () => void;
}

export interface PrimariesOptions {
  host: PrimaryHost;
  control: MainMethods;
  clock: Clock;
  logger: Logger;
  autoDetachMs?: number;
  /** bytes that this node's replicas take, by volume */
  allocatedBytes: () => ReadonlyMap<VolumeId, number>;
  /** @default one of its own */
  qos?: LaneQos;
}

/** Which volumes this lane is primary of, from the grant of an attachment until its release. */
export class Primaries {
  /** volumes handed over to another node, since the lane started */
  handovers = 0;
  readonly #entries = new Map<VolumeId, PrimaryEntry>();
  /** grants asked for by name, so that ten connections at once ask for one attachment */
  readonly #acquiring = new Map<string, Promise<PrimaryEntry>>();
  readonly #endedEpochs = new EndedEpochs();
  readonly #handedOver: RecentNames;
  readonly #detached: RecentNames;
  readonly #qos: LaneQos;
  readonly #options: PrimariesOptions;
  readonly #control: MainMethods;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #closed = false;

  constructor(options: PrimariesOptions) {
    this.#options = options;
    this.#control = options.control;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#handedOver = new RecentNames(options.clock, handOverTargetMs);
    this.#detached = new RecentNames(options.clock, detachedMs);
    this.#qos = options.qos ?? new LaneQos(options.clock);
  }

  /** Size of a volume that is attached here (bytes); null for any other. */
  sizeOf(name: string): number | null {
    return this.#named(name)?.grant.sizeBytes ?? null;
  }

  /** The volume has just gone from here to another node, which may not be primary yet. */
  wasHandedOver(name: string): boolean {
    return this.#handedOver.has(name);
  }

  /** The volume was detached here by order a moment ago. */
  wasDetached(name: string): boolean {
    return this.#detached.has(name);
  }

  /** The entry that serves `name` here; null when there is none, after one that ends has ended. */
  async present(name: string): Promise<PrimaryEntry | null> {
    for (;;) {
      const entry = this.#named(name);
      if (!entry) return null;
      if (!entry.ending && !entry.handingOver) return entry;
      // whether it ended well is not asked here
      await (entry.ending ?? entry.handingOver)?.catch(() => {});
    }
  }

  /** The entry that serves `name`: the one there is, or a new one from a new grant. */
  async acquire(name: string): Promise<PrimaryEntry> {
    if (this.#closed) throw stopping();
    const present = await this.present(name);
    if (present) return present;
    const running = this.#acquiring.get(name);
    if (running) return running;
    const acquiring = this.#control.acquire(name).then((grant) => this.#entryUnder(grant));
    this.#acquiring.set(name, acquiring);
    try {
      return await acquiring;
    } finally {
      this.#acquiring.delete(name);
    }
  }

  /**
   * The primary, for one user, who is told of its end; `leave` ends that, and so does `gone` while
   * it does not serve yet. UNAVAILABLE when its end has begun, else the error with which it did not
   * become primary.
   */
  async use(entry: PrimaryEntry, user: PrimaryUser, gone: AbortSignal): Promise<PrimaryVolume> {
    entry.users.add(user);
    entry.waiting.add(user);
    entry.cancelTimer();
    // one who does not wait any more must not keep it from those on other nodes
    const onGone = (): void => {
      this.leave(entry, user);
    };
    gone.addEventListener('abort', onGone, { once: true });
    if (gone.aborted) onGone();
    try {
      const primary = await entry.serving;
      while (entry.gate.isClosed && !entry.ending) await entry.gate.opened;
      // its end may have begun while this waited, or in this turn before this could be told
      if (entry.ending) {
        throw new StorError('UNAVAILABLE', `volume ${entry.grant.name} is being detached`);
      }
      if (entry.mode === 'repair' && entry.users.has(user)) entry.mode = 'auto';
      return primary;
    } catch (error) {
      this.leave(entry, user);
      throw error;
    } finally {
      gone.removeEventListener('abort', onGone);
      entry.waiting.delete(user);
    }
  }

  leave(entry: PrimaryEntry, user: PrimaryUser): void {
    if (entry.users.delete(user)) this.#watchIdle(entry);
  }

  /**
   * Becomes primary under a grant that the control plane made (manual attach, repair), or changes
   * the mode of the one it has. STALE_EPOCH when that epoch was given back: the next primary may
   * have been told that it need not wait for its leases, so it never serves again (I6).
   */
  async attach(grant: AttachmentGrant): Promise<void> {
    if (this.#closed) throw stopping();
    const existing = this.#entries.get(grant.volumeId);
    if (existing && !existing.ending && existing.grant.epoch === grant.epoch) {
      // The same grant in another mode: an auto attachment that an operator now holds.
      existing.mode = grant.mode;
      existing.cancelTimer();
      this.#watchIdle(existing);
      await existing.serving;
      return;
    }
    if (existing && existing.grant.epoch < grant.epoch) {
      // whether its end could be told does not matter: the newer grant has replaced it
      await this.#end(existing, 'replaced by a newer grant', false).catch(() => {});
    }
    const entry = this.#begin(grant);
    await entry.serving;
    this.#watchIdle(entry);
  }

  /** See AgentPort.detach. */
  async detach(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    const entry = this.#entries.get(volumeId);
    if (!entry || entry.grant.epoch !== epoch) return 'gone';
    const isBusy = entry.users.size > 0 || entry.orders > 0 || entry.mode === 'manual';
    if (ifIdle && !entry.ending && isBusy) return 'busy';
    if (!ifIdle) this.#detached.add(entry.grant.name);
    await this.#end(entry, 'detached', true);
    return 'released';
  }

  /** The record does not name this attachment any more: another host has taken the volume over. */
  async takenAway(entry: PrimaryEntry): Promise<void> {
    await this.#end(entry, 'another host has taken it over', false, false);
  }

  /** See AgentPort.handOver. UNAVAILABLE when it stays here, since its requests are not answered. */
  async handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    const entry = this.#entries.get(volumeId);
    if (!entry || entry.grant.epoch !== epoch) return 'gone';
    if (!entry.ending) {
      if (entry.gate.isClosed) throw rollingBack(entry);
      entry.handingOver ??= this.#handOver(entry).finally(() => {
        entry.handingOver = null;
      });
    }
    await (entry.handingOver ?? entry.ending);
    return 'released';
  }

  /** See AgentPort.scrub. */
  scrub(order: ScrubOrder): ScrubProgress | null {
    const entry = this.#entries.get(order.volumeId);
    if (!entry || entry.ending || entry.grant.epoch !== order.epoch) return null;
    return entry.primary?.scrub(order) ?? null;
  }

  /** See AgentPort.orderPrimary. */
  async order(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer> {
    const entry = this.#entries.get(volumeId);
    if (!entry || entry.ending || entry.grant.epoch !== epoch) {
      throw new StorError(
        'STALE_EPOCH',
        `this node is not primary of the volume at epoch ${epoch} any more`,
      );
    }
    entry.orders += 1;
    entry.cancelTimer();
    try {
      const primary = await entry.serving;
      if (order.type !== 'rollback') {
        if (entry.gate.isClosed && !duringRollback.has(order.type)) throw rollingBack(entry);
        return await carryOut(primary, order);
      }
      await entry.gate.carryOut(primary, order, () =>
        [...entry.users].filter((user) => !entry.waiting.has(user)),
      );
      return { pausedMs: 0, intact: true, extents: [] };
    } finally {
      entry.orders -= 1;
      this.#watchIdle(entry);
    }
  }

  /** See AgentPort.updateVolume. */
  updateVolume(settings: VolumeSettings): void {
    const entry = this.#entries.get(settings.volumeId);
    if (entry?.grant.epoch !== settings.epoch) return;
    entry.gate.update(settings);
    entry.publications.update(settings, entry.users);
    entry.qos.update(settings.qos, settings.resourceVersion);
  }

  /** See LaneMethods.spreadTenant. */
  spreadTenant(name: string, lanes: number): void {
    this.#qos.spreadTenant(name, lanes);
  }

  /** Several share the lane now: clients of volumes, work of the cluster. */
  get isLaneShared(): boolean {
    return this.#qos.isShared;
  }

  /** Who waits for whom, of the volumes that are served here. */
  qosReports(): VolumeQosReport[] {
    return this.#qos.reports();
  }

  /** Of these volumes, or of all. */
  liveVolumes(volumeIds: Iterable<VolumeId> = this.#entries.keys()): LiveVolume[] {
    const entries = [...new Set(volumeIds)].flatMap((id) => this.#entries.get(id) ?? []);
    if (entries.length === 0) return [];
    const nowMs = this.#clock.monotonicMs();
    const allocated = this.#options.allocatedBytes();
    return entries.map((entry) => {
      const { volumeId } = entry.grant;
      const starting = entry.primary ? null : this.#options.host.primary(volumeId);
      const allocatedBytes = allocated.get(volumeId) ?? 0;
      return liveVolume(entry, { nowMs, starting, allocatedBytes });
    });
  }

  /** Gives everything back: connections end, primaries drain. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(
      [...this.#entries.values()].map((entry) => this.#end(entry, 'the agent stops', true)),
    );
  }

  #named(name: string): PrimaryEntry | null {
    for (const entry of this.#entries.values()) if (entry.grant.name === name) return entry;
    return null;
  }

  async #entryUnder(grant: AttachmentGrant): Promise<PrimaryEntry> {
    const { volumeId, epoch, previousReleased } = grant;
    if (this.#closed) {
      // never used, so the next primary waits exactly if this one had to
      await this.#control.release(volumeId, epoch, { clean: previousReleased });
      throw stopping();
    }
    const existing = this.#entries.get(volumeId);
    if (existing && !existing.ending && existing.grant.epoch >= epoch) return existing;
    return this.#begin(grant);
  }

  /** STALE_EPOCH when this epoch or a later one was served or given back here. */
  #begin(grant: AttachmentGrant): PrimaryEntry {
    const { volumeId, epoch, name } = grant;
    const seen = this.#entries.get(volumeId)?.grant.epoch ?? this.#endedEpochs.of(volumeId);
    if (epoch <= seen) {
      throw new StorError('STALE_EPOCH', `epoch ${epoch} of volume ${name} is over here`);
    }
    const abort = new AbortController();
    const entry: PrimaryEntry = {
      grant,
      sinceMs: this.#clock.monotonicMs(),
      mode: grant.mode,
      primary: null,
      qos: this.#qos.open(grant),
      serving: this.#options.host.attach(grant, { signal: abort.signal }),
      users: new Set(),
      waiting: new Set(),
      orders: 0,
      publications: new PublicationGate(grant.name, grant),
      gate: new RollbackGate(grant, this.#clock),
      handingOver: null,
      ending: null,
      abort,
      cancelTimer: () => {},
    };
    this.#entries.set(volumeId, entry);
    this.#handedOver.delete(name);
    this.#detached.delete(name);
    entry.serving.then(
      (primary) => {
        entry.primary = primary;
        primary.onStopped((reason) => {
          this.#endLogged(entry, reason.message, false);
        });
      },
      (error: unknown) => {
        const message = StorError.from(error).message;
        this.#logger.warn({ volume: name, epoch, error: message }, 'could not become primary');
        this.#end(entry, message, false).catch(() => {});
      },
    );
    return entry;
  }

  /** Starts the timer that gives an unused attachment back. */
  #watchIdle(entry: PrimaryEntry): void {
    entry.cancelTimer();
    if (entry.ending || entry.users.size > 0 || entry.orders > 0) return;
    if (entry.mode === 'manual') return;
    if (entry.mode === 'repair') {
      watchRepair(entry, this.#clock, (reason) => {
        this.#endLogged(entry, reason, true);
      });
      return;
    }
    const delayMs = this.#options.autoDetachMs ?? autoDetachMs;
    entry.cancelTimer = this.#clock.after(delayMs, () => {
      const isFilling = membersOf(entry).some(
        ({ state }) => state === 'syncing' || state === 'joining',
      );
      if (isFilling || entry.primary?.isScrubbing === true) {
        // elsewhere it would begin again: what is under way is finished first
        entry.mode = 'repair';
        this.#watchIdle(entry);
        return;
      }
      this.#endLogged(entry, 'no connection for a while', true);
    });
  }

  /**
   * Holds what comes, waits for what was started, and gives the attachment back as any other clean
   * end does. Users that can wait are told to find the new primary; until the release is known to
   * have succeeded they must not, for the volume might still be this node's.
   */
  async #handOver(entry: PrimaryEntry): Promise<void> {
    const { name, epoch } = entry.grant;
    const primary = await this.#inTime(entry.serving, 'the volume is not served');
    if (entry.ending) return entry.ending;
    this.#logger.info({ volume: name, epoch, connections: entry.users.size }, 'handing over');
    for (const user of [...entry.users]) user.hold();
    try {
      await this.#inTime(primary.idle(), 'requests are not answered');
    } catch (error) {
      if (!entry.ending) {
        for (const user of [...entry.users]) user.resume();
        throw error;
      }
    }
    // somebody else ended it meanwhile, who revoked the users
    if (entry.ending) return entry.ending;
    const moving = [...entry.users];
    entry.users.clear();
    this.#handedOver.add(name);
    try {
      // clients wait: the next primary has nothing to settle without a checkpoint either
      await this.#end(entry, 'handed over', true, false);
      this.handovers += 1;
    } finally {
      for (const user of moving) user.move();
    }
  }

  /** UNAVAILABLE when it takes longer. */
  #inTime<T>(work: Promise<T>, why: string): Promise<T> {
    return within(this.#clock, handOverDrainMs, work, () => {
      const text = `${why} after ${handOverDrainMs} ms: the volume stays where it is`;
      throw new StorError('UNAVAILABLE', text);
    });
  }

  #endLogged(entry: PrimaryEntry, reason: string, clean: boolean): void {
    this.#end(entry, reason, clean).catch((error: unknown) => {
      const fields = { volume: entry.grant.name, error: StorError.from(error).message };
      this.#logger.error(fields, 'detach failed');
    });
  }

  /** Ends an entry once, whoever asks: no new connection, the old ones end, the primary drains. */
  #end(entry: PrimaryEntry, reason: string, clean: boolean, checkpoint = true): Promise<void> {
    entry.ending ??= this.#endOnce(entry, reason, clean, checkpoint).finally(() => {
      entry.qos.close();
      if (this.#entries.get(entry.grant.volumeId) === entry)
        this.#entries.delete(entry.grant.volumeId);
    });
    return entry.ending;
  }

  async #endOnce(
    entry: PrimaryEntry,
    reason: string,
    clean: boolean,
    checkpoint: boolean,
  ): Promise<void> {
    const { volumeId, epoch, name } = entry.grant;
    this.#logger.info({ volume: name, epoch, reason }, 'giving the attachment back');
    entry.cancelTimer();
    entry.gate.end();
    this.#endedEpochs.note(volumeId, epoch);
    const why = new StorError('UNAVAILABLE', `volume ${name} is not served here: ${reason}`);
    for (const user of [...entry.users]) if (!entry.waiting.has(user)) user.revoke(why);
    // Before it serves, activation is broken off; a primary that serves drains what was started.
    if (!entry.primary) entry.abort.abort(new StorError('ABORTED', reason));
    const stopped = await this.#stopped(entry, checkpoint);
    await this.#control.release(volumeId, epoch, { clean: clean && stopped });
  }

  /** True when the primary served and has stopped; false when it failed or its disk hangs. */
  async #stopped(entry: PrimaryEntry, checkpoint: boolean): Promise<boolean> {
    const { name, epoch } = entry.grant;
    const stopped = entry.serving
      .then((primary) => primary.stop({ checkpoint }))
      .then(
        () => true,
        (error: unknown) => {
          const fields = { volume: name, epoch, error: StorError.from(error).message };
          this.#logger.warn(fields, 'the primary did not stop cleanly');
          return false;
        },
      );
    return within(this.#clock, stopPatienceMs, stopped, () => {
      this.#logger.error({ volume: name, epoch, stopPatienceMs }, 'the primary does not stop');
      return false;
    });
  }
}

/** Orders that do not depend on what the volume holds, or let go of it. */
const duringRollback: ReadonlySet<PrimaryOrder['type']> = new Set(['confirm', 'drop', 'release']);

function rollingBack({ grant }: PrimaryEntry): StorError {
  const text = `volume ${grant.name} cannot be used now: ${rollingBackReason}`;
  return new StorError('UNAVAILABLE', text);
}

function stopping(): StorError {
  return new StorError('UNAVAILABLE', 'the agent is stopping');
}
