import { constants, timingSafeEqual, X509Certificate } from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';

/** Who the other side has proved to be. */
export type TlsIdentity =
  | {
      kind: 'certificate';
      /** of the certificate, for example `CN=alice, O=Example` */
      subject: string;
      /** SHA-256 of the certificate: hexadecimal pairs with colons */
      fingerprint: string;
    }
  | { kind: 'psk'; name: string };

/** A TLS session that has been agreed on. */
export interface TlsSession {
  /** `TLSv1.2` or `TLSv1.3` */
  protocol: string;
  cipher: string;
  /** null: it was not asked who it is */
  peer: TlsIdentity | null;
}

/** The accepting side. Made once, by `tlsServer`, for all its connections. */
export interface TlsServer {
  side: 'server';
  context: tls.SecureContext;
  /** a client must have a certificate that the CA vouches for, or a pre-shared key */
  demandsCertificate: boolean;
  /** the key of an identity; null: it is not known. Absent: no pre-shared keys */
  pskOf?: (identity: string) => Uint8Array | null;
}

/** The connecting side. Certificates and keys are PEM text. */
export interface TlsClient {
  side: 'client';
  /** name or address that the server's certificate must be for */
  serverName: string;
  /** false: whoever answers is trusted. Not for pre-shared keys, which prove both sides */
  verifyPeer: boolean;
  /** who may vouch for the server; those that Node knows unless given */
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  /** instead of certificates */
  psk?: { identity: string; key: Uint8Array } | undefined;
}

/** What each side of TLS 1.3 and, for certificates, of 1.2 may agree on: authenticated encryption only. */
const certificateCiphers = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
];

/** Pre-shared keys in TLS 1.3 go with SHA-256; in 1.2 only where an exchanged secret keeps the past safe. */
const pskCiphers = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES128-GCM-SHA256',
  'DHE-PSK-AES256-GCM-SHA384',
];

/**
 * No renegotiation, which only costs the server work; no resumption, so that who was taken out of the
 * CA or the file of keys does not come back with an old ticket.
 */
const serverFlags =
  constants.SSL_OP_NO_RENEGOTIATION |
  constants.SSL_OP_NO_TICKET |
  constants.SSL_OP_CIPHER_SERVER_PREFERENCE;

export interface TlsServerCredentials {
  /** PEM; chain and key. Absent: pre-shared keys only */
  cert?: string | undefined;
  key?: string | undefined;
  /** PEM of those who vouch for clients */
  ca?: string | undefined;
  demandsCertificate: boolean;
  psk?: ReadonlyMap<string, Uint8Array> | undefined;
}

/** Throws what is wrong with a certificate or key. */
export function tlsServer(credentials: TlsServerCredentials): TlsServer {
  const { cert, key, ca, psk } = credentials;
  const context = tls.createSecureContext({
    minVersion: 'TLSv1.2',
    ciphers: [...new Set([...(cert ? certificateCiphers : []), ...(psk ? pskCiphers : [])])].join(
      ':',
    ),
    secureOptions: serverFlags,
    // nothing is resumed, but OpenSSL wants it for pre-shared keys too
    sessionIdContext: 'stor',
    // an empty list is nobody; without one it would be everybody's
    ca: ca ?? [],
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(psk ? { dhparam: 'auto' as const } : {}),
  });
  const { demandsCertificate } = credentials;
  return {
    side: 'server',
    context,
    demandsCertificate,
    ...(psk ? { pskOf: (identity: string) => psk.get(identity) ?? null } : {}),
  };
}

/** Puts TLS over a connection. `agreed` rejects, and the socket is destroyed, when the other side is not let in. */
export function startTls(
  socket: net.Socket,
  options: TlsServer | TlsClient,
): { secure: tls.TLSSocket; agreed: Promise<TlsSession> } {
  return options.side === 'server' ? startServer(socket, options) : startClient(socket, options);
}

function startServer(
  socket: net.Socket,
  { context, demandsCertificate, pskOf }: TlsServer,
): { secure: tls.TLSSocket; agreed: Promise<TlsSession> } {
  let offered: string | null = null;
  const secure = new tls.TLSSocket(socket, {
    isServer: true,
    secureContext: context,
    requestCert: demandsCertificate,
    rejectUnauthorized: demandsCertificate,
    ...(pskOf
      ? {
          pskCallback: (_socket: tls.TLSSocket, identity: string) => {
            const key = pskOf(identity);
            if (key) offered = identity;
            return key;
          },
        }
      : {}),
  });
  secure.disableRenegotiation();
  const agreed = whenAgreed(secure, 'secure', () => {
    const psk = usesPsk(secure) ? offered : null;
    if (psk !== null) return { kind: 'psk', name: psk };
    // a resumed session of TLS 1.3 would look like a pre-shared key
    if (secure.isSessionReused()) throw new Error('a resumed session proves nobody');
    if (!demandsCertificate) {
      if (pskOf) throw new Error('the client has used no pre-shared key');
      return null;
    }
    checkCertificate(secure);
    return certificateOf(secure);
  });
  return { secure, agreed };
}

