import type { NbdClock } from './nbd-clock.ts';
import { NbdError } from './nbd-error.ts';
import type { NbdNetwork } from './nbd-network.ts';
import { parseNbdUri } from './nbd-uri.ts';
import type { NbdAddress, NbdTarget } from './nbd-uri.ts';
import type { NbdTlsOptions } from './tls-options.ts';
import type { StatusExtent } from './outstanding-requests.ts';

export interface NbdConnectOptions {
  /** `nbd://host:port/name` or `nbd+unix:///name?socket=path`; else host and port, or path */
  uri?: string;
  host?: string;
  port?: number;
  /** UNIX socket */
  path?: string;
  /** TLS; the URI's (`nbds://…`) unless given */
  tls?: NbdTlsOptions;
  /** taken from the URI unless given */
  exportName?: string;
  /** asked for unless false; `structuredReplies` of the client says whether the server agreed */
  structuredReplies?: boolean;
  /**
   * 64-bit lengths, asked for unless false, with structured replies only; `extendedHeaders` of the
   * client says whether the server agreed
   */
  extendedHeaders?: boolean;
  /** contexts to ask block status for, `['base:allocation']` unless given */
  metaContexts?: readonly string[];
  /** for connecting and handshake (ms), 30 s unless given */
  connectTimeoutMs?: number;
  /** until the server's first bytes (ms); no limit of its own unless given */
  greetingTimeoutMs?: number;
  /** requests on the wire at once, 64 unless given; more of them wait */
  maxInFlight?: number;
  /** aborts connecting */
  signal?: AbortSignal;
  /** the host's sockets unless given */
  network?: NbdNetwork;
  /** of timeouts; the host's unless given */
  clock?: NbdClock;
}

export interface RequestOptions {
  /**
   * Gives up waiting. A request that was sent may still take effect, and its payload must stay
   * unchanged until the connection is over.
   */
  signal?: AbortSignal | undefined;
}
export interface ReadOptions extends RequestOptions {
  /** all in one piece: the data are of one moment where the server can do that, else EOVERFLOW */
  df?: boolean;
}
export interface WriteOptions extends RequestOptions {
  /** answered only when the effect is durable */
  fua?: boolean;
}
export interface WriteZeroesOptions extends WriteOptions {
  /** keep the space allocated */
  noHole?: boolean;
  /** only if that is quicker than writing zeros as data; else IO with ENOTSUP, at once */
  fastZero?: boolean;
}
export interface BlockStatusOptions extends RequestOptions {
  /** only the first extent */
  reqOne?: boolean;
  /** `base:allocation` unless given */
  context?: string;
}

export interface BlockStatusesOptions extends RequestOptions {
  /** only the first extent of each context */
  reqOne?: boolean;
  /** all that the server granted unless given */
  contexts?: readonly string[];
}

export interface BlockStatusExtent extends StatusExtent {
  /** of `base:allocation`: takes no space */
  hole: boolean;
  /** of `base:allocation`: reads as zeros */
  zero: boolean;
}

/** Where `connect` goes. Throws INVALID_ARGUMENT. */
export function targetOf(options: NbdConnectOptions): NbdTarget {
  if (options.uri !== undefined) {
    const target = parseNbdUri(options.uri);
    const tls = options.tls ?? target.tls;
    const exportName = options.exportName ?? target.exportName;
    return { address: target.address, exportName, ...(tls ? { tls } : {}) };
  }
  let address: NbdAddress;
  if (options.path !== undefined) address = { path: options.path };
  else if (options.host !== undefined && options.port !== undefined) {
    address = { host: options.host, port: options.port };
  } else throw new NbdError('INVALID_ARGUMENT', 'give uri, host and port, or path');
  const { tls, exportName = '' } = options;
  return { address, exportName, ...(tls ? { tls } : {}) };
}
