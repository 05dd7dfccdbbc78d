import net from 'node:net';
import tls from 'node:tls';
import type { TlsClientStart } from './nbd-network.ts';

/** What may be agreed on: authenticated encryption only, in TLS 1.2 with a secret of this session. */
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
].join(':');
/** Pre-shared keys go with SHA-256 in TLS 1.3. */
const pskCiphers = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES128-GCM-SHA256',
  'DHE-PSK-AES256-GCM-SHA384',
].join(':');

/**
 * Puts TLS over a connected socket. `agreed` rejects, and the socket is destroyed, when the server is not
 * who it should be or does not let this client in. Throws when a certificate or key is none.
 */
export function startTlsClient(
  socket: net.Socket,
  { serverName, verifyPeer, ca, cert, key, psk }: TlsClientStart,
): { secure: tls.TLSSocket; agreed: Promise<void> } {
  const secure = tls.connect({
    socket,
    minVersion: 'TLSv1.2',
    ciphers: psk ? pskCiphers : certificateCiphers,
    rejectUnauthorized: psk !== undefined || verifyPeer,
    ...(net.isIP(serverName) === 0 ? { servername: serverName } : {}),
    ...(psk
      ? {
          // an empty list is nobody; without one it would be everybody that Node knows
          ca: [],
          pskCallback: () => ({ identity: psk.identity, psk: psk.key }),
          checkServerIdentity: () => undefined,
        }
      : {
          checkServerIdentity: (_host: string, found: tls.PeerCertificate) =>
            tls.checkServerIdentity(serverName, found),
          ...(ca === undefined ? {} : { ca }),
          ...(cert === undefined ? {} : { cert }),
          ...(key === undefined ? {} : { key }),
        }),
  });
  const agreed = new Promise<void>((resolve, reject) => {
    let failure: Error | null = null;
    secure.on('error', (error) => {
      failure ??= error;
    });
    secure.once('close', () => {
      reject(failure ?? new Error('the server closed the connection'));
    });
    secure.once('secureConnect', () => {
      if (!psk || usesPsk(secure)) resolve();
      // else anybody with a certificate could answer in its place
      else secure.destroy(new Error('the server has not used the pre-shared key'));
    });
  });
  return { secure, agreed };
}

/** In TLS 1.3 it shows as a resumed session, in 1.2 by the name of the cipher suite. */
function usesPsk(secure: tls.TLSSocket): boolean {
  if (secure.getProtocol() === 'TLSv1.3') return secure.isSessionReused();
  return secure.getCipher().standardName.includes('_PSK_');
}

/** Why TLS came to nothing, in words: OpenSSL's own messages begin with the place in its sources. */
export function tlsFailure(error: unknown): string {
  const { library, reason, message } = error as {
    library?: unknown;
    reason?: unknown;
    message: string;
  };
  return library !== undefined && typeof reason === 'string' ? reason : message;
}

/** True of an error that is OpenSSL's: the other side has ended TLS with an alert. */
export function isTlsError(error: unknown): boolean {
  return (error as { library?: unknown }).library !== undefined;
}
