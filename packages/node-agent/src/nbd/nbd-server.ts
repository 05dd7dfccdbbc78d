import { StorError } from '@stor/protocol';
import {
  defaultReceive,
  systemNetwork,
  type Clock,
  type Listener,
  type Logger,
  type Network,
  type SocketTarget,
  type StreamSocket,
} from '@stor/runtime';
import { defaultNbdLimits, type NbdLimits } from '../core/nbd/nbd-limits.ts';
import { PayloadMemory } from '../core/nbd/payload-memory.ts';
import { BusyPoll } from './busy-poll.ts';
import { NbdConnection, type ConnectionTls } from './nbd-connection.ts';
import type { NbdExports } from './nbd-exports.ts';
import { NbdStats } from './nbd-stats.ts';
import { ReadBufferPool } from './read-buffer-pool.ts';
import { OutputBufferPool } from './reply-output.ts';

/** First size of a connection's receive buffer; it grows for large writes (bytes). */
const receiveBytes = 512 * 1024;
/** Taken by the kernel from answers over a UNIX socket: one of 1 MiB leaves in one call (bytes). */
const sendBytes = 2 * 1024 * 1024;

/** Room for a path in the kernel's `sockaddr_un`; what is beyond is cut off without an error (bytes). */
const maxSocketPathBytes = 107;

export type NbdListenTarget = SocketTarget;

export interface NbdServerOptions {
  targets: readonly NbdListenTarget[];
  exports: NbdExports;
  clock: Clock;
  logger: Logger;
  /** what is left out has its default */
  limits?: Partial<NbdLimits>;
  stats?: NbdStats;
  /** on TCP; on UNIX sockets TLS is offered and never demanded. Absent: none */
  tls?: ConnectionTls;
  /** @default the host's */
  network?: Network;
  /**
   * how long the calling thread has waited for a core so far (ms), null when nobody knows: with it the server may
   * use up a core to wait for a client that sends one request after another
   */
  queuedMs?: () => number | null;
}

/** Serves block devices over NBD, on any number of TCP ports and UNIX sockets. */
export class NbdServer {
  readonly stats: NbdStats;
  /** in the order of the targets */
  readonly listeners: readonly Listener[];
  readonly #shared: Omit<NbdServerOptions, 'targets' | 'limits' | 'stats' | 'network' | 'queuedMs'>;
  readonly #limits: NbdLimits;
  readonly #readBuffers: ReadBufferPool;
  readonly #outputBuffers = new OutputBufferPool();
  readonly #memory: PayloadMemory;
  readonly #busyPoll: BusyPoll | null;
  /** with the address or UNIX socket that each came from */
  readonly #connections = new Map<NbdConnection, string>();
  readonly #perPeer = new Map<string, number>();
  #cancelLook: (() => void) | null = null;
  #nextId = 1;
  #closing: Promise<void> | null = null;

