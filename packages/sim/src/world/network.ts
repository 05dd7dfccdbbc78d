import type {
  ConnectOptions,
  Listener,
  Network,
  Random,
  SocketTarget,
  StreamSocket,
} from '@stor/runtime';

import type { ProcessClock } from './process-clock.ts';
import type { SimScheduler } from './scheduler.ts';
import { SimSocket } from './sim-socket.ts';

interface Listening {
  host: string;
  clock: ProcessClock;
  accept: (socket: StreamSocket) => void;
}

/** How long a host takes to answer a connection to nobody, and to be heard of a closed one (ms). */
const defaultLatency = { minMs: 0.05, spreadMs: 0.6 };

/**
 * Hosts with links between them: delays, partitions of one direction, lost connections and stalls,
 * all from one seed. What is sent on a blocked link waits, as TCP sends again until it gives up.
 */
export class SimNetwork {
  readonly scheduler: SimScheduler;
  readonly random: Random;
  readonly #listeners = new Map<string, Listening>();
  readonly #sockets = new Set<SimSocket>();
  readonly #blocked = new Map<string, number>();
  /** extra delay of one direction of a link (ms) */
  readonly #slow = new Map<string, number>();
  readonly #down = new Set<string>();
  /** listeners that no new connection reaches */
  readonly #deaf = new Map<string, number>();
  /** hears of every piece that arrives */
  onPiece: (from: string, to: string, bytes: Uint8Array) => void = () => {};

  constructor(scheduler: SimScheduler, random: Random) {
    this.scheduler = scheduler;
    this.random = random;
  }

  latencyMs(from: string, to: string): number {
    const extra = this.#slow.size === 0 ? 0 : (this.#slow.get(`${from}>${to}`) ?? 0);
    return defaultLatency.minMs + this.random.next() * (defaultLatency.spreadMs + extra);
  }

  /** The network as one process of a host sees it. */
  of(host: string, clock: ProcessClock): Network {
    return {
      listen: (target, onConnection) => this.#listen(host, clock, target, onConnection),
      connect: (target, options) => this.#connect(host, clock, target, options),
      removeSocketFile: () => Promise.resolve(),
    };
  }

