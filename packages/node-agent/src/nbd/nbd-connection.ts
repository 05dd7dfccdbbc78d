import { StorError } from '@stor/protocol';
import type { Clock, Logger, StreamSocket } from '@stor/runtime';
import type { NbdLimits } from '../core/nbd/nbd-limits.ts';
import { nbdOptionErrorOf } from '../core/nbd/nbd-errno.ts';
import {
  ServerHandshake,
  type HandshakeAnswer,
  type HandshakeQuestion,
  type HandshakeStep,
} from '../core/nbd/server-handshake.ts';
import type { NbdExportLease, NbdExports } from './nbd-exports.ts';
import { ExportStats, type NbdStats } from './nbd-stats.ts';
import type { ReadBufferPool } from './read-buffer-pool.ts';
import type { OutputBufferPool } from './reply-output.ts';
import { Transmission } from './transmission.ts';

export interface ConnectionOptions {
  id: number;
  socket: StreamSocket;
  exports: NbdExports;
  limits: NbdLimits;
  clock: Clock;
  logger: Logger;
  stats: NbdStats;
  readBuffers: ReadBufferPool;
  outputBuffers: OutputBufferPool;
}

/**
 * One client from accept to the end: the handshake, then the transmission. Its lease is released
 * exactly once, when nothing of it is in the device any more, whichever side ended the connection
 * and whenever.
 */
