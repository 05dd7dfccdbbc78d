import type { LiveVolume } from '@stor/control-plane';
import {
  StorError,
  autoDetachMs,
  type AttachmentGrant,
  type VolumeId,
  type VolumeSettings,
} from '@stor/protocol';
import type { PrimaryVolume } from '@stor/replicator';
import type { Clock, Logger } from '@stor/runtime';
import type { MainMethods } from '../lane/lane-protocol.ts';
import type { NbdExportLease, NbdExports } from '../nbd/nbd-exports.ts';

/** The part of the replicator that exports need. */
export interface PrimaryHost {
  attach(grant: AttachmentGrant, options: { signal: AbortSignal }): Promise<PrimaryVolume>;
  updateVolume(settings: VolumeSettings): void;
}

/** How often a repair attachment looks whether it is done, and how long it goes on in vain (ms). */
const repairLookMs = 500;
const repairPatienceMs = 20_000;
/**
 * A primary that has not stopped after this is given back as not clean (ms): longer than its drain
 * may take. It acknowledges nothing by then; only a disk that hangs keeps it.
 */
const stopPatienceMs = 15_000;
/** Volumes whose last epoch here is remembered after its end; the oldest are forgotten first. */
const maxEndedEpochs = 65_536;

interface Connection {
  revoke(): void;
}

/** One volume that this lane is primary of, from the grant until its release. */
interface Entry {
  grant: AttachmentGrant;
  sinceMs: number;
  /** the mode may change from repair or auto when a client or an operator comes */
  mode: AttachmentGrant['mode'];
  primary: PrimaryVolume | null;
  serving: Promise<PrimaryVolume>;
  connections: Set<Connection>;
  /** set from the moment on which no new connection is accepted */
  ending: Promise<void> | null;
  abort: AbortController;
  cancelTimer: () => void;
}

/**
 * Which volumes this lane is primary of, and who uses them: a first connection attaches by itself
 * (`auto`), the last one's end starts the time after which the attachment is given back.
 */
export class VolumeExports implements NbdExports {
  readonly #entries = new Map<VolumeId, Entry>();
  /** opens under way by name, so that ten connections at once ask for one attachment */
  readonly #acquiring = new Map<string, Promise<Entry>>();
  /** highest epoch given back, per volume: nothing may be served under it again (I6) */
  readonly #endedEpochs = new Map<VolumeId, number>();
  readonly #host: PrimaryHost;
  readonly #control: MainMethods;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #autoDetachMs: number;
  readonly #allocatedBytesOf: (volumeId: VolumeId) => number;
  #closed = false;

  constructor(options: {
    host: PrimaryHost;
    control: MainMethods;
    clock: Clock;
    logger: Logger;
    autoDetachMs?: number;
    /** bytes that this node's replica of the volume takes; 0 when it has none */
    allocatedBytesOf: (volumeId: VolumeId) => number;
  }) {
    this.#allocatedBytesOf = options.allocatedBytesOf;
    this.#host = options.host;
    this.#control = options.control;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#autoDetachMs = options.autoDetachMs ?? autoDetachMs;
  }

  list(): Promise<string[]> {
    return this.#control.volumeNames(maxListedExports);
  }

  async info(name: string): Promise<{ name: string; sizeBytes: number }> {
    const { sizeBytes } = await this.#control.volumeInfo(name);
    return { name, sizeBytes };
  }

  async open(name: string, connection: { id: number; remote: string }): Promise<NbdExportLease> {
    const entry = await this.#entryFor(name);
    const listeners: (() => void)[] = [];
    // its end may have begun in this turn, before this connection could be told
    let revoked = entry.ending !== null;
    const held: Connection = {
      revoke: () => {
        revoked = true;
        for (const listener of listeners) listener();
      },
    };
    entry.connections.add(held);
    entry.cancelTimer();
    let primary: PrimaryVolume;
    try {
      primary = await entry.serving;
      if (revoked) throw new StorError('UNAVAILABLE', `volume ${name} is being detached`);
    } catch (error) {
      this.#drop(entry, held);
      throw error;
    }
    if (entry.mode === 'repair') entry.mode = 'auto';
    this.#logger.info({ volume: name, remote: connection.remote }, 'client connected');
    let released = false;
    return {
      device: primary,
      name: entry.grant.name,
      volumeId: entry.grant.volumeId,
      release: () => {
        if (released) return;
        released = true;
        this.#drop(entry, held);
      },
      onRevoked: (listener) => {
        if (revoked) listener();
        else listeners.push(listener);
      },
    };
  }