  /** `port`: of the listener that the connection was made to. */
  isBlocked(from: string, to: string, port = 0): boolean {
    if (this.#blocked.size === 0) return false;
    const key = `${from}>${to}`;
    return this.#blocked.has(key) || this.#blocked.has(`${key}:${port}`);
  }

  /**
   * Nothing that `from` sends reaches `to` until as many `unblock`s. `to` may name one listener:
   * `host:port`; then answers of that listener are blocked by `from` of `host` and `to` of
   * `host:port` alike.
   */
  block(from: string, to: string): void {
    const key = `${from}>${to}`;
    this.#blocked.set(key, (this.#blocked.get(key) ?? 0) + 1);
  }

  unblock(from: string, to: string): void {
    const key = `${from}>${to}`;
    const times = (this.#blocked.get(key) ?? 0) - 1;
    if (times > 0) this.#blocked.set(key, times);
    else this.#blocked.delete(key);
    this.#kick();
  }

  /** Up to so much more delay in one direction; 0 ends it (ms). */
  slowDown(from: string, to: string, extraMs: number): void {
    if (extraMs > 0) this.#slow.set(`${from}>${to}`, extraMs);
    else this.#slow.delete(`${from}>${to}`);
  }

  /**
   * As a firewall that lets nobody in: connections made to `host:port` break, and no new one comes
   * about. What the host connects to itself goes on.
   */
  deafen(host: string, port: number): void {
    const key = `${host}:${port}`;
    this.#deaf.set(key, (this.#deaf.get(key) ?? 0) + 1);
    for (const socket of [...this.#sockets]) {
      const isMeant = socket.isAccepted && socket.from === host && socket.port === port;
      if (isMeant) socket.reset(new Error('ECONNRESET'));
    }
  }

  undeafen(host: string, port: number): void {
    const key = `${host}:${port}`;
    const times = (this.#deaf.get(key) ?? 0) - 1;
    if (times > 0) this.#deaf.set(key, times);
    else this.#deaf.delete(key);
  }

  heal(): void {
    this.#blocked.clear();
    this.#deaf.clear();
    this.#slow.clear();
    this.#kick();
  }

  /** Breaks all connections between two hosts. */
  cut(a: string, b: string): number {
    const cut = [...this.#sockets].filter((s) => s.from === a && s.to === b);
    for (const socket of cut) socket.reset(new Error('ECONNRESET'));
    return cut.length;
  }

  /** A process is gone: its kernel closes what it had open. */
  processEnded(clock: ProcessClock): void {
    this.#forget(clock);
    for (const socket of [...this.#sockets]) {
      if (socket.clock === clock) socket.reset(new Error('ECONNRESET'));
    }
  }

  /** A host lost power: nobody is told; who sends to it hears of it when it is up again. */
  hostWentDown(host: string, clock: ProcessClock): void {
    this.#forget(clock);
    this.#down.add(host);
    for (const socket of [...this.#sockets]) {
      if (socket.clock !== clock) continue;
      this.#sockets.delete(socket);
      socket.vanish();
    }
  }

  hostCameUp(host: string): void {
    this.#down.delete(host);
    this.#kick();
  }

  isDown(host: string): boolean {
    return this.#down.has(host);
  }

  // for its sockets

  ended(socket: SimSocket): void {
    this.#sockets.delete(socket);
  }

  #kick(): void {
    for (const socket of [...this.#sockets]) socket.kick();
  }

  #forget(clock: ProcessClock): void {
    for (const [key, listening] of [...this.#listeners]) {
      if (listening.clock === clock) this.#listeners.delete(key);
    }
  }

  #listen(
    host: string,
    clock: ProcessClock,
    target: SocketTarget,
    accept: (socket: StreamSocket) => void,
  ): Promise<Listener> {
    const key = 'path' in target ? `${host}:${target.path}` : `${target.host}:${target.port}`;
    if (this.#listeners.has(key)) {
      const error = Object.assign(new Error(`listen EADDRINUSE ${key}`), { code: 'EADDRINUSE' });
      return Promise.reject(error);
    }
    this.#listeners.set(key, { host, clock, accept });
    const port = 'path' in target ? 0 : target.port;
    const close = (): Promise<void> => {
      if (this.#listeners.get(key)?.clock === clock) this.#listeners.delete(key);
      return Promise.resolve();
    };
    return Promise.resolve({ address: key, port, close });
  }

  #connect(
    host: string,
    clock: ProcessClock,
    target: SocketTarget,
    options: ConnectOptions | undefined,
  ): Promise<StreamSocket> {
    const key = 'path' in target ? `${host}:${target.path}` : `${target.host}:${target.port}`;
    const to = 'path' in target ? host : target.host;
    return new Promise((resolve, reject) => {
      let over = false;
      const settle = (then: () => void): void => {
        if (over) return;
        over = true;
        cancelTimeout();
        options?.signal?.removeEventListener('abort', onAbort);
        then();
      };
      const fail = (code: string): void => {
        settle(() => reject(Object.assign(new Error(`connect ${code} ${key}`), { code })));
      };
      const onAbort = (): void => {
        settle(() => reject(new DOMException('connect aborted', 'AbortError')));
      };
      const cancelTimeout = clock.after(options?.connectTimeoutMs ?? connectTimeoutMs, () =>
        fail('ETIMEDOUT'),
      );
      options?.signal?.addEventListener('abort', onAbort, { once: true });
      if (options?.signal?.aborted) onAbort();
      const arrive = (): void => {
        if (over || clock.dead) return;
        const port = 'path' in target ? 0 : target.port;
        const isDeaf = this.#deaf.has(`${to}:${port}`);
        const isCut = isDeaf || this.isBlocked(host, to, port) || this.isBlocked(to, host, port);
        if (this.#down.has(to) || isCut) {
          // the kernel sends it again and again
          this.scheduler.at(synRetryMs, arrive);
          return;
        }
        const listening = this.#listeners.get(key);
        if (!listening || listening.clock.dead) {
          clock.run(() => fail('ECONNREFUSED'));
          return;
        }
        clock.run(() => {
          settle(() => resolve(this.#pair(host, to, clock, listening, port)));
        });
      };
      this.scheduler.at(this.latencyMs(host, to) * 2, arrive);
    });
  }

  #pair(
    from: string,
    to: string,
    clock: ProcessClock,
    listening: Listening,
    port: number,
  ): SimSocket {
    const near = new SimSocket(this, from, to, clock, true);
    const far = new SimSocket(this, to, from, listening.clock, false);
    near.port = port;
    far.port = port;
    near.peer = far;
    far.peer = near;
    this.#sockets.add(near);
    this.#sockets.add(far);
    // the listener's kernel accepts; a stopped process sees it when it goes on
    this.scheduler.at(this.latencyMs(from, to), () => {
      listening.clock.run(() => {
        listening.accept(far);
        far.taken();
      });
    });
    return near;
  }
}

/** All that `a` sends to `b` over connections to that port of either of them, and what `b` sends. */
export function linksOf(a: string, b: string, port: number): [string, string][] {
  return [
    [a, `${b}:${port}`],
    [b, `${a}:${port}`],
  ];
}

/** A connection that nobody answers is given up after this, if the caller has no shorter one (ms). */
const connectTimeoutMs = 20_000;
/** Between two tries of a kernel to connect (ms). */
const synRetryMs = 1_000;
