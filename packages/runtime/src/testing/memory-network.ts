import type { Clock } from '../clock.ts';
import { BufferPool } from '../buffer-pool.ts';
import { ReceiveBuffer, type ReceiveOptions } from '../receive-buffer.ts';
import type { SharedBytes } from '../shared-bytes.ts';
import {
  defaultReceive,
  type ConnectOptions,
  type Listener,
  type Network,
  type SocketTarget,
  type StreamSocket,
} from '../sockets.ts';
import { agreeInMemory, type TlsClient, type TlsServer, type TlsSession } from '../tls.ts';

/** What a socket has in the network above this makes its writer wait for `onDrain` (bytes). */
const highWaterBytes = 64 * 1024;

function nameOf(target: SocketTarget): string {
  return 'path' in target ? target.path : `${target.host}:${target.port}`;
}

function networkError(code: string, target: string): Error {
  return Object.assign(new Error(`${code}: ${target}`), { code });
}

interface OpenListener {
  host: MemoryHost;
  accept: (socket: StreamSocket) => void;
  options: ReceiveOptions;
}

/** What is given back is overwritten: who uses memory for too long is found out. */
export class PoisonedPool extends BufferPool {
  override give(buffer: Buffer): void {
    buffer.fill(0xdd);
    super.give(buffer);
  }
}

export interface MemoryNetworkOptions {
  clock: Clock;
  /** of everything that is sent (ms) @default 0.1 */
  latencyMs?: number;
}

/**
 * Sockets between processes in one thread, on one clock. A process is a `host`; it can be killed
 * (its connections break) and cut off from another, in one direction, without a word.
 */
export class MemoryNetwork {
  readonly clock: Clock;
  readonly latencyMs: number;
  readonly listeners = new Map<string, OpenListener>();
  readonly memory = new PoisonedPool(64 * 1024 * 1024);
  readonly #blocked = new Set<string>();
  readonly #sockets = new Set<MemorySocket>();
  #nextPort = 50_000;

  constructor(options: MemoryNetworkOptions) {
    this.clock = options.clock;
    this.latencyMs = options.latencyMs ?? 0.1;
  }

  /** The sockets of one process. A process that starts again takes a new one. */
  host(name: string): MemoryHost {
    return new MemoryHost(this, name);
  }

  /** Nothing that `from` sends reaches `to` until `heal`; what was sent waits. */
  block(from: string, to: string): void {
    this.#blocked.add(`${from}>${to}`);
  }

