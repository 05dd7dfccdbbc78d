import type { Clock, Logger, SharedBytes, StreamSocket } from '@stor/runtime';
import {
  command,
  errno,
  newRequestHeader,
  readRequest,
  requestHeaderBytes,
  simpleReplyBytes,
  writeSimpleReply,
  type RequestHeader,
} from 'nbd-client-js';
import { deviceErrno } from '../core/device-errno.ts';
import type { KernelDisk, KernelStep } from '../core/kernel-disk.ts';
import { RequestBudget } from '../core/request-budget.ts';
import type { DeviceVolume } from './device-volume.ts';

export interface KernelServerLimits {
  /** requests that are not answered; above it none are read */
  unanswered: number;
  /** the same for the bytes that they hold */
  unansweredBytes: number;
  /** a request that has waited for longer ends the device (ms) */
  oldestMs: number;
}

export const defaultKernelLimits: Readonly<KernelServerLimits> = {
  // as many as a fuse-loop device takes: several times what the connection to the volume sends at once
  unanswered: 256,
  unansweredBytes: 128 * 1024 * 1024,
  // See `requestTimeoutSeconds`: the kernel must never be the first to lose its patience.
  oldestMs: 59 * 60_000,
};

/** How often it is looked how old the oldest request is (ms). */
const ageLookMs = 10_000;

/** A connection of the kernel. */
interface Link {
  socket: StreamSocket;
  header: RequestHeader;
  isPaused: boolean;
  isCorked: boolean;
  /** the kernel has said goodbye, or the connection has ended */
  isOver: boolean;
}

interface Taken {
  link: Link;
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  length: number;
  atMs: number;
  /** of a write */
  payload: Buffer | null;
  /** where the payload is, unless it was copied */
  memory: SharedBytes | null;
  heldBytes: number;
}

/**
 * Answers the requests of the kernel's NBD: simple replies, in any order, over connections that never
 * break while this process lives. What becomes of the connection to the volume meanwhile is the
 * volume's business: a request waits, and the kernel sees nothing of it.
 */
export class KernelNbdServer {
  readonly #disk: KernelDisk;
  readonly #volume: DeviceVolume;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #limits: KernelServerLimits;
  readonly #budget: RequestBudget;
  readonly #links = new Set<Link>();
  /** the oldest first */
  readonly #taken = new Set<Taken>();
  #failure: string | null = null;
  #wasLeft = false;
  #cancelLook: () => void = () => {};
  #resolveEnded: () => void = () => {};
  /** Resolves when all connections are over and nothing is under way any more. */
  readonly ended: Promise<void>;
  /** Called once, when the kernel cannot be answered any more, with why. */
  onFailure: (why: string) => void = () => {};

  constructor(parts: {
    disk: KernelDisk;
    volume: DeviceVolume;
    clock: Clock;
    logger: Logger;
    limits?: Partial<KernelServerLimits>;
  }) {
    this.#disk = parts.disk;
    this.#volume = parts.volume;
    this.#clock = parts.clock;
    this.#logger = parts.logger;
    this.#limits = { ...defaultKernelLimits, ...parts.limits };
    const { unanswered, unansweredBytes } = this.#limits;
    this.#budget = new RequestBudget(unanswered, unansweredBytes);
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
    this.#lookLater();
  }

  /** Why the kernel cannot be answered any more. */
  get failure(): string | null {
    return this.#failure;
  }

  /** The kernel has said goodbye: it sends nothing any more. */
  get wasLeft(): boolean {
    return this.#wasLeft;
  }

  /** One connection of the kernel, after the handshake; in the turn in which it was got. */
  serve(socket: StreamSocket): void {
    const header = newRequestHeader();
    const link = { socket, header, isPaused: false, isCorked: false, isOver: false };
    this.#links.add(link);
    socket.onData = (bytes, start, end) => this.#receive(link, bytes, start, end);
    socket.onClose = (error) => this.#closed(link, error);
  }

