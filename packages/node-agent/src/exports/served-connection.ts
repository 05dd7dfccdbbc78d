import { StorError, type PublicationId, type VolumeId } from '@stor/protocol';
import {
  dirtyWithin,
  type DirtyDone,
  type DirtyExtent,
  type PrimaryVolume,
} from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import type { ClientIdentity } from 'nbd-client-js';
import { snapshotOfContext } from '../core/nbd/meta-contexts.ts';
import type { NbdExportLease, NbdPeer } from '../nbd/nbd-exports.ts';
import type { IdentifiedConnection } from './client-registry.ts';
import { handOverTargetMs, type PrimaryEntry, type PrimaryUser } from './primaries.ts';
import type { QosDevice } from '../qos/qos-device.ts';
import type { RelayDevice } from './relay-device.ts';
import { SwitchingDevice } from './switching-device.ts';

/** How long a connection that has lost its primary waits for another before it is closed (ms). */
const findPatienceMs = 60_000;
/** The same for one that is not served yet: its client can try another node (ms). */
const openPatienceMs = 15_000;
/** Pause between two looks for the primary (ms): it adds to the stall of a handover. */
const lookMs = 50;

type Address = { host: string; port: number };

export interface ServedConnectionOptions {
  /** of the volume, without a prefix */
  name: string;
  /** the right of its host to use the volume as a device; null: it names none */
  publication: PublicationId | null;
  /** it came from another node's relay: served by a primary of this node, never relayed on */
  isDirect: boolean;
  peer: NbdPeer;
  /** ids of the snapshots that changes may be asked since, by name */
  snapshots: ReadonlyMap<string, string>;
  /** what relays of this connection say who they are; a number is added for each */
  relayIdentity: ClientIdentity;
  clock: Clock;
  /**
   * Finds a device for the connection and gives it to `serveFrom` or `relayTo`. False: there is none
   * yet, ask again.
   */
  place: (connection: ServedConnection) => Promise<boolean>;
  leaveEntry: (entry: PrimaryEntry, connection: ServedConnection) => void;
}

/**
 * One client's connection and where it is served: by this node's primary, or through a relay by
 * another's. When that changes its requests are held meanwhile; the client sees a pause.
 */
export class ServedConnection implements PrimaryUser, IdentifiedConnection {
  readonly name: string;
  readonly publication: PublicationId | null;
  readonly isDirect: boolean;
  readonly released: Promise<void>;
  /** once it is known */
  volumeId: VolumeId | null = null;
  /** it may be served by another node: the volume is shared, or was handed over */
  mayRelay = false;
  /** a node whose relay ended in order knows best what became of the volume: asked once */
  askFirst: Address | null = null;
  readonly #options: ServedConnectionOptions;
  readonly #stop = new AbortController();
  readonly #listeners: (() => void)[] = [];
  #device: SwitchingDevice | null = null;
  #entry: PrimaryEntry | null = null;
  #primary: PrimaryVolume | null = null;
  /** the primary, as this connection shares it with others */
  #shared: QosDevice | null = null;
  /** its host may only read */
  #readOnly = false;
  #relay: RelayDevice | null = null;
  #relays = 0;
  #held = false;
  #routing = false;
  #targetUntilMs = -Infinity;
  #over: StorError | null = null;
  #resolveReleased: () => void = () => {};

  constructor(options: ServedConnectionOptions) {
    this.#options = options;
    this.name = options.name;
    this.publication = options.publication;
    this.isDirect = options.isDirect;
    this.released = new Promise((resolve) => {
      this.#resolveReleased = resolve;
    });
    const { left } = options.peer;
    const onLeft = (): void => {
      this.#left();
    };
    left.addEventListener('abort', onLeft, { once: true });
    if (left.aborted) onLeft();
    void this.released.then(() => {
      left.removeEventListener('abort', onLeft);
    });
  }

  /** Aborts when nothing more is wanted. */
  get stopped(): AbortSignal {
    return this.#stop.signal;
  }

  get isRelayed(): boolean {
    return this.#relay !== null;
  }

