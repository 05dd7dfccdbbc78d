import { StorError } from '@stor/protocol';
import { optionReplyType } from 'nbd-client-js';
import type { Clock, Logger, StreamSocket, TlsServer, TlsSession } from '@stor/runtime';
import type { NbdLimits } from '../core/nbd/nbd-limits.ts';
import { nbdOptionErrorOf } from '../core/nbd/nbd-errno.ts';
import type { PayloadMemory } from '../core/nbd/payload-memory.ts';
import type { TlsMode } from '../core/nbd/tls-gate.ts';
import {
  ServerHandshake,
  type HandshakeAnswer,
  type HandshakeQuestion,
  type HandshakeStep,
} from '../core/nbd/server-handshake.ts';
import type { NbdCaller, NbdExportLease, NbdExports } from './nbd-exports.ts';
import type { BusyPoll } from './busy-poll.ts';
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
  memory: PayloadMemory;
  busyPoll: BusyPoll | null;
  /** null: there is no TLS here */
  tls: ConnectionTls | null;
}

export interface ConnectionTls {
  mode: TlsMode;
  /** what the connection is to use if it begins TLS now */
  server(): TlsServer;
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
  /** between STARTTLS and the end of the TLS handshake */
  #securing = false;
  #tls: TlsSession | null = null;
  /** the server is stopping */
  #stopping = false;
  /** the time for the handshake was over */
  #isLate = false;
  /** how often something came, and how often when that was last looked at */
  #receives = 0;
  #receivesSeen = 0;
  #isResting = false;
  /** what the client had not taken, when that changed last */
  #unsentBytes = 0;
  #unsentSinceMs = 0;
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
    this.#handshake = new ServerHandshake(options.limits, options.tls?.mode);
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

