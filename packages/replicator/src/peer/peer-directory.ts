import { StorError } from '@stor/protocol';
import type { Clock, Logger, StreamSocket } from '@stor/runtime';

import type { Outbox } from './outbox.ts';
import { PeerConnection, greetPeer } from './peer-connection.ts';

export type ConnectPeer = (
  host: string,
  port: number,
  signal: AbortSignal,
) => Promise<StreamSocket>;

/** One connection per lane of another node, shared by all volumes that this lane is primary of. */
export class PeerDirectory {
  readonly #own: { clusterId: string; nodeId: string; agentInstance: string };
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #connect: ConnectPeer;
  readonly #outbox: Outbox;
  readonly #live = new Map<string, PeerConnection>();
  readonly #connecting = new Map<string, Promise<PeerConnection>>();
  readonly #abort = new AbortController();

  constructor(options: {
    own: { clusterId: string; nodeId: string; agentInstance: string };
    clock: Clock;
    logger: Logger;
    connect: ConnectPeer;
    outbox: Outbox;
  }) {
    this.#own = options.own;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#connect = options.connect;
    this.#outbox = options.outbox;
  }

  /** The live connection to that address, or a new one. UNAVAILABLE, PROTOCOL, FOREIGN_DATA. */
  get(nodeId: string, host: string, port: number): Promise<PeerConnection> {
    const key = `${nodeId} ${host}:${port}`;
    const live = this.#live.get(key);
    if (live) return Promise.resolve(live);
    const under = this.#connecting.get(key);
    if (under) return under;
    const started = this.#open(key, nodeId, host, port).finally(() => {
      this.#connecting.delete(key);
    });
    this.#connecting.set(key, started);
    return started;
  }

  tick(): void {
    for (const connection of [...this.#live.values()]) connection.tick();
  }

  /** Connections to another address of this node are of a former life of it. */
  forgetOthers(nodeId: string, host: string, port: number): void {
    for (const [key, connection] of [...this.#live]) {
      if (connection.nodeId === nodeId && key !== `${nodeId} ${host}:${port}`) {
        connection.destroy(`${nodeId} has moved to ${host}:${port}`);
      }
    }
  }

  close(): void {
    this.#abort.abort();
    for (const connection of [...this.#live.values()]) connection.destroy('this lane is closing');
  }

  async #open(key: string, nodeId: string, host: string, port: number): Promise<PeerConnection> {
    let socket: StreamSocket;
    try {
      socket = await this.#connect(host, port, this.#abort.signal);
    } catch (cause) {
      throw new StorError('UNAVAILABLE', `no connection to ${nodeId} at ${host}:${port}`, {
        cause,
      });
    }
    await greetPeer(socket, this.#own, nodeId, this.#clock);
    if (this.#abort.signal.aborted) {
      socket.destroy();
      throw new StorError('ABORTED', 'this lane is closing');
    }
    if (socket.destroyed) throw new StorError('UNAVAILABLE', `${nodeId} closed the connection`);
    const connection = new PeerConnection(socket, nodeId, this.#clock, this.#outbox, () => {
      if (this.#live.get(key) === connection) this.#live.delete(key);
      this.#logger.info({ peer: nodeId, reason: connection.over?.message }, 'peer link ended');
    });
    this.#live.set(key, connection);
    this.#logger.info({ peer: nodeId, host, port }, 'peer link is up');
    connection.ping(this.#clock.monotonicMs());
    return connection;
  }
}