  heal(): void {
    this.#blocked.clear();
    for (const socket of [...this.#sockets]) socket.kick();
  }

  isBlocked(from: MemoryHost, to: MemoryHost): boolean {
    return this.#blocked.has(`${from.name}>${to.name}`);
  }

  freePort(): number {
    return this.#nextPort++;
  }

  add(socket: MemorySocket): void {
    this.#sockets.add(socket);
  }

  remove(socket: MemorySocket): void {
    this.#sockets.delete(socket);
  }

  /** Breaks the connections of a process and stops its listeners. */
  kill(host: MemoryHost): void {
    for (const [name, listener] of [...this.listeners]) {
      if (listener.host === host) this.listeners.delete(name);
    }
    for (const socket of [...this.#sockets]) if (socket.owner === host) socket.vanish();
  }
}

export class MemoryHost implements Network {
  readonly name: string;
  readonly #network: MemoryNetwork;
  isDead = false;

  constructor(network: MemoryNetwork, name: string) {
    this.#network = network;
    this.name = name;
  }

  /** The process is gone: others hear of it, it hears of nothing. */
  kill(): void {
    this.isDead = true;
    this.#network.kill(this);
  }

  listen(
    target: SocketTarget,
    onConnection: (socket: StreamSocket) => void,
    options: ReceiveOptions = defaultReceive,
  ): Promise<Listener> {
    const port = 'path' in target ? 0 : target.port || this.#network.freePort();
    const name = 'path' in target ? target.path : `${target.host}:${port}`;
    const { listeners } = this.#network;
    if (listeners.has(name)) return Promise.reject(networkError('EADDRINUSE', name));
    const open = new Set<StreamSocket>();
    const accept = (socket: StreamSocket): void => {
      open.add(socket);
      onConnection(socket);
    };
    const own = { host: this, accept, options };
    listeners.set(name, own);
    return Promise.resolve({
      address: name,
      port,
      close: () => {
        if (listeners.get(name) === own) listeners.delete(name);
        for (const socket of open) socket.destroy();
        return Promise.resolve();
      },
    });
  }

  connect(target: SocketTarget, options: ConnectOptions = defaultReceive): Promise<StreamSocket> {
    const network = this.#network;
    const name = nameOf(target);
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        for (const cancel of cancels) cancel();
        options.signal?.removeEventListener('abort', onAbort);
      };
      const fail = (error: Error): void => {
        finish();
        reject(error);
      };
      const onAbort = (): void => {
        fail(new DOMException('connect aborted', 'AbortError'));
      };
      const arrive = (): void => {
        if (this.isDead) return;
        const listener = network.listeners.get(name);
        if (!listener) {
          fail(networkError('ECONNREFUSED', name));
          return;
        }
        // as long as a packet cannot pass, in either direction, nobody hears anything
        if (network.isBlocked(this, listener.host) || network.isBlocked(listener.host, this))
          return;
        finish();
        const near = new MemorySocket(network, this, options, name);
        const far = new MemorySocket(network, listener.host, listener.options, this.name);
        near.join(far);
        listener.accept(far);
        resolve(near);
      };
      const cancels = [network.clock.after(network.latencyMs, arrive)];
      const { connectTimeoutMs } = options;
      if (connectTimeoutMs !== undefined) {
        const timeout = (): void => {
          fail(new Error(`no connection to ${name} within ${connectTimeoutMs} ms`));
        };
        cancels.push(network.clock.after(connectTimeoutMs, timeout));
      }
      options.signal?.addEventListener('abort', onAbort, { once: true });
      if (options.signal?.aborted) onAbort();
    });
  }

  removeSocketFile(): Promise<void> {
    return Promise.resolve();
  }
}

interface TlsStart {
  options: TlsServer | TlsClient;
  resolve: (session: TlsSession) => void;
  reject: (error: Error) => void;
}

class MemorySocket implements StreamSocket {
  readonly remote: string;
  readonly owner: MemoryHost;
  destroyed = false;
  pendingBytes = 0;
  onClose: StreamSocket['onClose'] = () => {};
  onDrain: StreamSocket['onDrain'] = () => {};
  /** null until the owner has the socket in hand; what arrives, and the end, wait for that */
  #onData: StreamSocket['onData'] | null = null;
  readonly #network: MemoryNetwork;
  readonly #receive: ReceiveBuffer;
  #peer: MemorySocket | null = null;
  #queue: { bytes: Uint8Array; written: (() => void) | undefined; isTls: boolean }[] = [];
  #arrived: Buffer[] = [];
  /** its own start of TLS, once it has begun */
  #tls: TlsStart | null = null;
  /** what was sent in the clear is none of TLS's from here on */
  #isTls = false;
  #isScheduled = false;
  #isPaused = false;
  #isFull = false;
  #isEnding = false;
  #inHandler = false;
  /** the other side has ended, and a partition has kept the news */
  #isOrphan = false;
  /** the end of the connection, which the owner has not heard of yet */
  #untold: { error: Error | null } | null = null;

  constructor(network: MemoryNetwork, owner: MemoryHost, options: ReceiveOptions, remote: string) {
    this.#network = network;
    this.owner = owner;
    this.remote = remote;
    this.#receive = new ReceiveBuffer({ pool: network.memory, ...options });
    network.add(this);
  }

  join(peer: MemorySocket): void {
    this.#peer = peer;
    peer.#peer = this;
  }

