import type { StorError } from '@stor/protocol';
import type { BlockDevice } from '@stor/replicator';
import type { Clock, StreamSocket } from '@stor/runtime';
import {
  chunkFlag,
  command,
  commandFlag,
  errno,
  extendedHeaderBytes,
  newRequestHeader,
  readRequest,
  requestHeaderBytes,
  statusFilterPrefixBytes,
  type ReplyTarget,
  type RequestHeader,
} from 'nbd-client-js';
import { nbdErrnoOf } from '../core/nbd/nbd-errno.ts';
import type { NbdLimits } from '../core/nbd/nbd-limits.ts';
import { checkRequest, type RequestRules } from '../core/nbd/request-check.ts';
import { UnfinishedRequest } from '../core/nbd/unfinished-request.ts';
import { BlockStatus, statusFilter } from './block-status.ts';
import { ConnectionMemory } from './connection-memory.ts';
import { LongEffect, zeroesFast } from './long-effect.ts';
import { NbdRequest, type RequestOwner } from './nbd-request.ts';
import type { ExportStats } from './nbd-stats.ts';
import { Prefetch, prefetchBytes } from './prefetch.ts';
import { copiedReadBytes, ReplyWriter } from './reply-writer.ts';
import { ReplyOutput } from './reply-output.ts';
import { dataBytesOf, planPieces, readPieces } from './split-read.ts';
import { requestRules, type TransmissionOptions } from './transmission-options.ts';

/**
 * The transmission phase of one connection.
 *
 * Every complete request in what has arrived is started at once; what the device answers during the
 * call goes out in one write at the end of it, what it answers later in one write at the end of that
 * turn. Reading stops while too much is in the device or waits for the client, and goes on when that
 * has halved. Requests that were started are always drained: `onDrained` comes after the last of them.
 */
export class Transmission implements RequestOwner {
  readonly #options: TransmissionOptions;
  readonly #socket: StreamSocket;
  readonly #device: BlockDevice;
  readonly #limits: NbdLimits;
  readonly #clock: Clock;
  readonly #output: ReplyOutput;
  readonly #replies: ReplyWriter;
  readonly #rules: RequestRules;
  readonly #isExtended: boolean;
  /** of a request (bytes) */
  readonly #headerBytes: number;
  /** replies can say that a part of a read is a hole, and the device may know it */
  readonly #tellsHoles: boolean;
  /** the request that is being looked at */
  readonly #header: RequestHeader = newRequestHeader();
  readonly #blockStatus: BlockStatus;
  readonly #inlineReadBytes: number;
  readonly #exportStats: ExportStats;
  readonly #idle: NbdRequest[] = [];
  #inFlight = 0;
  #inFlightBytes = 0;
  /** payload of a refused WRITE that is still to come */
  #skipBytes = 0;
  readonly #unfinished: UnfinishedRequest;
  readonly #memory: ConnectionMemory;
  /** of the request that is looked at, with its header; at least so many */
  #requestBytes = 0;
  #isPrefetching = false;
  #receiving = false;
  #paused = false;
  #flushPlanned = false;
  /**
   * open: requests are read. stopping: each that comes is refused, until what was started is answered.
   * ending: none is read any more, but what was started is answered. gone: nobody will read an answer.
   */
  #state: 'open' | 'stopping' | 'ending' | 'gone' = 'open';
  #drainedSaid = false;

