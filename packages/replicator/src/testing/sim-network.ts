import { SharedBytes, type Random, type StreamSocket } from '@stor/runtime';

import type { ProcessClock, SimScheduler } from './sim-clock.ts';

interface Chunk {
  bytes: Uint8Array;
  written: (() => void) | null;
}

/**
 * One end of a connection. Bytes are copied when they arrive, not when they are written, and the
 * receiver's buffer is overwritten after each call, or when who kept it releases it: who uses memory
 * for too long, or too early again, is found out.
 */
export class SimSocket implements StreamSocket {
  readonly remote: string;
  destroyed = false;
  pendingBytes = 0;
  onData: StreamSocket['onData'] = (_bytes, start, end) => end - start;
  onClose: StreamSocket['onClose'] = () => {};
  onDrain: StreamSocket['onDrain'] = () => {};
  peer: SimSocket | null = null;
  readonly from: string;
  readonly to: string;
  readonly clock: ProcessClock;
  readonly #network: SimNetwork;
  #queue: Chunk[] = [];
  #received: Buffer = Buffer.alloc(0);
  #arrived: Buffer[] = [];
  #paused = false;
  #scheduled = false;
  #ending = false;
  #closeTold = false;
  /** what the handler has in hand */
  #offered: SharedBytes | null = null;
  #keepCalls = 0;

  constructor(network: SimNetwork, from: string, to: string, clock: ProcessClock) {
    this.#network = network;
    this.from = from;
    this.to = to;
    this.remote = to;
    this.clock = clock;
  }

