import { StorError } from '@stor/protocol';
import type { DirtyExtent } from '@stor/replicator';
import type { Clock, Network, SocketTarget } from '@stor/runtime';
import type { ClientIdentity, NbdTlsOptions } from 'nbd-client-js';
import { snapshotOfContext } from '../core/nbd/meta-contexts.ts';
import type { NbdExportLease, NbdPeer } from '../nbd/nbd-exports.ts';
import { RelayDevice, type RelayStats } from './relay-device.ts';
import { SwitchingDevice } from './switching-device.ts';

export interface LaneCrossingOptions {
  /** NBD of the volume's lane */
  address: SocketTarget;
  /** as that lane knows it: it looks for the volume on no other lane */
  exportName: string;
  /** name of the volume, without prefixes */
  name: string;
  peer: NbdPeer;
  /** who the client is, or a name for this connection alone */
  identity: ClientIdentity;
  network: Network;
  clock: Clock;
  stats: RelayStats;
  tls: NbdTlsOptions | null;
  /** Called once, when the connection is over. */
  ended: () => void;
}

/**
 * A connection that came to another lane than its volume's: everything goes on to that lane, over a
 * socket within the host, and that lane decides all. When it ends the connection this one ends too, as
 * the client's own would have there; nothing is sent twice.
 */
export class LaneCrossing {
  readonly #options: LaneCrossingOptions;
  readonly #stop = new AbortController();
  readonly #listeners: (() => void)[] = [];
  #device: SwitchingDevice | null = null;
  #relay: RelayDevice | null = null;
  #over: StorError | null = null;

  constructor(options: LaneCrossingOptions) {
    this.#options = options;
    const { left } = options.peer;
    left.addEventListener('abort', this.#left, { once: true });
    if (left.aborted) this.#left();
  }

  /** The same errors as the other lane's. */
  async open(): Promise<NbdExportLease> {
    const { address, exportName, identity, peer, network, clock, stats, tls, name } = this.#options;
    const asked = peer.contexts.flatMap((context) => snapshotOfContext(context) ?? []);
    const relay = await RelayDevice.connect({
      ...{ address, exportName, identity, network, clock, stats, tls },
      snapshots: asked,
      // the other lane lives as long as this one: a stall of its disk is no reason to ask elsewhere
      isWatched: false,
      signal: this.#stop.signal,
    });
    this.#relay = relay;
    const device = new SwitchingDevice(relay.sizeBytes);
    this.#device = device;
    relay.onLost((_end, unanswered) => {
      device.hold();
      device.putBack(unanswered);
      this.revoke(new StorError('UNAVAILABLE', `volume ${name} is not served here any more`));
    });
    if (this.#over) {
      await relay.close();
      throw this.#over;
    }
    device.start(relay);
    return {
      device,
      readOnly: relay.isReadOnly,
      changedSince: (snapshot, offset, length, limit, done) => {
        device.ask<DirtyExtent>((_device, answer) => {
          relay.changedSince(snapshot, offset, length, limit, answer);
        }, done);
      },
      name,
      volumeId: '',
      // the other lane counts its requests
      isRelay: true,
      release: () => {
        this.release();
      },
      onRevoked: (listener) => {
        if (this.#over) listener();
        else this.#listeners.push(listener);
      },
    };
  }

  /** What was not answered gets the error, then the connection ends. */
  revoke(reason: StorError): void {
    if (this.#over) return;
    this.#end(reason);
    for (const listener of this.#listeners) listener();
  }

  release(): void {
    this.#end(new StorError('ABORTED', 'the connection is over'));
    this.#options.peer.left.removeEventListener('abort', this.#left);
    this.#options.ended();
  }

  readonly #left = (): void => {
    this.#end(new StorError('ABORTED', 'the client has gone'));
  };

  #end(reason: StorError): void {
    this.#over ??= reason;
    this.#stop.abort();
    void this.#relay?.close();
    this.#device?.fail(this.#over);
  }
}
