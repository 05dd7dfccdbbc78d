import { StorError, type ErrorCode } from '@stor/protocol';
import type { BlockDevice, BlockRequest, DirtyDone, DirtyExtent, Extent } from '@stor/replicator';
import type { Clock, Network, SocketTarget } from '@stor/runtime';
import {
  NbdClient,
  NbdError,
  RequestOrder,
  allocationContext,
  transmissionFlag,
  errno,
  formatClientContext,
  optionReplyType,
  probeServer,
  type BlockStatusExtent,
  type ClientIdentity,
  type NbdTlsOptions,
  type OrderedRequest,
} from 'nbd-client-js';
import { dirtyContext, dirtyState } from '../core/nbd/meta-contexts.ts';
import { KeptRequest } from './kept-request.ts';

/** Requests of one connection on the wire to the primary: what one connection may have in flight. */
const maxInFlight = 256;
/** A node that lives greets at once; one that is gone never does (ms). */
const greetingTimeoutMs = 1_500;
/** The other node may have to fence, to wait out leases and to settle before it serves (ms). */
const grantTimeoutMs = 30_000;
/** When requests are out and no byte comes for so long, the other node is probed (ms). */
const silenceMs = 1_500;

/** What relays of a lane have carried, since it started. */
export interface RelayStats {
  connections: number;
  readBytes: number;
  writtenBytes: number;
}

/** Why a relay ended: the other side closed it in order, or nobody answers there. */
export type RelayEnd = 'closed' | 'silent';

export interface RelayOptions {
  address: SocketTarget;
  /** name of the export at the other node */
  exportName: string;
  identity: ClientIdentity;
  /** names of the snapshots that changes may be asked since */
  snapshots: readonly string[];
  network: Network;
  clock: Clock;
  stats: RelayStats;
  /** false: the other side lives as long as this one, and is not probed @default true */
  isWatched?: boolean;
  /** how this node proves to another who it is; null: nodes speak in the clear */
  tls: NbdTlsOptions | null;
  signal: AbortSignal;
}

/**
 * A volume whose primary is another node, for one connection of a client of this one: its requests
 * go on to that node over NBD. When that connection ends, what was not answered is given back, to be
 * started on the next device, and nothing of it comes later: the primary ends an older connection of
 * a client before it serves a newer one.
 *
 * As in `ReconnectingNbdClient`, a request that overlaps an older one which is not answered waits for
 * it, unless both only read. So what is started again never lands on top of something newer.
 */
export class RelayDevice implements BlockDevice {
  readonly sizeBytes: number;
  /** the primary takes no changes from it */
  readonly isReadOnly: boolean;
  readonly #client: NbdClient;
  readonly #options: RelayOptions;
  readonly #order = new RequestOrder<KeptRequest>();
  readonly #stop = new AbortController();
  #onLost: (end: RelayEnd, unanswered: KeptRequest[]) => void = () => {};
  #ending: Promise<void> | null = null;
  #running = 0;
  #whenStill: (() => void) | null = null;
  #cancelWatch: (() => void) | null = null;