  write(bytes: Uint8Array, written?: () => void): void {
    if (this.destroyed) return;
    this.pendingBytes += bytes.length;
    this.#queue.push({ bytes, written: written ?? null });
    this.#schedule();
  }
  /** Every other time, so that both ways of using what was received are tried. */
  keep(): SharedBytes | null {
    this.#keepCalls += 1;
    if (!this.#offered || this.#keepCalls % 2 === 0) return null;
    return this.#offered.hold();
  }
  cork(): void {}
  uncork(): void {}
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
    this.#network.scheduler.at(0, () => {
      this.deliver();
    });
  }
  end(): void {
    this.#ending = true;
    this.#schedule();
  }

  /** The simulated network has no TLS: what is asked for it here is refused. */
  startTls(): Promise<never> {
    return Promise.reject(new Error('the simulated network has no TLS'));
  }

  destroy(error?: Error): void {
    if (this.destroyed) return;
    this.#network.breakPair(this, error ?? null);
  }

  /** Goes on sending, after a partition is over. */
  kick(): void {
    if (this.#queue.length > 0 || this.#ending) this.#schedule();
  }

  close(error: Error | null): void {
    if (this.#closeTold) return;
    this.#closeTold = true;
    this.destroyed = true;
    this.#queue = [];
    this.clock.run(() => {
      this.onClose(error);
    });
  }

  deliver(): void {
    if (this.destroyed || this.#paused) return;
    this.clock.run(() => {
      this.#takeArrived();
    });
  }

  #schedule(): void {
    if (this.#scheduled || this.destroyed) return;
    if (this.#network.isBlocked(this.from, this.to)) return;
    this.#scheduled = true;
    this.#network.scheduler.at(this.#network.latencyMs(), () => {
      this.#scheduled = false;
      this.#send();
    });
  }

  /** What has been written arrives: often all of it, sometimes only a part. */
  #send(): void {
    if (this.destroyed || this.#network.isBlocked(this.from, this.to)) return;
    const { peer } = this;
    const count = this.#network.random.next() < 0.8 ? this.#queue.length : 1;
    for (const chunk of this.#queue.splice(0, count)) {
      this.#network.sentBytes += chunk.bytes.length;
      peer?.arrived(Buffer.from(chunk.bytes));
      this.pendingBytes -= chunk.bytes.length;
      const { written } = chunk;
      if (written) this.clock.run(written);
    }
    peer?.deliver();
    if (this.#queue.length > 0) this.#schedule();
    else if (this.#ending) this.destroy();
    else if (this.pendingBytes === 0) this.clock.run(this.onDrain);
  }

  arrived(bytes: Buffer): void {
    this.#arrived.push(bytes);
  }

  #takeArrived(): void {
    if (this.destroyed || this.#paused || this.#arrived.length === 0) return;
    const all = Buffer.concat([this.#received, ...this.#arrived]);
    this.#arrived = [];
    let end = all.length;
    if (this.#network.random.next() < 0.3) {
      end =
        this.#received.length +
        Math.ceil((end - this.#received.length) * this.#network.random.next());
    }
    const offered = new SharedBytes(all, poison);
    this.#offered = offered;
    const used = this.onData(all, 0, end);
    this.#offered = null;
    const rest = Buffer.from(all.subarray(used, end));
    const later = Buffer.from(all.subarray(end));
    offered.release();
    if (this.destroyed) return;
    this.#received = rest;
    if (later.length > 0) {
      this.#arrived.unshift(later);
      this.#network.scheduler.at(0, () => {
        this.deliver();
      });
    }
  }
}

function poison(bytes: Buffer): void {
  bytes.fill(0xdd);
}

/** Connections between nodes with delays, cuts and one-way partitions, all from one seed. */
export class SimNetwork {
  readonly scheduler: SimScheduler;
  readonly random: Random;
  readonly #listeners = new Map<
    string,
    { nodeId: string; clock: ProcessClock; accept: (socket: SimSocket) => void }
  >();
  readonly #sockets = new Set<SimSocket>();
  readonly #blocked = new Set<string>();
  maxLatencyMs = 2;
  /** everything that left a socket, headers and pings included */
  sentBytes = 0;

  constructor(scheduler: SimScheduler, random: Random) {
    this.scheduler = scheduler;
    this.random = random;
  }

  latencyMs(): number {
    return 0.05 + this.random.next() * this.maxLatencyMs;
  }

  listen(
    nodeId: string,
    host: string,
    port: number,
    clock: ProcessClock,
    accept: (socket: SimSocket) => void,
  ): void {
    this.#listeners.set(`${host}:${port}`, { nodeId, clock, accept });
  }

  connect(from: string, clock: ProcessClock, host: string, port: number): Promise<SimSocket> {
    return new Promise((resolve, reject) => {
      this.scheduler.at(this.latencyMs(), () => {
        const listener = this.#listeners.get(`${host}:${port}`);
        const blocked =
          !listener ||
          listener.clock.dead ||
          this.isBlocked(from, listener.nodeId) ||
          this.isBlocked(listener.nodeId, from);
        if (blocked || clock.dead) {
          clock.run(() => {
            reject(new Error('connection refused'));
          });
          return;
        }
        const near = new SimSocket(this, from, listener.nodeId, clock);
        const far = new SimSocket(this, listener.nodeId, from, listener.clock);
        near.peer = far;
        far.peer = near;
        this.#sockets.add(near);
        this.#sockets.add(far);
        listener.clock.run(() => {
          listener.accept(far);
        });
        clock.run(() => {
          resolve(near);
        });
      });
    });
  }

  isBlocked(from: string, to: string): boolean {
    return this.#blocked.has(`${from}>${to}`);
  }
  /** Nothing sent by `from` reaches `to` until `heal`. */
  block(from: string, to: string): void {
    this.#blocked.add(`${from}>${to}`);
  }
  heal(): void {
    this.#blocked.clear();
    for (const socket of this.#sockets) socket.kick();
  }

  /** Breaks all connections between two nodes. */
  cut(a: string, b: string): void {
    for (const socket of [...this.#sockets]) {
      if (socket.from === a && socket.to === b) this.breakPair(socket, new Error('cut'));
    }
  }
  /** A process is gone: its connections end. */
  drop(nodeId: string): void {
    for (const socket of [...this.#sockets]) {
      if (socket.from === nodeId) this.breakPair(socket, new Error('reset'));
    }
  }

  /** The other side hears of it a little later, unless it is cut off. */
  breakPair(socket: SimSocket, error: Error | null): void {
    const { peer } = socket;
    this.#sockets.delete(socket);
    socket.close(error);
    if (!peer || peer.destroyed) return;
    this.scheduler.at(this.latencyMs(), () => {
      this.#sockets.delete(peer);
      peer.close(null);
    });
  }
}
