import {
  systemNetwork,
  type ConnectOptions,
  type Network,
  type SocketTarget,
  type StreamSocket,
} from '@stor/runtime';

/**
 * Connections whose bytes arrive late, and that can be cut so that only this side knows: what was
 * written before goes on arriving at the other side for a while, as from a host that has been cut
 * off, or out of a buffer that nobody had read.
 */
export class LaggingNetwork implements Network {
  readonly listen = systemNetwork.listen;
  readonly removeSocketFile = systemNetwork.removeSocketFile;
  readonly #open = new Set<LaggingSocket>();
  readonly #chance: () => number;
  readonly #change: (bytes: Buffer) => Buffer;
  /** how long a write may take to arrive (ms) */
  lagMs = 2;
  /** the same on a connection that was cut (ms): what is left arrives long after */
  cutLagMs = 60;
  cuts = 0;

  constructor(chance: () => number, change: (bytes: Buffer) => Buffer = (bytes) => bytes) {
    this.#chance = chance;
    this.#change = change;
  }

  readonly connect = async (
    target: SocketTarget,
    options?: ConnectOptions,
  ): Promise<StreamSocket> => {
    const socket = await systemNetwork.connect(target, options);
    const lagging = new LaggingSocket(socket, this, this.#chance, this.#change);
    this.#open.add(lagging);
    return lagging;
  };

  /** Cuts one connection, for this side only. */
  cutOne(): void {
    const open = [...this.#open];
    const socket = open[Math.floor(this.#chance() * open.length)];
    if (!socket) return;
    this.cuts += 1;
    socket.cut(new Error('cut by the test'));
  }

  ended(socket: LaggingSocket): void {
    this.#open.delete(socket);
  }
}

class LaggingSocket implements StreamSocket {
  onData: StreamSocket['onData'] = (_bytes, start, end) => end - start;
  onClose: StreamSocket['onClose'] = () => {};
  onDrain: StreamSocket['onDrain'] = () => {};
  readonly #socket: StreamSocket;
  readonly #network: LaggingNetwork;
  readonly #chance: () => number;
  readonly #change: (bytes: Buffer) => Buffer;
  readonly #queue: (() => void)[] = [];
  #waiting = false;
  #closed = false;

  constructor(
    socket: StreamSocket,
    network: LaggingNetwork,
    chance: () => number,
    change: (bytes: Buffer) => Buffer,
  ) {
    this.#socket = socket;
    this.#network = network;
    this.#chance = chance;
    this.#change = change;
    socket.onData = (bytes, start, end) =>
      this.#closed ? end - start : this.onData(bytes, start, end);
    socket.onClose = (error) => {
      this.#close(error);
    };
  }

  get remote(): string {
    return this.#socket.remote;
  }
  get pendingBytes(): number {
    return 0;
  }
  get destroyed(): boolean {
    return this.#closed;
  }

  write(bytes: Uint8Array): void {
    if (this.#closed) return;
    const copy = this.#change(Buffer.from(bytes));
    this.#later(() => this.#socket.write(copy));
  }
  cork(): void {}
  uncork(): void {}
  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
  }
  startTls(): Promise<never> {
    return Promise.reject(new Error('no TLS over a lagging connection'));
  }
  end(): void {
    this.#later(() => this.#socket.end());
  }
  destroy(): void {
    this.cut(null);
  }

  cut(error: Error | null): void {
    if (this.#closed) return;
    this.#later(() => this.#socket.destroy());
    this.#close(error);
  }

  #close(error: Error | null): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#network.ended(this);
    setImmediate(() => this.onClose(error));
  }

  /** In order, each some time after the one before. */
  #later(run: () => void): void {
    this.#queue.push(run);
    if (this.#waiting) return;
    this.#waiting = true;
    const lagMs = (): number =>
      this.#chance() * (this.#closed ? this.#network.cutLagMs : this.#network.lagMs);
    const next = (): void => {
      const first = this.#queue.shift();
      this.#waiting = first !== undefined;
      if (!first) return;
      first();
      setTimeout(next, lagMs());
    };
    setTimeout(next, lagMs());
  }
}