  private constructor(client: NbdClient, options: RelayOptions) {
    this.#client = client;
    this.#options = options;
    this.sizeBytes = client.sizeBytes;
    this.isReadOnly = (client.flags & transmissionFlag.readOnly) !== 0;
    options.stats.connections += 1;
    // an idle connection that ends is found out at once, so that the volume stays in use
    void client.closed.then(() => this.#end('closed'));
  }

  /**
   * UNAVAILABLE: nobody there, or not now (details: answered = yes). ATTACHED_ELSEWHERE: that node may not serve it. NOT_FOUND:
   * it must not be asked again, with the reason in the message. ABORTED.
   */
  static async connect(options: RelayOptions): Promise<RelayDevice> {
    try {
      const client = await NbdClient.connect({
        ...options.address,
        exportName: options.exportName,
        metaContexts: [
          allocationContext,
          ...options.snapshots.map(dirtyContext),
          formatClientContext(options.identity),
        ],
        greetingTimeoutMs,
        connectTimeoutMs: grantTimeoutMs,
        maxInFlight,
        network: options.network,
        clock: options.clock,
        signal: options.signal,
        ...(options.tls ? { tls: options.tls } : {}),
      });
      return new RelayDevice(client, options);
    } catch (error) {
      throw connectError(error);
    }
  }

  /** Called once when the connection is over, with what was not answered in the order of arrival. */
  onLost(listener: (end: RelayEnd, unanswered: KeptRequest[]) => void): void {
    this.#onLost = listener;
  }

  readInline(): boolean {
    return false;
  }
  read(request: BlockRequest): void {
    this.#add(KeptRequest.of('read', request), false);
  }
  write(request: BlockRequest): void {
    this.#add(KeptRequest.of('write', request), true);
  }
  writeZeroes(request: BlockRequest): void {
    this.#add(KeptRequest.of('writeZeroes', request), true);
  }
  trim(request: BlockRequest): void {
    this.#add(KeptRequest.of('trim', request), true);
  }
  flush(request: BlockRequest): void {
    this.#add(KeptRequest.of('flush', request), false);
  }
  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    void this.#askStatus(offset, length, { limit, context: allocationContext }).then((answer) => {
      if (answer instanceof StorError) done(answer, []);
      else done(null, answer.map(allocatedExtent));
    });
  }

  /** See NbdExportLease.changedSince. */
  changedSince(
    snapshot: string,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void {
    const context = dirtyContext(snapshot);
    void this.#askStatus(offset, length, { limit, context }).then((answer) => {
      if (answer instanceof StorError) done(answer, []);
      else done(null, answer.map(dirtyExtent));
    });
  }

  /** Never rejects; an error that comes with the end of the connection comes after it. */
  async #askStatus(
    offset: number,
    length: number,
    { limit, context }: { limit: number; context: string },
  ): Promise<BlockStatusExtent[] | StorError> {
    this.#running += 1;
    this.#watch();
    try {
      const options = { reqOne: limit === 1, context };
      const extents = await this.#client.blockStatus(offset, length, options);
      this.#oneDone();
      return clip(extents, offset + length).slice(0, limit);
    } catch (thrown) {
      this.#oneDone();
      if (isLost(thrown)) await this.#end('closed');
      return requestError(thrown);
    }
  }

  /** Ends at once: `onLost` is called with what was not answered. Works twice. */
  close(): Promise<void> {
    return this.#end('closed');
  }

  #add(request: KeptRequest, mutates: boolean): void {
    const end = request.offset + request.length;
    this.#order.add(request, request.offset, request.kind === 'flush' ? 0 : end, mutates);
    this.#pump();
  }

  #pump(): void {
    while (!this.#ending) {
      const next = this.#order.takeReady();
      if (!next) break;
      void this.#send(next);
    }
    this.#watch();
  }

  /** Never rejects. */
  async #send(ordered: OrderedRequest<KeptRequest>): Promise<void> {
    const request = ordered.value;
    this.#running += 1;
    let error: StorError | null = null;
    let lost = false;
    try {
      await this.#perform(request);
    } catch (thrown) {
      lost = isLost(thrown);
      error = requestError(thrown);
    }
    // not answered: it stays in the order, to be given back
    if (lost) void this.#end('closed');
    else {
      this.#order.finish(ordered);
      request.done(error);
    }
    this.#oneDone();
    this.#pump();
  }

  #perform(request: KeptRequest): Promise<unknown> {
    const { offset, length, fua, noHole } = request;
    const { stats } = this.#options;
    switch (request.kind) {
      case 'read':
        stats.readBytes += length;
        return this.#client.read(offset, length, request.payload);
      case 'write':
        stats.writtenBytes += length;
        return this.#client.write(offset, request.payload, { fua });
      case 'writeZeroes':
        return this.#client.writeZeroes(offset, length, { fua, noHole });
      case 'trim':
        return this.#client.trim(offset, length, { fua });
      case 'flush':
        return this.#client.flush();
    }
  }

  #oneDone(): void {
    this.#running -= 1;
    if (this.#running === 0) this.#whenStill?.();
  }

  #end(end: RelayEnd): Promise<void> {
    this.#ending ??= this.#endOnce(end);
    return this.#ending;
  }

  async #endOnce(end: RelayEnd): Promise<void> {
    this.#stop.abort();
    this.#cancelWatch?.();
    await this.#client.close();
    // every outcome of the connection is known before anything is given back
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#whenStill = resolve));
    this.#options.stats.connections -= 1;
    this.#onLost(
      end,
      this.#order.unanswered().map(({ value }) => value),
    );
  }

  /** While requests are out: finds a node that is gone without a word. */
  #watch(): void {
    if (this.#cancelWatch || this.#ending || this.#running === 0) return;
    if (this.#options.isWatched === false) return;
    const seenBytes = this.#client.receivedBytes;
    this.#cancelWatch = this.#options.clock.after(silenceMs, () => {
      void this.#look(seenBytes);
    });
  }

  /** Never rejects. */
  async #look(seenBytes: number): Promise<void> {
    const isSilent = (): boolean => this.#client.receivedBytes === seenBytes && this.#running > 0;
    if (isSilent()) {
      const { address, clock, network } = this.#options;
      const { signal } = this.#stop;
      const probe = { timeoutMs: greetingTimeoutMs, clock, network, signal };
      const isAlive = await probeServer(address, probe);
      if (!isAlive && isSilent()) void this.#end('silent');
    }
    this.#cancelWatch = null;
    this.#watch();
  }
}