  get wasServed(): boolean {
    return this.#device !== null;
  }

  /** It is, or is about to be, served elsewhere. */
  get isAway(): boolean {
    return this.mayRelay && this.#entry === null && !this.#over;
  }

  /** A handover's target may not be primary yet: nobody else should become it. */
  get waitsForTarget(): boolean {
    return this.#options.clock.monotonicMs() < this.#targetUntilMs;
  }

  /** that its client asked for, and that there were when it came */
  get snapshotNames(): string[] {
    const { peer, snapshots } = this.#options;
    const names = peer.contexts.map((context) => snapshotOfContext(context) ?? '');
    return names.filter((name) => snapshots.has(name));
  }

  waitForTarget(): void {
    this.#targetUntilMs = this.#options.clock.monotonicMs() + handOverTargetMs;
  }

  /** Who the next relay says it is: newer than each one before. */
  nextRelayIdentity(): ClientIdentity {
    const { id, sequence } = this.#options.relayIdentity;
    this.#relays += 1;
    return { id, sequence: [...sequence, this.#relays] };
  }

  /** Resolves when it is served for the first time, with what the NBD server needs. */
  async open(): Promise<NbdExportLease> {
    await this.#route(openPatienceMs, true);
    const device = this.#device;
    if (!device || this.#over) throw this.#over ?? new Error('served without a device');
    return {
      device,
      readOnly: this.#readOnly,
      changedSince: (snapshot, offset, length, limit, done) => {
        device.ask<DirtyExtent>((_device, answer) => {
          this.#changedSince(snapshot, offset, length, limit, answer);
        }, done);
      },
      name: this.name,
      volumeId: this.volumeId ?? '',
      isRelay: this.isDirect,
      release: () => {
        this.release();
      },
      onRevoked: (listener) => {
        if (this.#over) listener();
        else this.#listeners.push(listener);
      },
    };
  }

  /** Asked of whoever serves it now. */
  #changedSince(
    snapshot: string,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void {
    if (this.#relay) {
      this.#relay.changedSince(snapshot, offset, length, limit, done);
      return;
    }
    const id = this.#options.snapshots.get(snapshot);
    if (id === undefined) {
      done(new StorError('NOT_FOUND', `volume ${this.name} has no snapshot ${snapshot}`), []);
      return;
    }
    if (!this.#primary) {
      done(new StorError('UNAVAILABLE', `volume ${this.name} is being moved`), []);
      return;
    }
    this.#primary.changedExtents(id, null).then(
      (changed) => {
        done(null, dirtyWithin(changed, offset, length, limit));
      },
      (error: unknown) => {
        done(StorError.from(error), []);
      },
    );
  }

  /** The place where it is being served from now on, before that is known to succeed. */
  enter(entry: PrimaryEntry): void {
    this.#entry = entry;
    this.volumeId = entry.grant.volumeId;
  }

  /** @param shared leads to the primary: requests may wait in it before they are started */
  serveFrom(primary: PrimaryVolume, shared: QosDevice, readOnly: boolean): void {
    this.#readOnly = readOnly;
    this.#primary = primary;
    this.#shared = shared;
    // it was found: when it is lost in its turn, nobody else is about to serve
    this.#targetUntilMs = -Infinity;
    const device = this.#deviceOf(primary.sizeBytes);
    if (!this.#held) device.start(shared);
  }

  relayTo(relay: RelayDevice, address: Address): void {
    if (this.#over) {
      void relay.close();
      throw this.#over;
    }
    this.#relay = relay;
    this.#readOnly = relay.isReadOnly;
    this.#targetUntilMs = -Infinity;
    const device = this.#deviceOf(relay.sizeBytes);
    relay.onLost((end, unanswered) => {
      this.#relay = null;
      device.hold();
      device.putBack(unanswered);
      if (this.#over) {
        device.fail(this.#over);
        return;
      }
      this.askFirst = end === 'closed' ? address : null;
      this.#reroute();
    });
    device.start(relay);
  }

  // what its primary tells it

  revoke(reason: StorError): void {
    if (this.#over) return;
    this.#over = reason;
    this.#stop.abort();
    // what was started is answered by the device it was given to; what waits never begins
    if (this.#held || (!this.#primary && !this.#relay)) this.#device?.fail(reason);
    for (const waiting of this.#shared?.takeBack() ?? []) waiting.done(reason);
    for (const listener of this.#listeners) listener();
  }

  hold(reason = 'it is handed over to another node'): void {
    if (this.isDirect) {
      // the node that relays keeps the requests, and comes back
      this.revoke(
        new StorError('ABORTED', `volume ${this.name} is not served here now: ${reason}`),
      );
      return;
    }
    this.#held = true;
    this.#device?.hold();
    this.#device?.putBack(this.#shared?.takeBack() ?? []);
  }

  resume(): void {
    this.#held = false;
    if (this.#shared && !this.#over) this.#device?.start(this.#shared);
  }

  move(): void {
    this.#held = false;
    this.#entry = null;
    this.#primary = null;
    this.#shared = null;
    this.mayRelay = !this.isDirect;
    this.waitForTarget();
    this.#reroute();
  }

  /** Nothing of it is in a device any more, or it was never served. */
  release(): void {
    this.#over ??= new StorError('ABORTED', 'the connection is over');
    this.#stop.abort();
    void this.#relay?.close();
    if (this.#entry) this.#options.leaveEntry(this.#entry, this);
    this.#entry = null;
    this.#resolveReleased();
  }

  /** The client has gone: nothing of it may begin any more, here or elsewhere. */
  #left(): void {
    this.#over ??= new StorError('ABORTED', 'the client has gone');
    this.#stop.abort();
    // with a primary of this node nothing waits here, unless it is held, or for its turn
    this.#device?.fail(this.#over);
    for (const waiting of this.#shared?.takeBack() ?? []) waiting.done(this.#over);
    void this.#relay?.close();
  }

  #deviceOf(sizeBytes: number): SwitchingDevice {
    this.#device ??= new SwitchingDevice(sizeBytes);
    if (this.#device.sizeBytes !== sizeBytes) {
      throw new StorError('FAILED_PRECONDITION', `volume ${this.name} has another size now`);
    }
    return this.#device;
  }

  #reroute(): void {
    if (this.#routing || this.#over) return;
    this.#route(findPatienceMs, false).catch((error: unknown) => {
      this.revoke(notServed(StorError.from(error)));
    });
  }

  async #route(patienceMs: number, isFirst: boolean): Promise<void> {
    const { clock, place } = this.#options;
    const deadlineMs = clock.monotonicMs() + patienceMs;
    let last: unknown = new StorError('UNAVAILABLE', `volume ${this.name} is served by no node`);
    this.#routing = true;
    try {
      while (!this.#over && clock.monotonicMs() < deadlineMs) {
        try {
          // what was found may have been lost before this turn
          if ((await place(this)) && (this.#primary ?? this.#relay)) return;
        } catch (error) {
          if (isFirst || isFinal(StorError.from(error))) throw error;
          last = error;
        }
        await this.#pause();
      }
      throw this.#over ?? last;
    } finally {
      this.#routing = false;
    }
  }

  #pause(): Promise<void> {
    const { signal } = this.#stop;
    return new Promise((resolve) => {
      const end = (): void => {
        cancel();
        signal.removeEventListener('abort', end);
        resolve();
      };
      const cancel = this.#options.clock.after(lookMs, end);
      signal.addEventListener('abort', end, { once: true });
      if (signal.aborted) end();
    });
  }
}

/**
 * What its requests end with: nothing is wrong with them, whatever this node was refused. So its client
 * goes to another node, and hears of no error.
 */
function notServed(error: StorError): StorError {
  if (isFinal(error)) return error;
  const { message, details } = error;
  return new StorError('UNAVAILABLE', message, { cause: error, details });
}

/** No other try can go better: the volume is gone, or this connection must not be served. */
function isFinal(error: StorError): boolean {
  return error.code === 'NOT_FOUND' || error.code === 'FAILED_PRECONDITION';
}