  /**
   * Becomes primary under a grant that the control plane made (manual attach, repair), or changes
   * the mode of the one it has. STALE_EPOCH when that epoch was given back: the next primary may
   * have been told that it need not wait for its leases, so it never serves again (I6).
   */
  async attach(grant: AttachmentGrant): Promise<void> {
    if (this.#closed) throw new StorError('UNAVAILABLE', 'the agent is stopping');
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
    if (ifIdle && !entry.ending && (entry.connections.size > 0 || entry.mode === 'manual'))
      return 'busy';
    await this.#end(entry, 'detached', true);
    return 'released';
  }

  /** See AgentPort.updateVolume. */
  updateVolume(settings: VolumeSettings): void {
    this.#host.updateVolume(settings);
  }

  /** See AgentPort.handOver. */
  async handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    const entry = this.#entries.get(volumeId);
    if (!entry || entry.grant.epoch !== epoch) return 'gone';
    await this.#end(entry, 'handed over', true);
    return 'released';
  }

  liveVolumes(): LiveVolume[] {
    const nowMs = this.#clock.monotonicMs();
    return [...this.#entries.values()].map((entry) => {
      const status = entry.primary?.status();
      const segments = status?.segments ?? [];
      return {
        volumeId: entry.grant.volumeId,
        epoch: entry.grant.epoch,
        state: status?.state ?? 'activating',
        reason: status?.reason ?? '',
        stateAgeMs: status?.stateAgeMs ?? nowMs - entry.sinceMs,
        connections: entry.connections.size,
        allocatedBytes: this.#allocatedBytesOf(entry.grant.volumeId),
        settleBytesRemaining: segments.reduce((sum, each) => sum + each.settleBytesRemaining, 0),
        replicas: segments.flatMap((segment) =>
          segment.members.map(({ replicaId, state, bytesRemaining, resync }) => ({
            replicaId,
            state,
            bytesRemaining,
            ...(resync ? { resync } : {}),
          })),
        ),
      };
    });
  }

  /** Gives everything back: connections end, primaries drain. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(
      [...this.#entries.values()].map((entry) => this.#end(entry, 'the agent stops', true)),
    );
  }

  /** The entry that serves `name`: the one there is, or a new one from a new grant. */
  async #entryFor(name: string): Promise<Entry> {
    if (this.#closed) throw new StorError('UNAVAILABLE', 'the agent is stopping');
    for (const entry of this.#entries.values()) {
      if (entry.grant.name !== name) continue;
      if (!entry.ending) return entry;
      await entry.ending;
    }
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

  async #entryUnder(grant: AttachmentGrant): Promise<Entry> {
    const { volumeId, epoch, previousReleased } = grant;
    if (this.#closed) {
      // never used, so the next primary waits exactly if this one had to
      await this.#control.release(volumeId, epoch, { clean: previousReleased });
      throw new StorError('UNAVAILABLE', 'the agent is stopping');
    }
    const existing = this.#entries.get(volumeId);
    if (existing && !existing.ending && existing.grant.epoch >= epoch) return existing;
    return this.#begin(grant);
  }

  /** STALE_EPOCH when this epoch or a later one was served or given back here. */
  #begin(grant: AttachmentGrant): Entry {
    const { volumeId, epoch } = grant;
    const seen = this.#entries.get(volumeId)?.grant.epoch ?? this.#endedEpochs.get(volumeId) ?? 0;
    if (epoch <= seen) {
      throw new StorError('STALE_EPOCH', `epoch ${epoch} of volume ${grant.name} is over here`);
    }
    const abort = new AbortController();
    const entry: Entry = {
      grant,
      sinceMs: this.#clock.monotonicMs(),
      mode: grant.mode,
      primary: null,
      serving: this.#host.attach(grant, { signal: abort.signal }),
      connections: new Set(),
      ending: null,
      abort,
      cancelTimer: () => {},
    };
    this.#entries.set(grant.volumeId, entry);
    entry.serving.then(
      (primary) => {
        entry.primary = primary;
        primary.onStopped((reason) => {
          this.#end(entry, reason.message, false).catch((error: unknown) => {
            this.#logger.error(
              { volume: grant.name, error: StorError.from(error).message },
              'ending failed',
            );
          });
        });
      },
      (error: unknown) => {
        const message = StorError.from(error).message;
        this.#logger.warn(
          { volume: grant.name, epoch: grant.epoch, error: message },
          'could not become primary',
        );
        this.#end(entry, message, false).catch(() => {});
      },
    );
    return entry;
  }

  #drop(entry: Entry, held: Connection): void {
    entry.connections.delete(held);
    this.#watchIdle(entry);
  }

  /** Starts the timer that gives an unused attachment back. */
  #watchIdle(entry: Entry): void {
    entry.cancelTimer();
    if (entry.ending || entry.connections.size > 0 || entry.mode === 'manual') return;
    if (entry.mode === 'repair') {
      this.#watchRepair(entry, { sinceMs: this.#clock.monotonicMs(), remaining: Infinity });
      return;
    }
    entry.cancelTimer = this.#clock.after(this.#autoDetachMs, () => {
      this.#endLogged(entry, 'no connection for a while');
    });
  }

  /** A repair attachment ends when every replica is in sync, or nothing has moved for a while. */
  #watchRepair(entry: Entry, last: { sinceMs: number; remaining: number }): void {
    entry.cancelTimer = this.#clock.after(repairLookMs, () => {
      if (entry.ending || entry.mode !== 'repair' || entry.connections.size > 0) return;
      const members = entry.primary?.status().segments.flatMap((segment) => segment.members) ?? [];
      const behind = members.filter((member) => member.state !== 'in-sync');
      const remaining = behind.reduce((sum, member) => sum + member.bytesRemaining, behind.length);
      const nowMs = this.#clock.monotonicMs();
      if (entry.primary && behind.length === 0) this.#endLogged(entry, 'repaired');
      else if (remaining === last.remaining && nowMs - last.sinceMs > repairPatienceMs) {
        this.#endLogged(entry, 'repair makes no progress');
      } else {
        this.#watchRepair(
          entry,
          remaining === last.remaining ? last : { sinceMs: nowMs, remaining },
        );
      }
    });
  }

  #endLogged(entry: Entry, reason: string): void {
    this.#end(entry, reason, true).catch((error: unknown) => {
      this.#logger.error(
        { volume: entry.grant.name, error: StorError.from(error).message },
        'detach failed',
      );
    });
  }

  /** Ends an entry once, whoever asks: no new connection, the old ones end, the primary drains. */
  #end(entry: Entry, reason: string, clean: boolean): Promise<void> {
    entry.ending ??= this.#endOnce(entry, reason, clean).finally(() => {
      if (this.#entries.get(entry.grant.volumeId) === entry)
        this.#entries.delete(entry.grant.volumeId);
    });
    return entry.ending;
  }

  async #endOnce(entry: Entry, reason: string, clean: boolean): Promise<void> {
    const { volumeId, epoch, name } = entry.grant;
    this.#logger.info({ volume: name, epoch, reason }, 'giving the attachment back');
    entry.cancelTimer();
    this.#noteEnded(volumeId, epoch);
    for (const connection of [...entry.connections]) connection.revoke();
    // Before it serves, activation is broken off; a primary that serves drains what was started.
    if (!entry.primary) entry.abort.abort(new StorError('ABORTED', reason));
    const stopped = await this.#stopped(entry);
    await this.#control.release(volumeId, epoch, { clean: clean && stopped });
  }

  /** True when the primary served and has stopped; false when it failed or its disk hangs. */
  async #stopped(entry: Entry): Promise<boolean> {
    const { name, epoch } = entry.grant;
    const stopped = entry.serving
      .then((primary) => primary.stop())
      .then(
        () => true,
        (error: unknown) => {
          const { message } = StorError.from(error);
          this.#logger.warn(
            { volume: name, epoch, error: message },
            'the primary did not stop cleanly',
          );
          return false;
        },
      );
    let cancel = (): void => {};
    const tooLate = new Promise<boolean>((resolve) => {
      cancel = this.#clock.after(stopPatienceMs, () => {
        this.#logger.error({ volume: name, epoch, stopPatienceMs }, 'the primary does not stop');
        resolve(false);
      });
    });
    try {
      return await Promise.race([stopped, tooLate]);
    } finally {
      cancel();
    }
  }

  #noteEnded(volumeId: VolumeId, epoch: number): void {
    const ended = this.#endedEpochs;
    const highest = Math.max(epoch, ended.get(volumeId) ?? 0);
    ended.delete(volumeId);
    ended.set(volumeId, highest);
    if (ended.size <= maxEndedEpochs) return;
    for (const oldest of ended.keys()) {
      ended.delete(oldest);
      break;
    }
  }
}

/** NBD LIST names at most this many exports: the reply is one option exchange of bounded size. */
const maxListedExports = 4_096;
