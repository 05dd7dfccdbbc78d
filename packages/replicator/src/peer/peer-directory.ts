import { StorError } from '@stor/protocol';
import type { Clock, Logger, StreamSocket } from '@stor/runtime';

import type { Outbox } from './outbox.ts';
import { PeerConnection, greetPeer } from './peer-connection.ts';

export type ConnectPeer = (
  host: string,
  port: number,
  signal: AbortSignal,
) => Promise<StreamSocket>;

interface Live {
  connection: PeerConnection;
  link: number;
}

/**
 * Connections to the lanes of other nodes, shared by all volumes that this lane is primary of. There is
 * one to each, link 0. While a segment has two replicas on one node, the second is reached over link 1:
 * what goes to all members is encoded once, with one channel number, and on one connection that number
 * could mean only one of them.
 */
export class PeerDirectory {
  readonly #own: { clusterId: string; nodeId: string; agentInstance: string };
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #connect: ConnectPeer;
  readonly #outbox: Outbox;
  readonly #live = new Map<string, Live>();
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
  get(nodeId: string, host: string, port: number, link = 0): Promise<PeerConnection> {
    const key = `${addressKey(nodeId, host, port)}${link}`;
    const live = this.#live.get(key);
    if (live) return Promise.resolve(live.connection);
    const under = this.#connecting.get(key);
    if (under) return under;
    const started = this.#open({ key, nodeId, host, port, link }).finally(() => {
      this.#connecting.delete(key);
    });
    this.#connecting.set(key, started);
    return started;
  }

  tick(): void {
    for (const { connection, link } of [...this.#live.values()]) {
      connection.tick();
      // whoever gets a connection has its channel on it before the next tick
      if (link > 0 && connection.channelCount === 0 && !connection.over) {
        connection.destroy('no second replica is on that node any more');
      }
    }
  }

  /** Connections to other addresses of this node than its lanes' are of a former life of it. */
  forgetOthers(nodeId: string, lanes: readonly { host: string; port: number }[]): void {
    const known = lanes.map(({ host, port }) => addressKey(nodeId, host, port));
    for (const [key, { connection }] of [...this.#live]) {
      if (connection.nodeId !== nodeId || known.some((address) => key.startsWith(address)))
        continue;
      const now = lanes.map(({ host, port }) => `${host}:${port}`).join(', ');
      connection.destroy(`${nodeId} has moved to ${now}`);
    }
  }

  close(): void {
    this.#abort.abort();
    for (const { connection } of [...this.#live.values()]) {
      connection.destroy('this lane is closing');
    }
  }

  async #open(to: {
    key: string;
    nodeId: string;
    host: string;
    port: number;
    link: number;
  }): Promise<PeerConnection> {
    const { key, nodeId, host, port, link } = to;
    let socket: StreamSocket;
    try {
      socket = await this.#connect(host, port, this.#abort.signal);
    } catch (cause) {
      throw new StorError('UNAVAILABLE', `no connection to ${nodeId} at ${host}:${port}`, {
        cause,
      });
    }
    const greeting = await greetPeer(socket, this.#own, nodeId, this.#clock);
    if (this.#abort.signal.aborted) {
      socket.destroy();
      throw new StorError('ABORTED', 'this lane is closing');
    }
    if (socket.destroyed) throw new StorError('UNAVAILABLE', `${nodeId} closed the connection`);
    const { version } = greeting;
    const peer = { nodeId, ...greeting };
    const connection = new PeerConnection(socket, peer, this.#clock, this.#outbox, () => {
      if (this.#live.get(key)?.connection === connection) this.#live.delete(key);
      this.#logger.info({ peer: nodeId, reason: connection.over?.message }, 'peer link ended');
    });
    this.#live.set(key, { connection, link });
    this.#logger.info({ peer: nodeId, host, port, link, version }, 'peer link is up');
    connection.ping(this.#clock.monotonicMs());
    return connection;
  }
}

function addressKey(nodeId: string, host: string, port: number): string {
  return `${nodeId} ${host}:${port} `;
}