  /** Connections that the kernel did not take. */
  drop(sockets: readonly StreamSocket[]): void {
    for (const link of this.#links) if (sockets.includes(link.socket)) this.#leave(link);
  }

  /** Ends all connections: the kernel gets no answer any more. Works twice. */
  close(): void {
    this.#cancelLook();
    for (const link of this.#links) {
      link.isOver = true;
      link.socket.destroy();
    }
    this.#endIfOver();
  }

  #lookLater(): void {
    this.#cancelLook = this.#clock.after(ageLookMs, () => {
      this.#lookAtAge();
      if (this.#failure === null) this.#lookLater();
    });
  }

  /**
   * The kernel sends a request that was not answered in time again, over another connection, and later
   * ones for the same place after that. Were the first one taken up after all, it would undo them.
   */
  #lookAtAge(): void {
    const [oldest] = this.#taken;
    if (!oldest || this.#clock.monotonicMs() - oldest.atMs <= this.#limits.oldestMs) return;
    this.#fail(`a request was not answered within ${this.#limits.oldestMs / 60_000} minutes`);
  }

  /** Handler of a connection's data. */
  #receive(link: Link, bytes: Buffer, start: number, end: number): number {
    // first: this process may have been stopped for hours
    this.#lookAtAge();
    let at = start;
    while (!link.isOver && this.#failure === null && end - at >= requestHeaderBytes) {
      if (!this.#budget.hasRoom) {
        this.#pause(link);
        break;
      }
      const used = this.#takeRequest(link, bytes, at, end);
      if (used === 0) break;
      at += used;
    }
    return link.isOver || this.#failure !== null ? end - start : at - start;
  }

  /** One request at `at`: its length; 0 when it is not there as a whole, or none. */
  #takeRequest(link: Link, bytes: Buffer, at: number, end: number): number {
    const { header, socket } = link;
    if (!readRequest(bytes, at, false, header)) {
      this.#fail('the kernel sent something that is no request');
      return 0;
    }
    const payloadBytes = header.type === command.write ? header.length : 0;
    const wholeBytes = requestHeaderBytes + payloadBytes;
    if (end - at < wholeBytes) {
      socket.expect?.(wholeBytes);
      return 0;
    }
    const step = this.#disk.step(header);
    if (step.kind === 'end') {
      this.#wasLeft = true;
      this.#leave(link);
      return 0;
    }
    const { cookieHigh, cookieLow, offset, length } = header;
    const taken: Taken = {
      ...{ link, cookieHigh, cookieLow, offset, length, atMs: this.#clock.monotonicMs() },
      ...{ payload: null, memory: null, heldBytes: 0 },
    };
    if (step.kind === 'refuse') {
      this.#answer(taken, step.errno, null);
      return wholeBytes;
    }
    if (step.kind === 'write') {
      const payload = bytes.subarray(at + requestHeaderBytes, at + wholeBytes);
      taken.memory = socket.keep?.(payloadBytes) ?? null;
      taken.payload = taken.memory ? payload : Buffer.from(payload);
    }
    if (step.kind === 'read' || step.kind === 'write') taken.heldBytes = length;
    this.#taken.add(taken);
    this.#budget.take(taken.heldBytes);
    void this.#perform(step, taken);
    return wholeBytes;
  }

  /** Never rejects. */
  async #perform(
    step: Exclude<KernelStep, { kind: 'refuse' | 'end' }>,
    taken: Taken,
  ): Promise<void> {
    const { offset, length, payload, memory } = taken;
    let data: Buffer | null = null;
    let number = 0;
    try {
      if (step.kind === 'read') {
        data = Buffer.allocUnsafe(length);
        await this.#volume.read(offset, data);
      } else if (step.kind === 'write') {
        await this.#volume.write(offset, payload ?? Buffer.alloc(0), { fua: step.fua });
        // after an error a connection that is being closed may use it for a moment still
        memory?.release();
      } else if (step.kind === 'zero') {
        await this.#volume.zero(offset, length, { keepAllocated: step.keepAllocated });
        if (step.fua) await this.#volume.flush();
      } else await this.#volume.flush();
    } catch (error) {
      data = null;
      number = deviceErrno(error) || errno.EIO;
    }
    this.#taken.delete(taken);
    this.#answer(taken, number, data);
    this.#budget.give(taken.heldBytes);
    this.#resumeAll();
    this.#endIfOver();
  }

  #answer({ link, cookieHigh, cookieLow }: Taken, number: number, data: Buffer | null): void {
    if (this.#failure !== null || link.socket.destroyed) return;
    const reply = Buffer.allocUnsafe(simpleReplyBytes);
    writeSimpleReply(reply, 0, number, cookieHigh, cookieLow);
    if (!link.isCorked) {
      // the answers of one turn leave in one system call
      link.isCorked = true;
      link.socket.cork();
      this.#clock.endOfTurn(() => {
        link.isCorked = false;
        link.socket.uncork();
      });
    }
    link.socket.write(reply);
    if (data) link.socket.write(data);
  }

  #pause(link: Link): void {
    if (link.isPaused) return;
    link.isPaused = true;
    link.socket.pause();
  }

  #resumeAll(): void {
    for (const link of this.#links) {
      if (!this.#budget.hasRoom) return;
      if (!link.isPaused) continue;
      link.isPaused = false;
      // what was left is offered during this call
      link.socket.resume();
    }
  }

  /** The kernel wants no answer any more, and closes the connection. */
  #leave(link: Link): void {
    link.isOver = true;
    link.socket.end();
  }

  #closed(link: Link, error: Error | null): void {
    const isExpected = link.isOver || this.#failure !== null;
    link.isOver = true;
    this.#links.delete(link);
    if (!isExpected)
      this.#fail(`the kernel has ended a connection${error ? `: ${error.message}` : ''}`);
    this.#endIfOver();
  }

  #fail(why: string): void {
    if (this.#failure !== null) return;
    this.#failure = why;
    this.#logger.error({ error: why }, 'the device is lost: every request fails');
    this.close();
    this.onFailure(why);
  }

  #endIfOver(): void {
    if (this.#links.size > 0 || this.#taken.size > 0) return;
    this.#cancelLook();
    this.#resolveEnded();
  }
}
