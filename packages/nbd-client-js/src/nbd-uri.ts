import { defaultPort } from './core/constants.ts';
import { NbdError } from './nbd-error.ts';
import type { NbdTlsOptions } from './tls-options.ts';

/** Where a server listens. */
export type NbdAddress = { host: string; port: number } | { path: string };

export interface NbdTarget {
  address: NbdAddress;
  exportName: string;
  /** absent: in the clear */
  tls?: NbdTlsOptions;
}

const howToWrite = 'write nbd://host:port/name or nbd+unix:///name?socket=path, with nbds for TLS';

/**
 * Reads `nbd://host[:port]/name` and `nbd+unix:///name?socket=path` (NBD doc/uri.md), and with TLS
 * `nbds://[user@]host/name` and `nbds+unix://[user@]/name?socket=path` with `tls-certificates`,
 * `tls-psk-file`, `tls-hostname`, `tls-verify-peer` and `tls-type`. With one of these `nbd://` takes TLS
 * where the server has it. The name is percent-decoded and may be empty. Throws INVALID_ARGUMENT.
 */
export function parseNbdUri(text: string): NbdTarget {
  const bad = (why: string, cause?: unknown): NbdError =>
    new NbdError('INVALID_ARGUMENT', `${JSON.stringify(text)} is not an NBD URI: ${why}`, {
      cause,
    });
  const parts = /^([^:/?#]+:\/\/)(?:([^@/?#\s]*)@)?([^@/?#\s]*(?:\/([^?#\s]*))?(?:\?\S*)?)$/.exec(
    text,
  );
  if (!parts) throw bad(howToWrite);
  const [, scheme = '', user, rest = '', path] = parts;
  let uri: URL;
  let exportName: string;
  let username: string | undefined;
  try {
    // without the user: a URL without a host must not have one, but a UNIX socket's may
    uri = new URL(`${scheme}${rest}`);
    // not uri.pathname: there `.` and `..` would count as steps of a path
    exportName = decodeURIComponent(path ?? '');
    username = user === undefined ? undefined : decodeURIComponent(user);
  } catch (cause) {
    throw bad('it has a bad host, port, user or percent-encoding', cause);
  }
  const protocols = ['nbd:', 'nbds:', 'nbd+unix:', 'nbds+unix:'];
  if (!protocols.includes(uri.protocol)) throw bad(howToWrite);
  const tls = tlsOf(uri, username, bad);
  const target = { exportName, ...(tls ? { tls } : {}) };
  if (uri.protocol.endsWith('+unix:')) {
    const socket = uri.searchParams.get('socket');
    if (!socket) throw bad('write the path of the socket: nbd+unix:///name?socket=/path');
    return { address: { path: socket }, ...target };
  }
  if (uri.hostname === '') throw bad('the host is missing');
  const host = decodeURIComponent(uri.hostname.replace(/^\[(.*)\]$/, '$1'));
  const port = uri.port === '' ? defaultPort : Number(uri.port);
  return { address: { host, port }, ...target };
}

const tlsParameters = [
  'tls-type',
  'tls-certificates',
  'tls-psk-file',
  'tls-hostname',
  'tls-verify-peer',
];
const yesOrNo = new Map([
  ['1', true],
  ['true', true],
  ['0', false],
  ['false', false],
]);

function tlsOf(
  { protocol, searchParams }: URL,
  username: string | undefined,
  bad: (why: string) => NbdError,
): NbdTlsOptions | null {
  const isRequired = protocol.startsWith('nbds');
  const given = [...searchParams.keys()].filter((name) => name.startsWith('tls-'));
  // one that is misspelt must not leave the connection less safe than it was meant to be
  const unknown = given.find((name) => !tlsParameters.includes(name));
  if (unknown !== undefined) throw bad(`there is no parameter ${unknown}`);
  if (!isRequired && given.length === 0) return null;
  const one = (name: string): string | undefined => searchParams.get(name) ?? undefined;
  const verify = one('tls-verify-peer');
  const verifyPeer = verify === undefined ? true : yesOrNo.get(verify);
  if (verifyPeer === undefined) throw bad('tls-verify-peer is 1 or 0');
  const type = one('tls-type');
  const certificates = one('tls-certificates');
  const pskFile = one('tls-psk-file');
  const hasPsk = pskFile !== undefined;
  if (type !== undefined && type !== 'x509' && type !== 'psk') throw bad('tls-type is x509 or psk');
  if (type !== undefined && (type === 'psk') !== hasPsk) {
    throw bad(hasPsk ? 'tls-psk-file goes with tls-type=psk' : 'tls-type=psk needs tls-psk-file');
  }
  if (hasPsk && certificates !== undefined) {
    throw bad('give tls-certificates or tls-psk-file, not both');
  }
  return {
    mode: isRequired ? 'require' : 'allow',
    ...(certificates === undefined ? {} : { certificates }),
    ...(hasPsk ? { pskFile } : {}),
    ...(username === undefined || username === '' ? {} : { username }),
    ...(one('tls-hostname') === undefined ? {} : { hostname: one('tls-hostname') }),
    ...(verifyPeer ? {} : { verifyPeer }),
  };
}

/**
 * The inverse of `parseNbdUri`. Throws INVALID_ARGUMENT when TLS is made of texts and keys, which have
 * no place in a URI.
 */
export function formatNbdUri(target: NbdTarget): string {
  const { address, tls } = target;
  if (tls && (tls.psk ?? tls.ca ?? tls.cert ?? tls.key) !== undefined) {
    throw new NbdError('INVALID_ARGUMENT', 'certificates and keys themselves do not go into a URI');
  }
  const query = new URLSearchParams();
  if ('path' in address) query.set('socket', address.path);
  if (tls?.certificates !== undefined) query.set('tls-certificates', tls.certificates);
  if (tls?.pskFile !== undefined) query.set('tls-psk-file', tls.pskFile);
  if (tls?.hostname !== undefined) query.set('tls-hostname', tls.hostname);
  if (tls?.verifyPeer === false) query.set('tls-verify-peer', '0');
  // one that only allows TLS is told by its parameters
  if (tls?.mode === 'allow') query.set('tls-type', tls.pskFile === undefined ? 'x509' : 'psk');
  const scheme = tls && tls.mode !== 'allow' ? 'nbds' : 'nbd';
  const user = tls?.username === undefined ? '' : `${encodeURIComponent(tls.username)}@`;
  const name = encodeURIComponent(target.exportName);
  // not as a form: there a space would be a plus
  const text = [...query].map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join('&');
  const tail = `${name}${text === '' ? '' : `?${text}`}`;
  if ('path' in address) return `${scheme}+unix://${user}/${tail}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${scheme}://${user}${host}:${address.port}/${tail}`;
}
