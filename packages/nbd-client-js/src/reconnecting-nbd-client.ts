import type { BlockSizes } from './core/client-handshake.ts';
import { allocationContext, transmissionFlag } from './core/constants.ts';
import { ExportConnector } from './export-connector.ts';
import type { NbdClient } from './nbd-client.ts';
import { systemClock } from './nbd-clock.ts';
import type { NbdClock } from './nbd-clock.ts';
import { systemNetwork } from './nbd-network.ts';
import type { NbdNetwork } from './nbd-network.ts';
import { NbdError } from './nbd-error.ts';
import type { StatusExtent } from './outstanding-requests.ts';
import { targetOf } from './nbd-options.ts';
import type {
  BlockStatusExtent,
  BlockStatusOptions,
  BlockStatusesOptions,
  ReadOptions,
  RequestOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './nbd-options.ts';
import type { NbdTarget } from './nbd-uri.ts';
import { completeLimits } from './reconnect-limits.ts';
import type { NbdTlsOptions } from './tls-options.ts';
import type { ReconnectLimits } from './reconnect-limits.ts';
import { ReconnectingSession } from './reconnecting-session.ts';
import { checkRange, needFlag, readTarget } from './request-rules.ts';

/** Addresses that one client takes; a round of tries is bounded by it. */
const maxAddresses = 256;

/** A URI, or host and port, or the path of a UNIX socket. */
export type ExportAddress = string | { host: string; port: number } | { path: string };

export interface ReconnectingOptions extends Partial<ReconnectLimits> {
  /** tried in this order; all of one export */
  addresses: readonly ExportAddress[];
  /** taken from the URIs unless given */
  exportName?: string;
  /** of all addresses; the URIs' unless given */
  tls?: NbdTlsOptions;
  structuredReplies?: boolean;
  /** as of `NbdClient` */
  extendedHeaders?: boolean;
  metaContexts?: readonly string[];
  /**
   * Takes an export that does not say CAN_MULTI_CONN. Only when its FLUSH makes durable what was
   * answered on earlier connections: otherwise a reconnect loses writes.
   */
  assumeSharedFlush?: boolean;
  /**
   * Whether a refusal (REFUSED) of one server ends everything, as when the name was a right that has
   * ended and is never given again. Else a refusal may pass, once there was a connection.
   */
  isFinal?: (refusal: NbdError) => boolean;
  clock?: NbdClock;
  network?: NbdNetwork;
  /** 0 <= chance() < 1; spreads the pauses, and names this client to servers: never the same row twice */
  chance?: () => number;
  /** aborts connecting */
  signal?: AbortSignal;
}

/**
 * One export behind several addresses. When the connection breaks, or a server answers ESHUTDOWN,
 * it connects again to any of them and sends again what was not answered; requests made meanwhile
 * wait. The README says what is assumed of the servers.
 *
 * A request that overlaps an older one which is not answered waits for it, unless both only read: so
 * a write that is sent again never lands on top of a newer one. Requests reject with DISCONNECTED
 * when no server grants the export for `giveUpMs`, with PROTOCOL when the export is not the same any
 * more, with REFUSED when no server knows it; after these every request does.
 */
export class ReconnectingNbdClient {
  readonly exportName: string;
  readonly sizeBytes: number;
  /** `transmissionFlag` bits of the server */
  readonly flags: number;
  readonly blockSizes: Readonly<BlockSizes>;
  /** names of the contexts that the server granted */
  readonly metaContexts: readonly string[];
  readonly #session: ReconnectingSession;
  readonly #tls: NbdTlsOptions | undefined;

  private constructor(
    session: ReconnectingSession,
    client: NbdClient,
    { tls }: ReconnectingOptions,
  ) {
    this.#session = session;
    this.#tls = tls;
    this.exportName = client.exportName;
    this.sizeBytes = client.sizeBytes;
    this.flags = client.flags;
    this.blockSizes = client.blockSizes;
    this.metaContexts = client.metaContexts;
  }

  /** Errors: INVALID_ARGUMENT, REFUSED, DISCONNECTED (with what each address said), ABORTED. */
  static async connect(options: ReconnectingOptions): Promise<ReconnectingNbdClient> {
    const targets = targetsOf(options);
    const limits = completeLimits(options);
    const clock = options.clock ?? systemClock;
    const network = options.network ?? systemNetwork;
    const chance = options.chance ?? Math.random;
    const connector = new ExportConnector({
      targets,
      structuredReplies: options.structuredReplies ?? true,
      extendedHeaders: options.extendedHeaders ?? true,
      metaContexts: options.metaContexts ?? [allocationContext],
      limits,
      clock,
      network,
      chance,
      clientId: randomId(chance),
      isFinal: options.isFinal ?? (() => false),
    });
    const granted = await connector.connect({
      isFirst: true,
      failures: 0,
      leftMs: limits.firstGiveUpMs,
      signal: options.signal ?? new AbortController().signal,
    });
    const { client } = granted;
    const { readOnly, canMultiConn } = transmissionFlag;
    const isSafe = (client.flags & (readOnly | canMultiConn)) !== 0;
    if (!isSafe && options.assumeSharedFlush !== true) {
      await client.close();
      const text = `export ${JSON.stringify(client.exportName)} does not say CAN_MULTI_CONN: its FLUSH may leave out what an earlier connection wrote`;
      throw new NbdError('INVALID_ARGUMENT', text);
    }
    const session = new ReconnectingSession(connector, granted, limits, { clock, network });
    return new ReconnectingNbdClient(session, client, options);
  }

  /** `host:port` or path of the server that has the connection; null while there is none. */
  get address(): string | null {
    return this.#session.address;
  }

  /**
   * Where to connect from the next try on; a connection that there is stays. Throws INVALID_ARGUMENT,
   * as for addresses of another export.
   */
  setAddresses(addresses: readonly ExportAddress[]): void {
    const { exportName } = this;
    const tls = this.#tls ? { tls: this.#tls } : {};
    this.#session.setTargets(targetsOf({ addresses, exportName, ...tls }));
  }

  /** As `NbdClient.read`. */
  async read(
    offset: number,
    length: number,
    target?: Uint8Array,
    options: ReadOptions = {},
  ): Promise<Buffer> {
    if (options.df) needFlag(this.flags, transmissionFlag.sendDf, 'DF');
    checkRange(offset, length, this.blockSizes.maximum, this.sizeBytes);
    const { signal, df = false } = options;
    if (target) readTarget(length, target);
    return this.#session.submit(
      {
        start: offset,
        end: offset + length,
        mutates: false,
        heldBytes: length,
        run: (client) => client.read(offset, length, target, { signal, df }),
      },
      signal,
    );
  }

  /**
   * `bytes` must stay unchanged until this has settled, since they may be sent more than once; after
   * ABORTED they must not be used again before this client is closed.
   */
  async write(offset: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    checkRange(offset, bytes.length, this.blockSizes.maximum, this.sizeBytes);
    const fua = options.fua ?? false;
    await this.#change(offset, bytes.length, bytes.length, options, (client) =>
      client.write(offset, bytes, { fua }),
    );
  }

  /** Everything answered before is durable then, whichever connection answered it. */
  async flush(options: RequestOptions = {}): Promise<void> {
    const { signal } = options;
    const run = (client: NbdClient): Promise<void> => client.flush({ signal });
    await this.#session.submit({ start: 0, end: 0, mutates: false, heldBytes: 0, run }, signal);
  }

  async trim(offset: number, length: number, options: WriteOptions = {}): Promise<void> {
    needFlag(this.flags, transmissionFlag.sendTrim, 'TRIM');
    checkRange(offset, length, Infinity, this.sizeBytes);
    const fua = options.fua ?? false;
    await this.#change(offset, length, 0, options, (client) =>
      client.trim(offset, length, { fua }),
    );
  }

  async writeZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions = {},
  ): Promise<void> {
    needFlag(this.flags, transmissionFlag.sendWriteZeroes, 'WRITE_ZEROES');
    checkRange(offset, length, Infinity, this.sizeBytes);
    const { fua = false, noHole = false, fastZero = false } = options;
    if (fastZero) needFlag(this.flags, transmissionFlag.sendFastZero, 'FAST_ZERO');
    await this.#change(offset, length, 0, options, (client) =>
      client.writeZeroes(offset, length, { fua, noHole, fastZero }),
    );
  }

  /** As `NbdClient.cache`. */
  async cache(offset: number, length: number, options: RequestOptions = {}): Promise<void> {
    checkRange(offset, length, Infinity, this.sizeBytes);
    const { signal } = options;
    await this.#session.submit(
      // a hint: it waits for nothing, and nothing for it
      {
        start: 0,
        end: 0,
        mutates: false,
        heldBytes: 0,
        run: (client) => client.cache(offset, length, { signal }),
      },
      signal,
    );
  }

  /** As `NbdClient.blockStatus`. */
  async blockStatus(
    offset: number,
    length: number,
    options: BlockStatusOptions = {},
  ): Promise<BlockStatusExtent[]> {
    checkRange(offset, length, Infinity, this.sizeBytes);
    const { signal } = options;
    return this.#session.submit(
      {
        start: offset,
        end: offset + length,
        mutates: false,
        heldBytes: 0,
        run: (client) => client.blockStatus(offset, length, options),
      },
      signal,
    );
  }

  /** As `NbdClient.blockStatuses`. */
  async blockStatuses(
    offset: number,
    length: number,
    options: BlockStatusesOptions = {},
  ): Promise<Map<string, StatusExtent[]>> {
    checkRange(offset, length, Infinity, this.sizeBytes);
    return this.#session.submit(
      {
        start: offset,
        end: offset + length,
        mutates: false,
        heldBytes: 0,
        run: (client) => client.blockStatuses(offset, length, options),
      },
      options.signal,
    );
  }

  /** Lets everything be answered, reconnecting if need be, and says goodbye. Works twice. */
  disconnect(): Promise<void> {
    return this.#session.leave();
  }

  /** Ends at once; what is not answered rejects with DISCONNECTED. Works twice. */
  close(): Promise<void> {
    return this.#session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #change(
    offset: number,
    length: number,
    heldBytes: number,
    { signal }: RequestOptions,
    run: (client: NbdClient) => Promise<void>,
  ): Promise<void> {
    // the signal stays here: what was sent is waited for, even when its caller does not
    const plan = { start: offset, end: offset + length, mutates: true, heldBytes, run };
    return this.#session.submit(plan, signal);
  }
}

function targetsOf({ addresses, exportName, tls }: ReconnectingOptions): NbdTarget[] {
  if (addresses.length === 0 || addresses.length > maxAddresses) {
    const text = `${addresses.length} addresses; give 1 to ${maxAddresses}`;
    throw new NbdError('INVALID_ARGUMENT', text);
  }
  const name = exportName === undefined ? {} : { exportName };
  const targets = addresses.map((address) => {
    const target = targetOf({
      ...(typeof address === 'string' ? { uri: address } : address),
      ...name,
    });
    return tls ? { ...target, tls } : target;
  });
  const names = new Set(targets.map((target) => target.exportName));
  if (names.size === 1) return targets;
  const text = `the addresses name several exports: ${[...names].map((n) => JSON.stringify(n)).join(', ')}`;
  throw new NbdError('INVALID_ARGUMENT', text);
}

/** 128 bits in hexadecimal. */
function randomId(chance: () => number): string {
  const parts = [0, 0, 0, 0].map(() => Math.floor(chance() * 2 ** 32).toString(16));
  return parts.map((part) => part.padStart(8, '0')).join('');
}