  constructor(options: TransmissionOptions) {
    this.#options = options;
    this.#socket = options.socket;
    this.#device = options.lease.device;
    this.#blockStatus = new BlockStatus(options.lease, options.contexts);
    this.#limits = options.limits;
    this.#unfinished = new UnfinishedRequest(options.limits);
    this.#memory = new ConnectionMemory(options.memory, options.lease.isRelay, () => {
      this.#resumeIfRoom();
    });
    this.#clock = options.clock;
    this.#exportStats = options.exportStats;
    this.#output = new ReplyOutput(options.socket, options.outputBuffers);
    this.#replies = new ReplyWriter(this.#output, options);
    this.#output.onWritten = () => {
      this.#account();
      this.#resumeIfRoom();
    };
    this.#inlineReadBytes = Math.min(options.limits.inlineReadBytes, copiedReadBytes);
    this.#isExtended = options.form === 'extended';
    this.#headerBytes = this.#isExtended ? extendedHeaderBytes : requestHeaderBytes;
    this.#tellsHoles = options.form !== 'simple' && this.#device.holeBytes !== undefined;
    this.#rules = requestRules(options);
  }

  /** Handler of the socket's data. */
  receive(bytes: Buffer, start: number, end: number): number {
    this.#receiving = true;
    const arrivedMs = this.#clock.monotonicMs();
    const pendingBytes = this.#socket.pendingBytes;
    let at = start;
    let isNext = false;
    let taken = 0;
    while (this.#isReading) {
      if (this.#skipBytes > 0) {
        const length = Math.min(this.#skipBytes, end - at);
        at += length;
        this.#skipBytes -= length;
        if (this.#skipBytes === 0) isNext = true;
      }
      if (end - at < this.#headerBytes) break;
      if (this.#state === 'open' && this.#isFull(pendingBytes, 1)) {
        this.#pause();
        break;
      }
      const used = this.#takeRequest(bytes, at, end, arrivedMs);
      if (used === 0) break;
      at += used;
      isNext = true;
      taken += 1;
    }
    if (taken > 0)
      this.#options.busyPoll?.took(this, taken, this.#header, this.#inFlight, arrivedMs);
    if (this.#paused || (at === end && this.#skipBytes === 0)) this.#unfinished.none();
    else this.#unfinished.heard(arrivedMs, this.#requestBytes, isNext);
    this.#receiving = false;
    this.#output.flush();
    this.#account();
    this.#sayDrained();
    return this.#isReading ? at - start : end - start;
  }

  /** The client has begun a request, and does not finish it. */
  isLate(nowMs: number): boolean {
    return this.#isReading && this.#unfinished.isLate(nowMs);
  }

  get #isReading(): boolean {
    return this.#state === 'open' || this.#state === 'stopping';
  }

  /**
   * The server stops, or the volume may not be used any longer: what was started is answered, requests
   * that come meanwhile get ESHUTDOWN, and then the connection ends. Most clients hand ESHUTDOWN on to
   * whoever uses the disk, even those that send again, over a new connection, what was not answered: to
   * them it is not said, and what comes is dropped.
   */
  stop(): void {
    if (this.#state !== 'open') return;
    if (!this.#options.sendsAgain) {
      this.endAfterReplies();
      return;
    }
    this.#state = 'stopping';
    if (this.#paused) {
      this.#paused = false;
      // what it has not looked at yet is offered, and refused
      this.#socket.resume();
    }
    this.#planFlush();
  }

  /**
   * Starts nothing more; what was started is answered and then the connection ends. Requests that
   * have not been started are dropped.
   */
  endAfterReplies(): void {
    if (!this.#isReading) return;
    this.#state = 'ending';
    this.#planFlush();
  }

  /** The connection is over. What is in the device is waited for, and answered to nobody. */
  gone(): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    this.#output.discard();
    this.#memory.leave(this.#inFlightBytes);
    this.#sayDrained();
  }

  #isFull(pendingBytes: number, share: number): boolean {
    const limits = this.#limits;
    return (
      this.#inFlight >= limits.inFlightRequests * share ||
      // with one under way there is an answer to come, upon which it is looked again
      (this.#inFlight > 0 && this.#device.isFull === true) ||
      this.#inFlightBytes >= limits.inFlightBytes * share ||
      this.#output.queuedBytes + pendingBytes >= limits.outputBytes * share
    );
  }

  #account(): void {
    const isGone = this.#state === 'gone';
    const unsentBytes = isGone ? 0 : this.#output.queuedBytes + this.#socket.pendingBytes;
    this.#memory.hold(this.#inFlightBytes + unsentBytes);
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
  }

  #resumeIfRoom(): void {
    if (!this.#paused || this.#receiving || this.#state !== 'open') return;
    if (this.#isFull(this.#socket.pendingBytes, 0.5)) return;
    this.#paused = false;
    this.#socket.resume();
  }

  /** One request at `at`: how many bytes of it are done with; 0 when its payload is not there yet. */
  #takeRequest(bytes: Buffer, at: number, end: number, arrivedMs: number): number {
    const header = this.#header;
    this.#requestBytes = this.#headerBytes;
    if (!readRequest(bytes, at, this.#isExtended, header)) {
      // the stream is out of step: nothing that follows can be trusted
      this.#options.logger.warn({}, 'NBD request with a wrong magic; connection closed');
      this.endAfterReplies();
      return 0;
    }
    const { type, flags, offset, length } = header;
    if (type === command.disconnect) {
      this.endAfterReplies();
      return 0;
    }
    const hasPayload = this.#isExtended
      ? (flags & commandFlag.payloadLength) !== 0
      : type === command.write;
    const payloadAt = at + this.#headerBytes;
    const isStopping = this.#state === 'stopping';
    if (type === command.blockStatus && hasPayload && !isStopping) {
      return this.#filteredStatus(bytes, payloadAt, end, arrivedMs);
    }
    const refusal = isStopping
      ? errno.ESHUTDOWN
      : checkRequest(type, flags, offset, length, this.#rules);
    if (refusal !== 0) {
      this.#refuse(header, refusal, arrivedMs);
      // who takes no answer is not told without end
      if (isStopping && this.#isFull(this.#socket.pendingBytes, 1)) this.endAfterReplies();
      if (hasPayload) this.#skipPayload(length);
      // whether its data follow nobody knows, and they must not be taken for requests
      else if (type === command.write) this.endAfterReplies();
      return this.#headerBytes;
    }
    const hasData = type === command.write || type === command.read;
    if (hasData && !this.#memory.admits(length)) {
      this.#pause();
      return 0;
    }
    if (type === command.write && end - payloadAt < length) {
      this.#requestBytes = this.#headerBytes + length;
      this.#memory.arrivingBytes = length;
      this.#socket.expect?.(this.#headerBytes + length);
      return 0;
    }
    if (type === command.read) {
      this.#read(header, arrivedMs);
      return this.#headerBytes;
    }
    if (type === command.blockStatus) {
      this.#status(header, this.#blockStatus.allIds, length);
      return this.#headerBytes;
    }
    if (length === 0 && type !== command.flush) {
      // a request for nothing has no effect that could be made durable
      this.#replies.done(header);
    } else if (type === command.cache) {
      this.#cache(header, arrivedMs);
    } else if ((flags & commandFlag.fastZero) !== 0 && !zeroesFast(this.#device, header)) {
      this.#refuse(header, errno.ENOTSUP, arrivedMs);
    } else {
      const request = this.#take(header, arrivedMs);
      request.fua = (flags & commandFlag.fua) !== 0;
      this.#start(request, flags, bytes, payloadAt);
    }
    return this.#headerBytes + (type === command.write ? length : 0);
  }

  /** BLOCK_STATUS with a payload: the contexts that it is about, and how far it goes. */
  #filteredStatus(bytes: Buffer, payloadAt: number, end: number, arrivedMs: number): number {
    const header = this.#header;
    const { type, flags, offset, length: payloadBytes } = header;
    const { allIds } = this.#blockStatus;
    if (payloadBytes <= statusFilterPrefixBytes + 4 * allIds.length) {
      if (end - payloadAt < payloadBytes) return 0;
      const filter = statusFilter(bytes, payloadAt, payloadBytes, allIds);
      const length = filter?.length ?? 0;
      const isRight = filter && checkRequest(type, flags, offset, length, this.#rules) === 0;
      if (isRight) this.#status(header, filter.ids, length);
      else this.#refuse(header, errno.EINVAL, arrivedMs);
      return this.#headerBytes + payloadBytes;
    }
    this.#refuse(header, errno.EINVAL, arrivedMs);
    this.#skipPayload(payloadBytes);
    return this.#headerBytes;
  }

  #start(request: NbdRequest, flags: number, bytes: Buffer, payloadAt: number): void {
    switch (request.type) {
      case command.write:
        // the payload stays in the receive buffer; of a small one the device copies what it needs longer
        request.memory = this.#socket.keep?.(request.length) ?? null;
        request.retained = request.memory !== null;
        request.bytes = bytes;
        request.start = payloadAt;
        this.#memory.arrivingBytes = 0;
        this.#hold(request, request.length);
        this.#device.write(request);
        return;
      case command.flush:
        this.#device.flush(request);
        return;
      case command.trim:
        if (request.length > this.#limits.effectBytes) this.#startLong(request, 'trim');
        else this.#device.trim(request);
        return;
      default:
        request.noHole = (flags & commandFlag.noHole) !== 0;
        if (request.length > this.#limits.effectBytes) this.#startLong(request, 'writeZeroes');
        else this.#device.writeZeroes(request);
    }
  }

  /** A hint: one at a time is followed, the others have no effect. */
  #cache(header: RequestHeader, arrivedMs: number): void {
    if (this.#isPrefetching) {
      this.#replies.done(header);
      return;
    }
    this.#isPrefetching = true;
    const request = this.#take(header, arrivedMs);
    this.#hold(request, prefetchBytes);
    new Prefetch(request, this.#device, {
      buffers: this.#options.readBuffers,
      maxBytes: this.#limits.cacheBytes,
      isOver: () => this.#state !== 'open',
    }).run();
  }

  #startLong(request: NbdRequest, kind: 'trim' | 'writeZeroes'): void {
    const partBytes = this.#limits.effectBytes;
    const isOver = (): boolean => this.#state !== 'open';
    new LongEffect(request, this.#device, { kind, partBytes, isOver }).run();
  }

  #read(header: RequestHeader, arrivedMs: number): void {
    const { flags, offset, length } = header;
    if (length === 0) {
      this.#replies.emptyRead(header);
      return;
    }
    if (this.#tellsHoles && this.#readHoles(header, arrivedMs)) return;
    if (length <= this.#inlineReadBytes) {
      const { readHeaderBytes: headerBytes } = this.#replies;
      const out = this.#output.reserve(headerBytes + length);
      if (this.#device.readInline(offset, length, out.bytes, out.used + headerBytes)) {
        this.#replies.writeReadHeader(out.bytes, out.used, offset, length, header);
        this.#output.commit(out, headerBytes + length);
        this.#exportStats.read.record(this.#clock.monotonicMs() - arrivedMs, length, false);
        return;
      }
    }
    const request = this.#take(header, arrivedMs);
    this.#setTarget(request, length);
    request.fua = (flags & commandFlag.fua) !== 0;
    this.#device.read(request);
  }

  #setTarget(request: NbdRequest, length: number): void {
    request.readInto(this.#options.readBuffers.take(length));
    this.#hold(request, length);
  }

  /**
   * Answers a read of which something is known to be a hole, which costs a few bytes then; false when
   * nothing is. A small one that is partly a hole, or one with DF, is read as one piece.
   */
  #readHoles(header: RequestHeader, arrivedMs: number): boolean {
    const { flags, offset, length } = header;
    const holeBytes = this.#device.holeBytes?.(offset, length) ?? 0;
    if (holeBytes === length) {
      this.#replies.hole(header, chunkFlag.done, offset, length);
      this.#exportStats.read.record(this.#clock.monotonicMs() - arrivedMs, length, false);
      return true;
    }
    if (length <= this.#inlineReadBytes || (flags & commandFlag.df) !== 0) return false;
    const pieces = planPieces(this.#device, offset, length, this.#limits.readPieces);
    if (!pieces) return false;
    const request = this.#take(header, arrivedMs);
    request.pieces = pieces;
    const dataBytes = dataBytesOf(pieces);
    if (dataBytes > 0) this.#setTarget(request, dataBytes);
    request.fua = (flags & commandFlag.fua) !== 0;
    readPieces(this.#device, pieces, request);
    return true;
  }

  #take(header: RequestHeader, arrivedMs: number): NbdRequest {
    const request = this.#idle.pop() ?? new NbdRequest(this);
    request.begin(header, arrivedMs);
    this.#inFlight += 1;
    this.#exportStats.inFlight += 1;
    return request;
  }

  #hold(request: NbdRequest, bytes: number): void {
    request.heldBytes = bytes;
    this.#inFlightBytes += bytes;
    this.#account();
  }

  /** The device is done with a request; may be called during the call that started it. */
  completed(request: NbdRequest, error: StorError | null): void {
    this.#inFlight -= 1;
    this.#exportStats.inFlight -= 1;
    this.#inFlightBytes -= request.heldBytes;
    const { type, length, buffer, pieces, adopted } = request;
    if (type === command.cache) this.#isPrefetching = false;
    const latencyMs = this.#clock.monotonicMs() - request.arrivedMs;
    this.#exportStats.operation(type)?.record(latencyMs, length, error !== null);
    request.clear();
    if (error || this.#state === 'gone') adopted?.release();
    if (this.#state === 'gone') {
      if (buffer) this.#options.readBuffers.give(buffer);
    } else if (error && this.#isLeftOpen(error)) {
      if (buffer) this.#options.readBuffers.give(buffer);
      this.endAfterReplies();
    } else if (pieces) {
      if (error) this.#options.stats.countError(nbdErrnoOf[error.code]);
      this.#replies.pieces(request, pieces, buffer);
    } else if (error) {
      if (buffer) this.#options.readBuffers.give(buffer);
      this.#errorReply(type, nbdErrnoOf[error.code], request, error.message);
    } else if (adopted) {
      if (buffer) this.#options.readBuffers.give(buffer);
      this.#replies.sharedData(request.offset, length, adopted, request.adoptedStart, request);
    } else if (buffer) {
      this.#replies.data(request.offset, length, buffer, request);
    } else {
      this.#replies.done(request);
    }
    this.#idle.push(request);
    if (!this.#receiving) this.#planFlush();
  }

  #planFlush(): void {
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    this.#clock.endOfTurn(this.#endOfTurn);
  }

  readonly #endOfTurn = (): void => {
    this.#flushPlanned = false;
    if (this.#state !== 'gone') this.#output.flush();
    this.#account();
    this.#sayDrained();
    this.#resumeIfRoom();
  };

  #sayDrained(): void {
    if (this.#drainedSaid || this.#state === 'open' || this.#inFlight > 0 || this.#receiving)
      return;
    this.#drainedSaid = true;
    if (this.#state === 'ending') this.#output.flush();
    this.#options.onDrained();
  }

  #skipPayload(length: number): void {
    this.#skipBytes = length;
    this.#requestBytes = length;
    if (length > this.#limits.skippedPayloadBytes) {
      const fields = { payloadBytes: length };
      this.#options.logger.warn(fields, 'NBD write far above the limit; connection closed');
      this.endAfterReplies();
    }
  }

  #refuse(header: RequestHeader, error: number, arrivedMs: number): void {
    const { type } = header;
    this.#exportStats.operation(type)?.record(this.#clock.monotonicMs() - arrivedMs, 0, true);
    this.#errorReply(type, error, header, '');
  }

  #status(header: RequestHeader, ids: readonly number[], length: number): void {
    this.#inFlight += 1;
    this.#exportStats.inFlight += 1;
    const isOne = (header.flags & commandFlag.reqOne) !== 0;
    const limit = isOne ? 1 : this.#limits.statusDescriptors;
    const asked = Math.min(length, this.#limits.statusBytes);
    const to = { ...header };
    this.#blockStatus.ask(ids, header.offset, asked, limit, (error, statuses) => {
      this.#inFlight -= 1;
      this.#exportStats.inFlight -= 1;
      if (this.#state === 'gone') {
        // nobody is there to be told
      } else if (error && this.#isLeftOpen(error)) {
        this.endAfterReplies();
      } else if (error) {
        this.#errorReply(command.blockStatus, nbdErrnoOf[error.code], to, error.message);
      } else {
        this.#replies.statuses(ids, statuses, to);
      }
      if (!this.#receiving) this.#planFlush();
    });
  }

  /**
   * Another connection may cure it, and the client has not said that it tries one by itself when it
   * hears of that. It gets no answer then, and the end of the connection says the same. A read-only
   * export that cannot be read for a while ends only when the server stops.
   */
  #isLeftOpen({ code }: StorError): boolean {
    const { sendsAgain, lease } = this.#options;
    if (sendsAgain || nbdErrnoOf[code] !== errno.ESHUTDOWN) return false;
    return this.#state !== 'open' || !lease.readOnly;
  }

  #errorReply(type: number, error: number, to: ReplyTarget, message: string): void {
    this.#options.stats.countError(error);
    this.#replies.error(type, error, to, message);
  }
}