  get onData(): StreamSocket['onData'] {
    return this.#onData ?? ((_bytes, start, end) => end - start);
  }
  set onData(handler: StreamSocket['onData']) {
    const isFirst = this.#onData === null;
    this.#onData = handler;
    if (isFirst) {
      this.#network.clock.after(0, () => {
        this.#take();
        this.#tellClosed();
      });
    }
  }

  write(bytes: Uint8Array, written?: () => void): void {
    if (this.destroyed || this.#isEnding) return;
    this.pendingBytes += bytes.length;
    if (this.pendingBytes > highWaterBytes) this.#isFull = true;
    this.#queue.push({ bytes, written, isTls: this.#isTls });
    this.kick();
  }

  /** Without cryptography: both sides' options are compared when both have come to it. */
  startTls(options: TlsServer | TlsClient): Promise<TlsSession> {
    if (this.destroyed) return Promise.reject(new Error('the connection is closed'));
    if (this.#receive.keptBytes > 0 || this.pendingBytes > 0) {
      const error = new Error('bytes in the clear are left over at the start of TLS');
      this.destroy(error);
      return Promise.reject(error);
    }
    return new Promise((resolve, reject) => {
      this.#isTls = true;
      this.#tls = { options, resolve, reject };
      // what has arrived by now was in the clear; nothing that is in the clear may follow it
      if (this.#arrived.length > 0) this.destroy(new Error('bytes in the clear instead of TLS'));
      else this.#network.clock.after(this.#network.latencyMs, () => this.#agree());
    });
  }

  #agree(): void {
    const peer = this.#peer;
    if (this.destroyed || !peer) return;
    const [mine, theirs] = [this.#tls, peer.#tls];
    if (!mine || !theirs) return;
    if (this.#network.isBlocked(this.owner, peer.owner)) return;
    this.#tls = null;
    peer.#tls = null;
    try {
      const sides = [mine.options, theirs.options];
      const server = sides.find((side) => side.side === 'server');
      const client = sides.find((side) => side.side === 'client');
      if (!server || !client) throw new Error('TLS needs a server and a client');
      const session = agreeInMemory(server, client);
      mine.resolve(session);
      theirs.resolve(session);
    } catch (error) {
      mine.reject(error as Error);
      theirs.reject(error as Error);
      this.destroy(error as Error);
    }
  }

  expect(bytes: number): void {
    this.#receive.expect(bytes);
  }

  keep(bytes: number): SharedBytes | null {
    return this.#receive.keep(bytes);
  }

  cork(): void {}
  uncork(): void {}

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    if (this.#inHandler || this.destroyed) return;
    this.#inHandler = true;
    try {
      this.#receive.offerKept(this.onData);
    } finally {
      this.#inHandler = false;
    }
    this.#take();
  }

  end(): void {
    this.#isEnding = true;
    this.kick();
  }

  destroy(error?: Error): void {
    if (this.destroyed) return;
    this.#closed(error ?? null, true);
  }

  /** The owner is dead: only the other side hears of it. */
  vanish(): void {
    this.onClose = () => {};
    this.onData = (_bytes, start, end) => end - start;
    this.onDrain = () => {};
    this.destroy();
  }

  /** Sends what waits, unless it cannot pass; hears of an end that could not pass before. */
  kick(): void {
    if (this.#isScheduled || this.destroyed) return;
    if (this.#isOrphan) {
      this.#closed(null, false);
      return;
    }
    if (this.#tls) this.#agree();
    if (this.#queue.length === 0 && !this.#isEnding) return;
    this.#isScheduled = true;
    this.#network.clock.after(this.#network.latencyMs, () => {
      this.#isScheduled = false;
      this.#send();
    });
  }

  #send(): void {
    const peer = this.#peer;
    if (this.destroyed || !peer || this.#network.isBlocked(this.owner, peer.owner)) return;
    for (const { bytes, written, isTls } of this.#queue.splice(0)) {
      this.pendingBytes -= bytes.length;
      if (isTls !== peer.#isTls) {
        peer.destroy(new Error('bytes in the clear instead of TLS'));
        break;
      }
      peer.#arrived.push(Buffer.from(bytes));
      written?.();
    }
    peer.#take();
    if (this.destroyed) return;
    if (this.#isFull && this.pendingBytes === 0) {
      this.#isFull = false;
      this.onDrain();
    }
    if (this.#queue.length > 0) this.kick();
    else if (this.#isEnding) this.destroy();
  }

  #take(): void {
    if (this.#inHandler || !this.#onData) return;
    this.#inHandler = true;
    try {
      while (!this.destroyed && !this.#isPaused) {
        const chunk = this.#arrived.shift();
        if (!chunk) break;
        this.#fill(chunk);
      }
    } finally {
      this.#inHandler = false;
    }
  }

  #fill(chunk: Buffer): void {
    for (let at = 0; at < chunk.length && !this.destroyed;) {
      const room = this.#receive.room();
      if (!room) {
        this.destroy(new Error('message exceeds the receive limit'));
        return;
      }
      const length = Math.min(room.length, chunk.length - at);
      chunk.copy(room, 0, at, at + length);
      at += length;
      this.#receive.filled(length, this.onData);
    }
  }

  /** Tells the owner in a later event, as a real socket does, and the other side after the latency. */
  #closed(error: Error | null, tellPeer: boolean): void {
    this.destroyed = true;
    this.#tls?.reject(error ?? new Error('the connection was closed during the TLS handshake'));
    this.#tls = null;
    this.#queue = [];
    this.#arrived = [];
    this.#network.remove(this);
    this.#untold = { error };
    this.#network.clock.after(0, () => {
      this.#tellClosed();
    });
    const peer = this.#peer;
    if (tellPeer && peer) this.#tell(peer);
  }

  #tellClosed(): void {
    const untold = this.#untold;
    if (!untold || !this.#onData) return;
    this.#untold = null;
    this.onClose(untold.error);
  }

  #tell(peer: MemorySocket): void {
    this.#network.clock.after(this.#network.latencyMs, () => {
      if (peer.destroyed) return;
      if (this.#network.isBlocked(this.owner, peer.owner)) peer.#isOrphan = true;
      else peer.#closed(null, false);
    });
  }
}
