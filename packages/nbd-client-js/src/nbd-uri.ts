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
  const bad = (why: string): NbdError =>
    new NbdError('INVALID_ARGUMENT', `${JSON.stringify(text)} is not an NBD URI: ${why}`);
  let uri: URL;
  try {
    uri = new URL(text);
  } catch (cause) {
    throw new NbdError('INVALID_ARGUMENT', `${JSON.stringify(text)} is not an NBD URI`, { cause });
  }
  let exportName: string;
  try {
    exportName = decodeURIComponent(uri.pathname.replace(/^\//, ''));
  } catch {
    throw bad('the export name is not percent-encoded UTF-8');
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