function startClient(
  socket: net.Socket,
  { serverName, verifyPeer, ca, cert, key, psk }: TlsClient,
): { secure: tls.TLSSocket; agreed: Promise<TlsSession> } {
  const secure = tls.connect({
    socket,
    minVersion: 'TLSv1.2',
    ciphers: (psk ? pskCiphers : certificateCiphers).join(':'),
    rejectUnauthorized: psk !== undefined || verifyPeer,
    ...(net.isIP(serverName) === 0 ? { servername: serverName } : {}),
    ...(psk
      ? {
          ca: [],
          pskCallback: () => ({ identity: psk.identity, psk: psk.key }),
          checkServerIdentity: () => undefined,
        }
      : {
          checkServerIdentity: (_host, found) => tls.checkServerIdentity(serverName, found),
          ...(ca === undefined ? {} : { ca }),
          ...(cert === undefined ? {} : { cert }),
          ...(key === undefined ? {} : { key }),
        }),
  } as tls.ConnectionOptions);
  const agreed = whenAgreed(secure, 'secureConnect', () => {
    if (!psk) return certificateOf(secure);
    // else anybody with a certificate could answer in its place
    if (!usesPsk(secure)) throw new Error('the server has not used the pre-shared key');
    return { kind: 'psk', name: psk.identity };
  });
  return { secure, agreed };
}

function whenAgreed(
  secure: tls.TLSSocket,
  event: 'secure' | 'secureConnect',
  identify: () => TlsIdentity | null,
): Promise<TlsSession> {
  return new Promise((resolve, reject) => {
    let failure: Error | null = null;
    secure.on('error', (error) => {
      failure ??= error;
    });
    secure.once('close', () => {
      reject(failure ? inWords(failure) : new Error('closed during the TLS handshake'));
    });
    secure.once(event, () => {
      try {
        const peer = identify();
        const { standardName: cipher } = secure.getCipher();
        resolve({ protocol: secure.getProtocol() ?? '', cipher, peer });
      } catch (error) {
        secure.destroy(error as Error);
      }
    });
  });
}

/** OpenSSL's messages begin with the place in its sources. */
function inWords(error: Error): Error {
  const { library, reason } = error as { library?: unknown; reason?: unknown };
  return library !== undefined && typeof reason === 'string'
    ? new Error(reason, { cause: error })
    : error;
}

/** In TLS 1.3 it shows as a resumed session, in 1.2 by the name of the cipher suite. */
function usesPsk(secure: tls.TLSSocket): boolean {
  if (secure.getProtocol() === 'TLSv1.3') return secure.isSessionReused();
  return secure.getCipher().standardName.includes('_PSK_');
}

/** What a `tls.Server` does for its own connections; without it nobody is let in. */
function checkCertificate(secure: tls.TLSSocket): void {
  const { ssl } = secure as unknown as { ssl?: { verifyError?: () => Error | null } };
  if (typeof ssl?.verifyError !== 'function') {
    throw new Error('this version of Node does not say whether a certificate is good');
  }
  const error = ssl.verifyError();
  if (error) throw error;
}

function certificateOf(secure: tls.TLSSocket): TlsIdentity {
  const { raw } = secure.getPeerCertificate() as { raw?: Buffer };
  if (!raw) throw new Error('the other side has no certificate');
  const { subject, fingerprint256 } = new X509Certificate(raw);
  // one part to a line, the most general first
  return {
    kind: 'certificate',
    subject: (subject ?? '').split('\n').join(', '),
    fingerprint: fingerprint256,
  };
}

/**
 * What two ends of a network in memory come to: who the client is. There is no cryptography in it, so
 * it knows pre-shared keys only. Throws why they do not agree.
 */
export function agreeInMemory(server: TlsServer, { psk }: TlsClient): TlsSession {
  if (!psk) throw new Error('a network in memory knows only TLS with pre-shared keys');
  const key = server.pskOf?.(psk.identity);
  const isRight =
    key?.length === psk.key.length && timingSafeEqual(Buffer.from(key), Buffer.from(psk.key));
  if (!isRight) throw new Error('the pre-shared keys do not match');
  const peer = { kind: 'psk', name: psk.identity } as const;
  return { protocol: 'memory', cipher: 'none', peer };
}
