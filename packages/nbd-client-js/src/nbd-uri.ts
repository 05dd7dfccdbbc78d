import { defaultPort } from './core/constants.ts';
import { NbdError } from './nbd-error.ts';

/** Where a server listens. */
export type NbdAddress = { host: string; port: number } | { path: string };

export interface NbdTarget {
  address: NbdAddress;
  exportName: string;
}

/**
 * Reads `nbd://host[:port]/name` and `nbd+unix:///name?socket=path` (NBD doc/uri.md). The name is
 * percent-decoded and may be empty. Throws INVALID_ARGUMENT, for `nbds://` too: there is no TLS yet.
 */
export function parseNbdUri(text: string): NbdTarget {
  const bad = (why: string, cause?: unknown): NbdError =>
    new NbdError('INVALID_ARGUMENT', `${JSON.stringify(text)} is not an NBD URI: ${why}`, {
      cause,
    });
  const parts = /^[^:/?#]+:\/\/[^/?#\s]*(?:\/([^?#\s]*))?(?:\?\S*)?$/.exec(text);
  if (!parts) throw bad('write nbd://host:port/name or nbd+unix:///name?socket=path');
  let uri: URL;
  let exportName: string;
  try {
    uri = new URL(text);
    // not uri.pathname: there `.` and `..` would count as steps of a path
    exportName = decodeURIComponent(parts[1] ?? '');
  } catch (cause) {
    throw bad('it has a bad host, port or percent-encoding', cause);
  }
  if (uri.protocol === 'nbd+unix:') {
    const path = uri.searchParams.get('socket');
    if (!path) throw bad('write the path of the socket: nbd+unix:///name?socket=/path');
    return { address: { path }, exportName };
  }
  if (uri.protocol !== 'nbd:') {
    throw bad('it begins with nbd:// or nbd+unix:// (TLS, nbds://, is not supported)');
  }
  if (uri.hostname === '') throw bad('the host is missing');
  const host = decodeURIComponent(uri.hostname.replace(/^\[(.*)\]$/, '$1'));
  return { address: { host, port: uri.port === '' ? defaultPort : Number(uri.port) }, exportName };
}

/** The inverse of `parseNbdUri`. */
export function formatNbdUri(target: NbdTarget): string {
  const name = encodeURIComponent(target.exportName);
  const { address } = target;
  if ('path' in address) return `nbd+unix:///${name}?socket=${encodeURIComponent(address.path)}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `nbd://${host}:${address.port}/${name}`;
}