/** True when the request may or may not have been done, and another device may do it. */
function isLost(error: unknown): boolean {
  if (!(error instanceof NbdError)) return true;
  if (error.code === 'IO') return error.errno === errno.ESHUTDOWN;
  return error.code !== 'INVALID_ARGUMENT';
}

/** The reverse of `nbdErrnoOf`: what the primary answered is what this node's client gets. */
const codeOf = new Map<number, ErrorCode>([
  [errno.EPERM, 'PERMISSION_DENIED'],
  [errno.EINVAL, 'INVALID_ARGUMENT'],
  [errno.ENOSPC, 'NO_SPACE'],
  [errno.ESHUTDOWN, 'UNAVAILABLE'],
]);

function requestError(error: unknown): StorError {
  if (!(error instanceof NbdError)) return StorError.from(error);
  const isRefused = error.code === 'INVALID_ARGUMENT';
  const code = error.code === 'IO' ? (codeOf.get(error.errno) ?? 'INTERNAL') : 'UNAVAILABLE';
  return new StorError(isRefused ? 'INVALID_ARGUMENT' : code, error.message, { cause: error });
}

function connectError(error: unknown): StorError {
  if (!(error instanceof NbdError)) return StorError.from(error);
  const { code, optionReply, message } = error;
  const options = { cause: error };
  if (code === 'ABORTED') return new StorError('ABORTED', message, options);
  if (code !== 'REFUSED') return new StorError('UNAVAILABLE', message, options);
  if (optionReply === optionReplyType.errUnknown) {
    return new StorError('NOT_FOUND', message, options);
  }
  const isForNow = optionReply === optionReplyType.errShutdown;
  const details = { answered: 'yes' };
  const answer = isForNow ? 'UNAVAILABLE' : 'ATTACHED_ELSEWHERE';
  return new StorError(answer, message, { ...options, details });
}

function clip(extents: BlockStatusExtent[], end: number): BlockStatusExtent[] {
  return extents
    .filter(({ offset }) => offset < end)
    .map((extent) => ({ ...extent, length: Math.min(extent.length, end - extent.offset) }));
}

function allocatedExtent({ offset, length, hole, zero }: BlockStatusExtent): Extent {
  return { offset, length, allocated: !(hole && zero) };
}

function dirtyExtent({ offset, length, flags }: BlockStatusExtent): DirtyExtent {
  return { offset, length, dirty: (flags & dirtyState.dirty) !== 0 };
}
