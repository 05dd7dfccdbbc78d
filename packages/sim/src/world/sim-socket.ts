import { SharedBytes, type StreamSocket } from '@stor/runtime';

import type { SimNetwork } from './network.ts';
import type { ProcessClock } from './process-clock.ts';

interface Piece {
  bytes: Uint8Array;
  written: (() => void) | null;
}

/** A retransmission to a host that has forgotten the connection is answered after this (ms). */
const resetAnswerMs = 200;
/** An idle connection is probed this often (ms), as the product's sockets are. */
const keepAliveMs = 30_000;
/** Bytes that one receiver has not taken stop the sender, as a full receive window does. */
const windowBytes = 4 * 1024 * 1024;

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
  /** of the listener that it was made to */
  port = 0;
  readonly from: string;
  readonly to: string;
  /** the end of the host that was called */
  readonly isAccepted: boolean;
  readonly clock: ProcessClock;
  readonly #network: SimNetwork;
  #queue: Piece[] = [];
  #received: Buffer = emptyBytes;
  #arrived: Buffer[] = [];
  #arrivedBytes = 0;
  #paused = false;
  #scheduled = false;
  #ending = false;
  #closeTold = false;
  #isOpen = true;
  #isTaken: boolean;
  #inHandler = false;
  /** what the handler has in hand */
  #offered: SharedBytes | null = null;
  #keepCalls = 0;

  /** `isTaken`: its process has it; what arrives before that waits. */
  constructor(
    network: SimNetwork,
    from: string,
    to: string,
    clock: ProcessClock,
    isTaken: boolean,
  ) {
    this.#network = network;
    this.from = from;
    this.to = to;
    this.remote = to;
    this.clock = clock;
    this.isAccepted = !isTaken;
    this.#isTaken = isTaken;
  }

  /** The listening process has accepted it. */
  taken(): void {
    this.#isTaken = true;
    if (this.#isOpen) this.deliver();
    else if (!this.#closeTold) this.#close(null);
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
    if (this.#inHandler || this.destroyed) return;
    this.#offerKept();
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
    this.reset(error ?? null);
  }

  /** Goes on sending after a partition is over. */
  kick(): void {
    if (this.#queue.length > 0 || this.#ending) this.#schedule();
  }

  /** This end is over; the other one hears of it when the network lets it. */
  reset(error: Error | null): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#network.ended(this);
    this.#close(error);
    this.#tellPeer();
  }

  /** The host is off: no goodbye. The other end's keepalive finds out when it is up again. */
  vanish(): void {
    const network = this.#network;
    const probe = (): void => {
      if (!this.peer || !this.peer.#isOpen) return;
      if (network.isDown(this.from) || network.isBlocked(this.to, this.from, this.port)) {
        network.scheduler.at(keepAliveMs, probe);
      } else this.peer.#peerGone();
    };
    network.scheduler.at(keepAliveMs, probe);
    this.#isOpen = false;
    this.destroyed = true;
    this.#queue = [];
    this.#closeTold = true;
  }

  deliver(): void {
    if (this.destroyed || this.#paused || !this.#isTaken) return;
    this.clock.run(() => {
      this.#takeArrived();
    });
  }

  arrived(bytes: Buffer): void {
    this.#arrived.push(bytes);
    this.#arrivedBytes += bytes.length;
  }

  #tellPeer(): void {
    const { peer } = this;
    if (!peer || !peer.#isOpen) return;
    const network = this.#network;
    const tell = (): void => {
      if (!peer.#isOpen) return;
      if (network.isBlocked(this.from, this.to, this.port)) {
        network.scheduler.at(resetAnswerMs, tell);
        return;
      }
      peer.#peerGone();
    };
    network.scheduler.at(network.latencyMs(this.from, this.to), tell);
  }

  #peerGone(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#network.ended(this);
    this.#close(null);
  }

  #close(error: Error | null): void {
    this.destroyed = true;
    this.#queue = [];
    if (this.#closeTold || !this.#isTaken) return;
    this.#closeTold = true;
    // as in Node: never within the call that closes
    this.#network.scheduler.at(0, () => {
      this.clock.run(() => {
        this.onClose(error);
      });
    });
  }

  #schedule(): void {
    if (this.#scheduled || this.destroyed) return;
    if (this.#network.isBlocked(this.from, this.to, this.port) || this.#network.isDown(this.to))
      return;
    this.#scheduled = true;
    this.#network.scheduler.at(this.#network.latencyMs(this.from, this.to), () => {
      this.#scheduled = false;
      this.#send();
    });
  }

  /** What has been written arrives: often all of it, sometimes only a part. */
  #send(): void {
    const network = this.#network;
    if (this.destroyed || network.isBlocked(this.from, this.to, this.port)) return;
    const { peer } = this;
    if (!peer || !peer.#isOpen) {
      // the host came up again and knows nothing of this connection
      if (!network.isDown(this.to)) {
        network.scheduler.at(resetAnswerMs, () => {
          this.#peerGone();
        });
      }
      return;
    }
    if (peer.#arrivedBytes > windowBytes) {
      network.scheduler.at(1, () => {
        this.kick();
      });
      return;
    }
    const count = network.random.next() < 0.8 ? this.#queue.length : 1;
    let sent = false;
    for (const piece of this.#queue.splice(0, count)) {
      network.scheduler.hash.bytes(piece.bytes);
      network.onPiece(this.from, this.to, piece.bytes);
      network.scheduler.sent(piece.bytes.length);
      peer.arrived(Buffer.from(piece.bytes));
      this.pendingBytes -= piece.bytes.length;
      sent = true;
      const { written } = piece;
      if (written) this.clock.run(written);
    }
    if (sent) peer.deliver();
    if (this.destroyed) return;
    if (this.#queue.length > 0) this.#schedule();
    else if (this.#ending) this.reset(null);
    else if (this.pendingBytes === 0) this.clock.run(this.onDrain);
  }

  #takeArrived(): void {
    if (this.destroyed || this.#paused || this.#arrived.length === 0) return;
    const isWhole = this.#received.length === 0 && this.#arrived.length === 1;
    const all = isWhole
      ? (this.#arrived[0] ?? emptyBytes)
      : Buffer.concat([this.#received, ...this.#arrived]);
    this.#arrived = [];
    this.#arrivedBytes = 0;
    let end = all.length;
    const { random, scheduler } = this.#network;
    if (random.next() < 0.15) {
      const kept = this.#received.length;
      end = kept + Math.ceil((end - kept) * random.next());
    }
    const offered = new SharedBytes(all, poison);
    const used = this.#offer(offered, end);
    const rest = used < end ? Buffer.from(all.subarray(used, end)) : emptyBytes;
    const later = end < all.length ? Buffer.from(all.subarray(end)) : null;
    offered.release();
    if (this.destroyed) return;
    this.#received = rest;
    if (!later) return;
    this.#arrived.unshift(later);
    this.#arrivedBytes += later.length;
    scheduler.at(0, () => {
      this.deliver();
    });
  }

  #offerKept(): void {
    if (this.#received.length === 0) return;
    const kept = this.#received;
    const offered = new SharedBytes(kept, poison);
    const used = this.#offer(offered, kept.length);
    if (!this.destroyed) {
      this.#received = used < kept.length ? Buffer.from(kept.subarray(used)) : emptyBytes;
    }
    offered.release();
  }

  #offer(offered: SharedBytes, end: number): number {
    this.#inHandler = true;
    this.#offered = offered;
    try {
      return this.onData(offered.bytes, 0, end);
    } finally {
      this.#offered = null;
      this.#inHandler = false;
    }
  }
}

const emptyBytes = Buffer.alloc(0);

function poison(bytes: Buffer): void {
  bytes.fill(0xdd);
}