  private constructor(options: NbdServerOptions, listeners: readonly Listener[]) {
    this.#shared = options;
    this.#limits = { ...defaultNbdLimits, ...options.limits };
    this.#readBuffers = new ReadBufferPool(this.#limits.pooledBytes);
    this.#memory = new PayloadMemory(this.#limits.memoryBytes, (wake) => {
      options.clock.endOfTurn(wake);
    });
    this.stats = options.stats ?? new NbdStats();
    const { stats } = this;
    const { clock, queuedMs } = options;
    this.#busyPoll = queuedMs ? new BusyPoll({ clock, queuedMs, stats }) : null;
    this.listeners = listeners;
  }

  /**
   * Rejects with the system's error, for example EADDRINUSE, or INVALID_ARGUMENT for too long a path,
   * and listens nowhere then. The socket file of a process that is gone is replaced.
   */
  static async listen(options: NbdServerOptions): Promise<NbdServer> {
    const listeners: Listener[] = [];
    const network = options.network ?? systemNetwork;
    const server = new NbdServer(options, listeners);
    try {
      for (const target of options.targets) {
        listeners.push(
          await listenReplacing(network, target, server.#limits.stalledMs, (socket) =>
            server.#accept(socket),
          ),
        );
      }
    } catch (error) {
      await server.close();
      throw error;
    }
    return server;
  }

  /** TCP port of the first target that has one; 0 without. */
  get port(): number {
    return this.listeners.find((listener) => listener.port !== 0)?.port ?? 0;
  }

  /** Payload of all connections that is held at the moment (bytes). */
  get heldBytes(): number {
    return this.#memory.usedBytes;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /**
   * Stops accepting, answers what has been started, and closes. A connection that has not finished
   * after `closeDrainMs` is cut; its lease is still released only when the device is done with it,
   * which this does not wait for. Works twice.
   */
  close(): Promise<void> {
    this.#closing ??= this.#closeOnce();
    return this.#closing;
  }

  async #closeOnce(): Promise<void> {
    this.#cancelLook?.();
    this.#busyPoll?.close();
    const connections = [...this.#connections.keys()];
    for (const connection of connections) connection.shutDown();
    const { clock } = this.#shared;
    let cancel: () => void = () => {};
    const tooLong = new Promise<void>((resolve) => {
      cancel = clock.after(this.#limits.closeDrainMs, resolve);
    });
    await Promise.race([Promise.all(connections.map(({ over }) => over)), tooLong]);
    cancel();
    if (this.#connections.size > 0) {
      const fields = { connections: this.#connections.size };
      this.#shared.logger.warn(fields, 'NBD requests still unanswered; connections are cut');
    }
    // destroys what is still open
    await Promise.all(this.listeners.map((listener) => listener.close()));
  }

  #accept(socket: StreamSocket): void {
    if (this.#closing) {
      socket.destroy();
      return;
    }
    const peer = peerOf(socket.remote);
    const isFull = this.#connections.size >= this.#limits.connections;
    const isPeerFull = (this.#perPeer.get(peer) ?? 0) >= this.#limits.connectionsPerPeer;
    if ((isFull || isPeerFull) && !this.#makeRoom(isPeerFull ? peer : null)) {
      const reason = isFull ? 'connections' : 'connections-per-peer';
      this.stats.countRefused(reason);
      const fields = { remote: socket.remote, reason };
      this.#shared.logger.warn(fields, 'too many NBD connections; one refused');
      socket.destroy();
      return;
    }
    const connection = new NbdConnection({
      id: this.#nextId++,
      socket,
      exports: this.#shared.exports,
      clock: this.#shared.clock,
      logger: this.#shared.logger,
      limits: this.#limits,
      stats: this.stats,
      readBuffers: this.#readBuffers,
      outputBuffers: this.#outputBuffers,
      memory: this.#memory,
      busyPoll: this.#busyPoll,
      tls: this.#tlsFor(socket),
    });
    this.#connections.set(connection, peer);
    this.#perPeer.set(peer, (this.#perPeer.get(peer) ?? 0) + 1);
    this.#look();
    void connection.over.then(() => {
      this.#forget(connection);
    });
  }

  /**
   * Half-open clients keep no other one out: of them (all, or those of one peer) the one that has taken
   * most time leaves. False when none has been waited for long.
   */
  #makeRoom(peer: string | null): boolean {
    const nowMs = this.#shared.clock.monotonicMs();
    let slowest: NbdConnection | null = null;
    let longestMs = this.#limits.halfOpenMs;
    for (const [connection, from] of this.#connections) {
      const halfOpenMs = peer === null || from === peer ? connection.halfOpenMs(nowMs) : 0;
      if (halfOpenMs < longestMs) continue;
      slowest = connection;
      longestMs = halfOpenMs;
    }
    if (!slowest) return false;
    slowest.displace();
    this.#forget(slowest);
    return true;
  }

  #forget(connection: NbdConnection): void {
    const peer = this.#connections.get(connection);
    if (peer === undefined) return;
    this.#connections.delete(connection);
    const left = (this.#perPeer.get(peer) ?? 1) - 1;
    if (left > 0) this.#perPeer.set(peer, left);
    else this.#perPeer.delete(peer);
  }

  /** The permissions of its file guard a UNIX socket, and nothing of it leaves the host. */
  #tlsFor({ remote }: StreamSocket): ConnectionTls | null {
    const { tls } = this.#shared;
    if (!tls || tls.mode === 'off') return null;
    if (tls.mode === 'allowed' || !remote.startsWith(unixPrefix)) return tls;
    return { mode: 'allowed', server: () => tls.server() };
  }

  /** Now and then, as long as there are connections: finds those whose clients hang, or ask nothing. */
  #look(): void {
    if (this.#cancelLook || this.#closing) return;
    const { clock } = this.#shared;
    this.#cancelLook = clock.after(this.#limits.stalledMs / looksPerStall, () => {
      this.#cancelLook = null;
      const nowMs = clock.monotonicMs();
      for (const connection of this.#connections.keys()) {
        connection.check(nowMs);
        connection.restIfQuiet();
      }
      if (this.#connections.size > 0) this.#look();
    });
  }
}

/** A client that takes no replies is found this part of the limit later, at most. */
const looksPerStall = 8;
/** What `remote` of a connection over a UNIX socket begins with. */
const unixPrefix = 'unix:';

/** Without the port; all over one UNIX socket are one. */
function peerOf(remote: string): string {
  const colon = remote.lastIndexOf(':');
  return remote.startsWith(unixPrefix) || colon < 0 ? remote : remote.slice(0, colon);
}

async function listenReplacing(
  network: Network,
  target: NbdListenTarget,
  vanishedMs: number,
  onConnection: (socket: StreamSocket) => void,
): Promise<Listener> {
  if ('path' in target && Buffer.byteLength(target.path) > maxSocketPathBytes) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `the path of UNIX socket ${target.path} is too long: use one of at most ${maxSocketPathBytes} bytes`,
    );
  }
  const options = { ...defaultReceive, receiveBytes, vanishedMs, sendBytes };
  try {
    return await network.listen(target, onConnection, options);
  } catch (error) {
    const isUsed = (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
    if (!isUsed || !('path' in target) || (await isServed(network, target.path))) throw error;
    await network.removeSocketFile(target.path);
    return network.listen(target, onConnection, options);
  }
}

/** Only a refused connection proves that no process listens there any more. */
async function isServed(network: Network, path: string): Promise<boolean> {
  try {
    (await network.connect({ path })).destroy();
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ECONNREFUSED';
  }
}
