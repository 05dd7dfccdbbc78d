import {
  allocationContext,
  allocationState,
  command,
  commandFlag,
  transmissionFlag,
} from './core/constants.ts';
import type { BlockSizes } from './core/client-handshake.ts';
import { Coverage } from './core/coverage.ts';
import { ReplyDecoder } from './core/reply-decoder.ts';
import { requestHeaderBytes, writeRequest } from './core/transmission-codec.ts';
import { systemClock } from './nbd-clock.ts';
import type { NbdClock } from './nbd-clock.ts';
import { NbdError } from './nbd-error.ts';
import { systemNetwork } from './nbd-network.ts';
import type { NbdStream } from './nbd-network.ts';
import { openNegotiated } from './nbd-socket.ts';
import type { NegotiatedSocket, OpenOptions } from './nbd-socket.ts';
import { targetOf } from './nbd-options.ts';
import type {
  BlockStatusExtent,
  BlockStatusOptions,
  NbdConnectOptions,
  RequestOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './nbd-options.ts';
import type { NbdTarget } from './nbd-uri.ts';
import { OutstandingRequests } from './outstanding-requests.ts';
import type { OutstandingRequest, StatusExtent } from './outstanding-requests.ts';
import { checkRange, maxRangeBytes, needFlag, readTarget } from './request-rules.ts';

const defaultConnectTimeoutMs = 30_000;
/** Requests on the wire at once; more wait here. */
const defaultMaxInFlight = 64;
/** Requests that may wait; above it a request is refused with OVERLOADED. */
const maxWaiting = 65_536;
/** Bytes that one BLOCK_STATUS asks about: the largest 32-bit length of whole 4 KiB blocks. */
const maxStatusBytes = 2 ** 32 - 4096;
/** How long `disconnect` waits for the server to close (ms). */
const disconnectTimeoutMs = 5_000;

interface Waiting {
  send(): void;
  fail(error: NbdError): void;
}

/**
 * A connection to one export. Requests may be issued without waiting for each other; they are
 * answered in any order. When the connection breaks every outstanding one rejects with
 * DISCONNECTED: the server may or may not have done it.
 */
export class NbdClient {
  readonly sizeBytes: number;
  /** `transmissionFlag` bits of the server */
  readonly flags: number;
  readonly blockSizes: Readonly<BlockSizes>;
  readonly structuredReplies: boolean;
  /** names of the contexts that the server granted */
  readonly metaContexts: readonly string[];

  readonly #target: NbdTarget;
  readonly #socket: NbdStream;
  readonly #clock: NbdClock;
  readonly #outstanding: OutstandingRequests;
  readonly #contextIds: Map<string, number>;
  readonly #maxInFlight: number;
  /** Resolves when the connection is over, whoever ended it. */
  readonly closed: Promise<void>;
  #waiting: Waiting[] = [];
  #nextCookie = 1;
  #corked = false;
  #failure: NbdError | null = null;
  #leaving = false;
  #receivedBytes = 0;
  #idle: (() => void)[] = [];

  private constructor(
    negotiated: NegotiatedSocket,
    target: NbdTarget,
    clock: NbdClock,
    maxInFlight: number,
  ) {
    const { result } = negotiated;
    this.#target = target;
    this.#socket = negotiated.socket;
    this.#clock = clock;
    this.#maxInFlight = maxInFlight;
    this.sizeBytes = result.sizeBytes;
    this.flags = result.flags;
    this.blockSizes = result.blockSizes;
    this.structuredReplies = result.structuredReplies;
    this.#contextIds = result.metaContexts;
    this.metaContexts = [...result.metaContexts.keys()];
    this.#outstanding = new OutstandingRequests(result.structuredReplies);
    const decoder = new ReplyDecoder(this.#outstanding, result.structuredReplies);
    negotiated.onBytes = (bytes, start, end) => {
      this.#receivedBytes += end - start;
      decoder.receive(bytes, start, end);
    };
    this.closed = new Promise((resolve) => {
      negotiated.onClose = (error) => {
        this.#fail(error);
        resolve();
      };
    });
  }

  /** Errors: INVALID_ARGUMENT, DISCONNECTED, TIMEOUT, ABORTED, REFUSED, PROTOCOL. */
  static async connect(options: NbdConnectOptions): Promise<NbdClient> {
    const target = targetOf(options);
    const maxInFlight = options.maxInFlight ?? defaultMaxInFlight;
    if (!Number.isSafeInteger(maxInFlight) || maxInFlight < 1) {
      throw new NbdError('INVALID_ARGUMENT', `maxInFlight ${maxInFlight} is not a positive number`);
    }
    const negotiated = await openNegotiated(
      target.address,
      {
        exportName: target.exportName,
        structuredReplies: options.structuredReplies ?? true,
        metaContexts: options.metaContexts ?? [allocationContext],
        listOnly: false,
      },
      openOptionsOf(options),
    );
    return new NbdClient(negotiated, target, options.clock ?? systemClock, maxInFlight);
  }

  /** Names of the exports of a server, over a connection of its own. Errors as `connect`. */
  static async list(options: NbdConnectOptions): Promise<string[]> {
    const negotiated = await openNegotiated(
      targetOf(options).address,
      { exportName: '', structuredReplies: false, metaContexts: [], listOnly: true },
      openOptionsOf(options),
    );
    negotiated.socket.end();
    return negotiated.result.exportNames;
  }

  /**
   * Names of the metadata contexts that an export offers, over a connection of its own: those that
   * match a query (a name, or a namespace with its colon), all of them without one. Errors as
   * `connect`; REFUSED also when the server has no structured replies.
   */
  static async listMetaContexts(
    options: NbdConnectOptions,
    queries: readonly string[] = [],
  ): Promise<string[]> {
    const target = targetOf(options);
    const negotiated = await openNegotiated(
      target.address,
      {
        exportName: target.exportName,
        structuredReplies: true,
        metaContexts: queries,
        listOnly: false,
        listContexts: true,
      },
      openOptionsOf(options),
    );
    negotiated.socket.end();
    return [...negotiated.result.metaContexts.keys()];
  }

  get exportName(): string {
    return this.#target.exportName;
  }

  /** Bytes that the server has sent since the handshake: while it grows, the server is there. */
  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  /** Names of the exports of this server; needs a second connection. */
  list(options: { signal?: AbortSignal } = {}): Promise<string[]> {
    const { address } = this.#target;
    return NbdClient.list({ ...address, ...options });
  }

  /**
   * Reads into `target` (of exactly `length` bytes) or a new buffer, and returns that. The target
   * must not be used otherwise until this has settled.
   */
  async read(
    offset: number,
    length: number,
    target?: Uint8Array,
    options: RequestOptions = {},
  ): Promise<Buffer> {
    checkRange(offset, length, this.blockSizes.maximum, this.sizeBytes);
    const bytes = readTarget(length, target);
    if (length === 0) return bytes;
    await this.#request(command.read, 0, offset, length, options, { target: bytes });
    return bytes;
  }

  /** `bytes` must stay unchanged until this has settled; see `RequestOptions` for aborts. */
  async write(offset: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    checkRange(offset, bytes.length, this.blockSizes.maximum, this.sizeBytes);
    const flags = options.fua ? commandFlag.fua : 0;
    await this.#request(command.write, flags, offset, bytes.length, options, { payload: bytes });
  }

  /** Everything answered before, on any connection of a multi-conn server, is durable then. */
  async flush(options: RequestOptions = {}): Promise<void> {
    if ((this.flags & transmissionFlag.sendFlush) === 0) return;
    await this.#request(command.flush, 0, 0, 0, options, {});
  }

  async trim(offset: number, length: number, options: WriteOptions = {}): Promise<void> {
    needFlag(this.flags, transmissionFlag.sendTrim, 'TRIM');
    checkRange(offset, length, maxRangeBytes, this.sizeBytes);
    const flags = options.fua ? commandFlag.fua : 0;
    await this.#request(command.trim, flags, offset, length, options, {});
  }

  async writeZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions = {},
  ): Promise<void> {
    needFlag(this.flags, transmissionFlag.sendWriteZeroes, 'WRITE_ZEROES');
    checkRange(offset, length, maxRangeBytes, this.sizeBytes);
    const flags = (options.fua ? commandFlag.fua : 0) | (options.noHole ? commandFlag.noHole : 0);
    await this.#request(command.writeZeroes, flags, offset, length, options, {});
  }

  /**
   * Extents from `offset` on, in order; a server may stop before `offset + length`, so go on from
   * the end of the last one. INVALID_ARGUMENT when the server did not grant the context.
   */
  async blockStatus(
    offset: number,
    length: number,
    options: BlockStatusOptions = {},
  ): Promise<BlockStatusExtent[]> {
    const context = options.context ?? allocationContext;
    const id = this.#contextIds.get(context);
    if (id === undefined) {
      throw new NbdError('INVALID_ARGUMENT', `the server has no metadata context ${context}`);
    }
    checkRange(offset, length, Infinity, this.sizeBytes);
    if (length === 0) return [];
    const statuses = await this.#askStatus(offset, length, options);
    const extents = statuses.get(id);
    if (!extents) throw new NbdError('PROTOCOL', `the server left out context ${context}`);
    return extents.map((extent) => ({
      ...extent,
      hole: (extent.flags & allocationState.hole) !== 0,
      zero: (extent.flags & allocationState.zero) !== 0,
    }));
  }

  /**
   * As `blockStatus`, in every context that the server granted, by its name and with one request.
   * The answer may end earlier in one context than in another. Empty without any context.
   */
  async blockStatuses(
    offset: number,
    length: number,
    options: Omit<BlockStatusOptions, 'context'> = {},
  ): Promise<Map<string, StatusExtent[]>> {
    checkRange(offset, length, Infinity, this.sizeBytes);
    const answer = new Map<string, StatusExtent[]>();
    if (this.#contextIds.size === 0) return answer;
    const statuses = length === 0 ? null : await this.#askStatus(offset, length, options);
    for (const [context, id] of this.#contextIds) {
      const extents = statuses ? statuses.get(id) : [];
      if (!extents) throw new NbdError('PROTOCOL', `the server left out context ${context}`);
      answer.set(context, extents);
    }
    return answer;
  }

  async #askStatus(
    offset: number,
    length: number,
    options: Omit<BlockStatusOptions, 'context'>,
  ): Promise<Map<number, StatusExtent[]>> {
    const statuses = new Map<number, StatusExtent[]>();
    const flags = options.reqOne ? commandFlag.reqOne : 0;
    const asked = Math.min(length, maxStatusBytes);
    await this.#request(command.blockStatus, flags, offset, asked, options, { statuses });
    return statuses;
  }

  /** Lets outstanding requests finish, says goodbye, and waits for the end. Works twice. */
  async disconnect(): Promise<void> {
    if (!this.#leaving) {
      this.#leaving = true;
      if (this.#outstanding.count + this.#waiting.length > 0) {
        await new Promise<void>((resolve) => this.#idle.push(resolve));
      }
      if (!this.#failure) {
        const bytes = Buffer.alloc(requestHeaderBytes);
        this.#writeHeader(bytes, command.disconnect, 0, 0, 0, 0);
        this.#socket.write(bytes);
        this.#socket.end();
      }
    }
    const cancel = this.#clock.after(disconnectTimeoutMs, () => {
      this.#socket.destroy();
    });
    await this.closed;
    cancel();
  }

  /** Ends at once; outstanding requests reject with DISCONNECTED. Works twice. */
  async close(): Promise<void> {
    this.#leaving = true;
    this.#fail(new NbdError('DISCONNECTED', 'the connection was closed here'));
    this.#socket.destroy();
    await this.closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    options: RequestOptions,
    extra: {
      target?: Buffer;
      payload?: Uint8Array;
      statuses?: Map<number, StatusExtent[]>;
    },
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const { signal } = options;
      if (this.#failure) {
        reject(this.#failure);
        return;
      }
      if (this.#leaving) {
        reject(new NbdError('DISCONNECTED', 'the connection is being closed'));
        return;
      }
      let waiting: Waiting | null = null;
      const aborted = (): NbdError =>
        new NbdError('ABORTED', 'the request was aborted', { cause: signal?.reason });
      const request: OutstandingRequest = {
        type,
        offset,
        length,
        target: extra.target ?? null,
        coverage: type === command.read ? new Coverage() : null,
        errno: 0,
        message: '',
        statuses: extra.statuses ?? null,
        settle: (error) => {
          signal?.removeEventListener('abort', onAbort);
          if (error) reject(error);
          else resolve();
          this.#oneDone();
        },
      };
      const onAbort = (): void => {
        // what has been sent stays outstanding until it is answered, but nobody waits for it
        request.target = null;
        const at = waiting ? this.#waiting.indexOf(waiting) : -1;
        if (at >= 0) {
          this.#waiting.splice(at, 1);
          this.#checkIdle();
        }
        reject(aborted());
      };
      if (signal?.aborted) {
        reject(aborted());
        return;
      }
      const send = (): void => {
        this.#send(request, flags, extra.payload ?? null);
      };
      if (this.#outstanding.count < this.#maxInFlight) send();
      else if (this.#waiting.length >= maxWaiting) {
        reject(new NbdError('OVERLOADED', `${maxWaiting} requests wait already`));
        return;
      } else {
        waiting = { send, fail: (error) => request.settle(error) };
        this.#waiting.push(waiting);
      }
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  #send(request: OutstandingRequest, flags: number, payload: Uint8Array | null): void {
    const cookie = this.#nextCookie++;
    this.#outstanding.add(cookie, request);
    const header = Buffer.allocUnsafe(requestHeaderBytes);
    this.#writeHeader(header, request.type, flags, cookie, request.offset, request.length);
    if (!this.#corked) {
      // requests of one turn leave in one system call
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#socket.write(header);
    if (payload && payload.length > 0) this.#socket.write(payload);
  }

  #writeHeader(
    bytes: Buffer,
    type: number,
    flags: number,
    cookie: number,
    offset: number,
    length: number,
  ): void {
    const cookieHigh = Math.floor(cookie / 2 ** 32);
    writeRequest(bytes, 0, { flags, type, cookieHigh, cookieLow: cookie >>> 0, offset, length });
  }

  #oneDone(): void {
    if (this.#failure) return;
    while (this.#outstanding.count < this.#maxInFlight) {
      const next = this.#waiting.shift();
      if (!next) break;
      next.send();
    }
    this.#checkIdle();
  }

  #checkIdle(): void {
    if (this.#outstanding.count + this.#waiting.length > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #fail(error: NbdError): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#outstanding.failAll(error);
    for (const waiting of this.#waiting.splice(0)) waiting.fail(error);
    this.#checkIdle();
  }
}

function openOptionsOf(options: NbdConnectOptions): OpenOptions {
  return {
    network: options.network ?? systemNetwork,
    clock: options.clock ?? systemClock,
    signal: options.signal,
    connectTimeoutMs: options.connectTimeoutMs ?? defaultConnectTimeoutMs,
    greetingTimeoutMs: options.greetingTimeoutMs,
  };
}