  /**
   * Ends it: what has been started is answered first, and what is asked meanwhile is answered that the
   * server stops. One that asks for nothing is closed after a moment.
   */
  shutDown(): void {
    if (this.#stopping) return;
    this.#stopping = true;
    if (this.#transmission) {
      this.#transmission.stop();
      return;
    }
    this.#handshake.stop();
    if (this.#asking) return;
    this.#stopTimer();
    this.#cancelTimer = this.#options.clock.after(this.#options.limits.stopGraceMs, () => {
      if (this.#securing) this.destroy();
      else this.#end();
    });
  }

  /** Asked now and then; a client that has said nothing since the last time needs no memory to say it in. */
  restIfQuiet(): void {
    const isNew = this.#receives !== this.#receivesSeen;
    if (!isNew && !this.#isResting) this.#socket.rest?.();
    this.#isResting = !isNew;
    this.#receivesSeen = this.#receives;
  }

  /** Cuts it off when the client takes no replies, or leaves a request unfinished, for too long. */
  check(nowMs: number): void {
    // cut off already, and not quite over
    if (this.#socket.destroyed) return;
    if (this.#transmission?.isLate(nowMs)) {
      this.#options.stats.countRefused('unfinished');
      this.#logger.warn({}, 'an NBD client does not finish a request; connection closed');
      this.destroy();
      return;
    }
    this.#checkStalled(nowMs);
  }

  /** The time of its handshake that the client itself has used (ms); 0 when nothing is owed by it. */
  halfOpenMs(nowMs: number): number {
    const isOwed = !this.#transmission && !this.#asking && !this.#ending && !this.#closed;
    if (!isOwed) return 0;
    const usedMs = this.#options.limits.handshakeMs - this.#handshakeLeftMs;
    return usedMs + nowMs - this.#handshakeSinceMs;
  }

  /** Gives up the place of a client that has not finished its handshake. */
  displace(): void {
    this.#isLate = true;
    this.#options.stats.countRefused('half-open');
    this.#logger.info({}, 'an unfinished NBD handshake gives way to another client');
    this.destroy();
  }

  #checkStalled(nowMs: number): void {
    const { pendingBytes, unsentBytes = pendingBytes } = this.#socket;
    if (unsentBytes === 0 || unsentBytes !== this.#unsentBytes) {
      this.#unsentBytes = unsentBytes;
      this.#unsentSinceMs = nowMs;
      return;
    }
    if (nowMs - this.#unsentSinceMs < this.#options.limits.stalledMs) return;
    this.#options.stats.countRefused('stalled');
    this.#logger.warn({ unsentBytes }, 'an NBD client takes no replies; connection closed');
    this.destroy();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #receive(bytes: Buffer, start: number, end: number): number {
    this.#receives += 1;
    let at = start;
    while (!this.#transmission && !this.#ending) {
      if (this.#asking || this.#outputFull || this.#securing) return at - start;
      const step = this.#handshake.receive(bytes, at, end);
      at += step.used;
      if (step.next.kind === 'tls') this.#beginTls(step, end - at);
      else this.#perform(step);
      if (step.next.kind === 'wait') return at - start;
    }
    if (!this.#transmission) return end - start;
    return at - start + this.#transmission.receive(bytes, at, end);
  }

  /**
   * What came in the clear behind STARTTLS must never be read as though it came over TLS: the client
   * has to wait for the answer, so that who sends more is no client.
   */
  #beginTls(step: HandshakeStep, leftoverBytes: number): void {
    const { tls, stats } = this.#options;
    if (!tls || leftoverBytes > 0) {
      stats.countRefused('tls');
      this.#logger.warn({ leftoverBytes }, 'bytes in the clear behind STARTTLS; connection closed');
      this.destroy();
      return;
    }
    this.#securing = true;
    this.#socket.pause();
    this.#socket.write(Buffer.concat(step.send), () => void this.#secure(tls));
  }

  /** Never rejects. */
  async #secure(tls: ConnectionTls): Promise<void> {
    try {
      this.#tls = await this.#socket.startTls(tls.server());
    } catch (error) {
      if (!this.#isLate && !this.#stopping) this.#options.stats.countRefused('tls');
      this.#logger.info({ err: (error as Error).message }, 'no TLS; NBD connection closed');
      this.destroy();
      return;
    }
    this.#logger.debug({ tls: this.#tls }, 'NBD over TLS');
    this.#handshake.secured();
    this.#securing = false;
    this.#socket.resume();
  }

  #perform(step: HandshakeStep): void {
    if (step.send.length > 0) this.#socket.write(Buffer.concat(step.send));
    // told that the server stops
    if (this.#stopping && step.send.length > 0) {
      this.#end();
      return;
    }
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
    if (this.#stopping && answer.kind !== 'error') {
      this.#releaseLease();
      const message = 'this server is stopping';
      answer = { kind: 'error', type: optionReplyType.errShutdown, message };
    }
    if (this.#closed) {
      this.#releaseLease();
      return;
    }
    this.#startTimer();
    this.#perform(this.#handshake.answer(answer));
    if (!this.#outputFull) this.#socket.resume();
  }

  /** Never rejects: what is only for people keeps nobody from the export. */
  async #describe(question: { name: string; describes?: true }): Promise<string> {
    if (!question.describes) return '';
    return this.#options.exports.describe(question.name).catch(() => '');
  }

  async #answerTo(question: HandshakeQuestion): Promise<HandshakeAnswer> {
    const { exports, id, socket } = this.#options;
    const caller: NbdCaller = { id, remote: socket.remote, tls: this.#tls };
    if (question.kind === 'list') return { kind: 'names', names: await exports.list(caller) };
    if (question.kind === 'info') {
      const facts = await exports.info(question.name, caller);
      return { kind: 'export', ...facts, description: await this.#describe(question) };
    }
    if (question.kind === 'snapshots') {
      const names = await exports.snapshotsOf(question.name, question.asked, caller);
      return { kind: 'snapshots', names };
    }
    const { name, client, contexts } = question;
    const peer = { ...caller, client, contexts, left: this.#left.signal };
    const description = await this.#describe(question);
    const lease = await exports.open(name, peer);
    this.#lease = lease;
    const { device, readOnly } = lease;
    return { kind: 'export', name: lease.name, sizeBytes: device.sizeBytes, readOnly, description };
  }

  #startTransmission(): void {
    const lease = this.#lease;
    if (!lease) throw new Error('transmission without an export');
    this.#stopTimer();
    const { stats, socket, limits, clock, readBuffers, outputBuffers, memory, busyPoll } =
      this.#options;
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
      memory,
      busyPoll,
      sendsAgain: this.#handshake.isNamed,
      onDrained: () => {
        this.#releaseLease();
        this.#end();
      },
    });
    this.#transmission = transmission;
    lease.onRevoked(() => {
      transmission.stop();
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
      this.#isLate = true;
      this.#options.stats.countRefused('handshake-timeout');
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