export class NbdConnection {
  /** Resolves when the socket is closed, the lease released, and no question is outstanding. */
  readonly over: Promise<void>;
  readonly #options: ConnectionOptions;
  readonly #socket: StreamSocket;
  readonly #handshake: ServerHandshake;
  readonly #logger: Logger;
  readonly #left = new AbortController();
  #transmission: Transmission | null = null;
  #lease: NbdExportLease | null = null;
  #exportStats: ExportStats | null = null;
  #asking = false;
  #closed = false;
  #ending = false;
  /** waiting until the client takes the answers that it asked for */
  #outputFull = false;
  /** what is left of the client's time for the handshake (ms) */
  #handshakeLeftMs: number;
  #handshakeSinceMs = 0;
  #cancelTimer: () => void = () => {};
  #resolveOver: () => void = () => {};

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#socket = options.socket;
    this.#handshake = new ServerHandshake(options.limits);
    this.#handshakeLeftMs = options.limits.handshakeMs;
    this.#logger = options.logger.child({ connection: options.id, remote: options.socket.remote });
    this.over = new Promise((resolve) => {
      this.#resolveOver = resolve;
    });
    this.#socket.onData = (bytes, start, end) => this.#receive(bytes, start, end);
    this.#socket.onDrain = () => {
      this.#continueIfDrained();
    };
    this.#socket.onClose = () => {
      this.#socketClosed();
    };
    this.#startTimer();
    this.#socket.write(this.#handshake.greeting());
  }

  /** Ends it: what has been started is answered first. */
  shutDown(): void {
    if (this.#transmission) this.#transmission.endAfterReplies();
    else this.destroy();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #receive(bytes: Buffer, start: number, end: number): number {
    let at = start;
    while (!this.#transmission && !this.#ending) {
      if (this.#asking || this.#outputFull) return at - start;
      const step = this.#handshake.receive(bytes, at, end);
      at += step.used;
      this.#perform(step);
      if (step.next.kind === 'wait') return at - start;
    }
    if (!this.#transmission) return end - start;
    return at - start + this.#transmission.receive(bytes, at, end);
  }

  #perform(step: HandshakeStep): void {
    if (step.send.length > 0) this.#socket.write(Buffer.concat(step.send));
    switch (step.next.kind) {
      case 'ask':
        this.#asking = true;
        this.#stopTimer();
        this.#socket.pause();
        void this.#ask(step.next.question);
        return;
      case 'transmission':
        this.#startTransmission();
        return;
      case 'close':
        this.#logger.debug({ reason: step.next.reason }, 'NBD handshake ended');
        this.#end();
        return;
      default:
        if (this.#socket.pendingBytes > this.#options.limits.handshakeOutputBytes) {
          this.#outputFull = true;
          this.#socket.pause();
        }
    }
  }

  #continueIfDrained(): void {
    if (!this.#outputFull) return;
    this.#outputFull = false;
    this.#socket.resume();
  }

  /** Never rejects. */
  async #ask(question: HandshakeQuestion): Promise<void> {
    let answer: HandshakeAnswer;
    try {
      answer = await this.#answerTo(question);
    } catch (thrown) {
      const error = StorError.from(thrown);
      this.#logger.info({ question, code: error.code, err: error.message }, 'NBD option refused');
      answer = { kind: 'error', type: nbdOptionErrorOf[error.code], message: error.message };
    }
    this.#asking = false;
    if (this.#closed) {
      this.#releaseLease();
      return;
    }
    this.#startTimer();
    this.#perform(this.#handshake.answer(answer));
    if (!this.#outputFull) this.#socket.resume();
  }

  async #answerTo(question: HandshakeQuestion): Promise<HandshakeAnswer> {
    const { exports, id, socket } = this.#options;
    if (question.kind === 'list') return { kind: 'names', names: await exports.list() };
    if (question.kind === 'info') return { kind: 'export', ...(await exports.info(question.name)) };
    if (question.kind === 'snapshots') {
      const names = await exports.snapshotsOf(question.name, question.asked);
      return { kind: 'snapshots', names };
    }
    const { name, client, contexts } = question;
    const peer = { id, remote: socket.remote, client, contexts, left: this.#left.signal };
    const lease = await exports.open(name, peer);
    this.#lease = lease;
    const { device, readOnly, description = '' } = lease;
    return { kind: 'export', name: lease.name, sizeBytes: device.sizeBytes, readOnly, description };
  }

  #startTransmission(): void {
    const lease = this.#lease;
    if (!lease) throw new Error('transmission without an export');
    this.#stopTimer();
    const { stats, socket, limits, clock, readBuffers, outputBuffers } = this.#options;
    const { volumeId, name } = lease;
    const exportStats = lease.isRelay
      ? new ExportStats(volumeId, name)
      : stats.ofExport(volumeId, name);
    exportStats.connections += 1;
    this.#exportStats = exportStats;
    const transmission = new Transmission({
      socket,
      lease,
      form: this.#handshake.form,
      contexts: this.#handshake.contexts,
      limits,
      clock,
      logger: this.#logger,
      stats,
      exportStats,
      readBuffers,
      outputBuffers,
      onDrained: () => {
        this.#releaseLease();
        this.#end();
      },
    });
    this.#transmission = transmission;
    lease.onRevoked(() => {
      transmission.endAfterReplies();
    });
  }

  /** Closes after what was written has been sent; a client that does not take it is cut off. */
  #end(): void {
    if (this.#ending || this.#closed) return;
    this.#ending = true;
    this.#stopTimer();
    this.#socket.end();
    this.#cancelTimer = this.#options.clock.after(this.#options.limits.closeDrainMs, () => {
      this.#socket.destroy();
    });
  }

  #socketClosed(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stopTimer();
    if (this.#exportStats) this.#exportStats.connections -= 1;
    this.#transmission?.gone();
    this.#left.abort();
    this.#finishIfOver();
  }

  #releaseLease(): void {
    const lease = this.#lease;
    this.#lease = null;
    lease?.release();
    this.#finishIfOver();
  }

  #finishIfOver(): void {
    if (this.#closed && !this.#asking && !this.#lease) this.#resolveOver();
  }

  #startTimer(): void {
    const { clock } = this.#options;
    this.#cancelTimer();
    this.#handshakeSinceMs = clock.monotonicMs();
    this.#cancelTimer = clock.after(Math.max(0, this.#handshakeLeftMs), () => {
      this.#logger.info({}, 'NBD handshake took too long; connection closed');
      this.#socket.destroy();
    });
  }

  #stopTimer(): void {
    this.#cancelTimer();
    this.#cancelTimer = () => {};
    this.#handshakeLeftMs -= this.#options.clock.monotonicMs() - this.#handshakeSinceMs;
  }
}
