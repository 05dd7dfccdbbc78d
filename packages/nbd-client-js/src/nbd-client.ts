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
import {
  encodeStatusFilter,
  extendedHeaderBytes,
  requestHeaderBytes,
  writeExtendedRequest,
  writeRequest,
} from './core/transmission-codec.ts';
import { systemClock } from './nbd-clock.ts';
import type { NbdClock } from './nbd-clock.ts';
import { NbdError } from './nbd-error.ts';
import type { NbdStream } from './nbd-network.ts';
import { openNegotiated } from './nbd-socket.ts';
import type { NegotiatedSocket } from './nbd-socket.ts';
import { targetOf } from './nbd-options.ts';
import type {
  BlockStatusExtent,
  BlockStatusOptions,
  BlockStatusesOptions,
  NbdConnectOptions,
  ReadOptions,
  RequestOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './nbd-options.ts';
import type { NbdTarget } from './nbd-uri.ts';
import { OutstandingRequests } from './outstanding-requests.ts';
import type { OutstandingRequest, StatusExtent } from './outstanding-requests.ts';
import { checkRange, maxCompactBytes, needFlag, readTarget } from './request-rules.ts';
import {
  exportInfo,
  listExports,
  listMetaContexts,
  openOptionsOf,
  type ExportInfo,
} from './server-questions.ts';

/** Requests on the wire at once; more wait here. */
const defaultMaxInFlight = 64;
/** Requests that may wait; above it a request is refused with OVERLOADED. */
const maxWaiting = 65_536;
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
  /** requests and replies have 64-bit lengths */
  readonly extendedHeaders: boolean;
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
    this.structuredReplies = result.form !== 'simple';
    this.extendedHeaders = result.form === 'extended';
    this.#contextIds = result.metaContexts;
    this.metaContexts = [...result.metaContexts.keys()];
    this.#outstanding = new OutstandingRequests(result.form);
    const decoder = new ReplyDecoder(this.#outstanding, result.form);
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
        extendedHeaders: options.extendedHeaders ?? true,
        metaContexts: options.metaContexts ?? [allocationContext],
        listOnly: false,
      },
      openOptionsOf(options),
    );
    return new NbdClient(negotiated, target, options.clock ?? systemClock, maxInFlight);
  }

  /** Names of the exports of a server, over a connection of its own. Errors as `connect`. */
  static list(options: NbdConnectOptions): Promise<string[]> {
    return listExports(options);
  }

  /** Names of the metadata contexts of an export, over a connection of its own; see `listMetaContexts`. */
  static listMetaContexts(
    options: NbdConnectOptions,
    queries: readonly string[] = [],
  ): Promise<string[]> {
    return listMetaContexts(options, queries);
  }

  /** Facts of an export, which is not opened, over a connection of its own. Errors as `connect`. */
  static info(options: NbdConnectOptions): Promise<ExportInfo> {
    return exportInfo(options);
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
    const { address, tls } = this.#target;
    return NbdClient.list({ ...address, ...(tls ? { tls } : {}), ...options });
  }

  /**
   * Reads into `target` (of exactly `length` bytes) or a new buffer, and returns that. The target
   * must not be used otherwise until this has settled.
   */
  async read(
    offset: number,
    length: number,
    target?: Uint8Array,
    options: ReadOptions = {},
  ): Promise<Buffer> {
    if (options.df) needFlag(this.flags, transmissionFlag.sendDf, 'DF');
    checkRange(offset, length, this.blockSizes.maximum, this.sizeBytes);
    const bytes = readTarget(length, target);
    if (length === 0) return bytes;
    const flags = options.df ? commandFlag.df : 0;
    await this.#request(command.read, flags, offset, length, options, { target: bytes });
    return bytes;
  }

  /** `bytes` must stay unchanged until this has settled; see `RequestOptions` for aborts. */
  async write(offset: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    checkRange(offset, bytes.length, this.blockSizes.maximum, this.sizeBytes);
    const payload = this.extendedHeaders ? commandFlag.payloadLength : 0;
    const flags = (options.fua ? commandFlag.fua : 0) | payload;
    await this.#request(command.write, flags, offset, bytes.length, options, { payload: bytes });
  }

  /** Everything answered before, on any connection of a multi-conn server, is durable then. */
  async flush(options: RequestOptions = {}): Promise<void> {
    if ((this.flags & transmissionFlag.sendFlush) === 0) return;
    await this.#request(command.flush, 0, 0, 0, options, {});
  }

  /** Of any length: without extended headers one above 4 GiB is several requests in a row. */
  async trim(offset: number, length: number, options: WriteOptions = {}): Promise<void> {
    needFlag(this.flags, transmissionFlag.sendTrim, 'TRIM');
    const flags = options.fua ? commandFlag.fua : 0;
    await this.#effect(command.trim, flags, offset, length, options);
  }

  /** Of any length, as `trim`; of several requests in a row some may be done when one fails. */
  async writeZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions = {},
  ): Promise<void> {
    needFlag(this.flags, transmissionFlag.sendWriteZeroes, 'WRITE_ZEROES');
    if (options.fastZero) needFlag(this.flags, transmissionFlag.sendFastZero, 'FAST_ZERO');
    const flags =
      (options.fua ? commandFlag.fua : 0) |
      (options.noHole ? commandFlag.noHole : 0) |
      (options.fastZero ? commandFlag.fastZero : 0);
    await this.#effect(command.writeZeroes, flags, offset, length, options);
  }

  /** Says that the range will be read soon: a hint, which may do nothing. */
  async cache(offset: number, length: number, options: RequestOptions = {}): Promise<void> {
    checkRange(offset, length, Infinity, this.sizeBytes);
    if ((this.flags & transmissionFlag.sendCache) === 0) return;
    await this.#effect(command.cache, 0, offset, length, options);
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
    const { context = allocationContext, ...rest } = options;
    const statuses = await this.blockStatuses(offset, length, { ...rest, contexts: [context] });
    return (statuses.get(context) ?? []).map((extent) => ({
      ...extent,
      hole: (extent.flags & allocationState.hole) !== 0,
      zero: (extent.flags & allocationState.zero) !== 0,
    }));
  }

  /**
   * As `blockStatus`, in several contexts by their names, with one request: in all that the server
   * granted unless `contexts` says which. The answer may end earlier in one context than in another.
   * Empty without any context.
   */
  async blockStatuses(
    offset: number,
    length: number,
    options: BlockStatusesOptions = {},
  ): Promise<Map<string, StatusExtent[]>> {
    const asked = new Map<string, number>();
    for (const context of options.contexts ?? this.metaContexts) {
      const id = this.#contextIds.get(context);
      if (id === undefined) {
        throw new NbdError('INVALID_ARGUMENT', `the server has no metadata context ${context}`);
      }
      asked.set(context, id);
    }
    checkRange(offset, length, Infinity, this.sizeBytes);
    const answer = new Map<string, StatusExtent[]>();
    if (asked.size === 0) return answer;
    const statuses =
      length === 0 ? null : await this.#askStatus(offset, length, [...asked.values()], options);
    for (const [context, id] of asked) {
      const extents = statuses ? statuses.get(id) : [];
      if (!extents) throw new NbdError('PROTOCOL', `the server left out context ${context}`);
      answer.set(context, extents);
    }
    return answer;
  }

  async #askStatus(
    offset: number,
    length: number,
    ids: number[],
    options: BlockStatusesOptions,
  ): Promise<Map<number, StatusExtent[]>> {
    const statuses = new Map<number, StatusExtent[]>();
    const { signal } = options;
    let flags = options.reqOne ? commandFlag.reqOne : 0;
    let payload: Buffer | null = null;
    const asked = this.extendedHeaders ? length : Math.min(length, maxCompactBytes);
    const canFilter = (this.flags & transmissionFlag.blockStatusPayload) !== 0;
    if (canFilter && this.extendedHeaders && ids.length < this.#contextIds.size) {
      flags |= commandFlag.payloadLength;
      payload = encodeStatusFilter({ length, ids });
    }
    const contextIds = payload ? ids : [...this.#contextIds.values()];
    await this.#request(
      command.blockStatus,
      flags,
      offset,
      asked,
      { signal },
      {
        statuses,
        contextIds,
        payload,
      },
    );
    return statuses;
  }

  /** A request without data in either direction. */
  async #effect(
    type: number,
    flags: number,
    offset: number,
    length: number,
    { signal }: RequestOptions,
  ): Promise<void> {
    checkRange(offset, length, Infinity, this.sizeBytes);
    const most = this.extendedHeaders ? Infinity : maxCompactBytes;
    let done = 0;
    do {
      const part = Math.min(length - done, most);
      await this.#request(type, flags, offset + done, part, { signal }, {});
      done += part;
    } while (done < length);
  }

  /** Lets outstanding requests finish, says goodbye, and waits for the end. Works twice. */
  async disconnect(): Promise<void> {
    if (!this.#leaving) {
      this.#leaving = true;
      if (this.#outstanding.count + this.#waiting.length > 0) {
        await new Promise<void>((resolve) => this.#idle.push(resolve));
      }
      if (!this.#failure) {
        this.#socket.write(this.#header(command.disconnect, 0, 0, 0, 0));
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
      payload?: Uint8Array | null;
      contextIds?: readonly number[];
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
        df: (flags & commandFlag.df) !== 0,
        errno: 0,
        message: '',
        errorOffset: null,
        contextIds: extra.contextIds ?? [],
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
    const hasPayload = (flags & commandFlag.payloadLength) !== 0;
    const length = hasPayload ? (payload?.length ?? 0) : request.length;
    const header = this.#header(request.type, flags, cookie, request.offset, length);
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

  #header(type: number, flags: number, cookie: number, offset: number, length: number): Buffer {
    const cookieHigh = Math.floor(cookie / 2 ** 32);
    const fields = { flags, type, cookieHigh, cookieLow: cookie >>> 0, offset, length };
    const bytes = Buffer.allocUnsafe(
      this.extendedHeaders ? extendedHeaderBytes : requestHeaderBytes,
    );
    if (this.extendedHeaders) writeExtendedRequest(bytes, 0, fields);
    else writeRequest(bytes, 0, fields);
    return bytes;
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
