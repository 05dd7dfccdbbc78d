import { existsSync, readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { parsePskFile } from './core/psk-file.ts';
import { NbdError } from './nbd-error.ts';
import type { TlsClientStart } from './nbd-network.ts';
import type { NbdAddress } from './nbd-uri.ts';

const wholeCertificate = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/;

/** How a connection is encrypted, and how both sides know each other: by certificates or by a key. */
export interface NbdTlsOptions {
  /**
   * `require`, the default: never in the clear. `allow`: in the clear when the server says that it has
   * no TLS, which whoever stands between can say in its place.
   */
  mode?: 'require' | 'allow';
  /**
   * folder with ca-cert.pem (who vouches for the server; those that Node knows when it is not there) and,
   * if the server wants a certificate, client-cert.pem and client-key.pem
   */
  certificates?: string | undefined;
  /** the same as PEM text */
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  /** file of pre-shared keys, lines `NAME:HEX` as psktool writes them */
  pskFile?: string | undefined;
  /** the name to take from it; the user of this process unless given */
  username?: string | undefined;
  /** the same without a file */
  psk?: { identity: string; key: Uint8Array } | undefined;
  /** name that the server's certificate must be for; the host unless given, `localhost` for a UNIX socket */
  hostname?: string | undefined;
  /** false: any certificate will do */
  verifyPeer?: boolean | undefined;
}

/** What is needed to begin TLS. Reads files: they may have been replaced. Throws TLS, INVALID_ARGUMENT. */
export function tlsStartOf(options: NbdTlsOptions, address: NbdAddress): TlsClientStart {
  const host = 'path' in address ? 'localhost' : address.host;
  const common = {
    side: 'client' as const,
    serverName: options.hostname ?? host,
    verifyPeer: options.verifyPeer ?? true,
  };
  const psk = pskOf(options);
  const { ca, cert, key } = certificatesOf(options);
  // of an empty text TLS would make the authorities of the system, and trust any of them
  if (ca !== undefined && !wholeCertificate.test(ca)) {
    throw new NbdError('TLS', 'the file of certificate authorities has no certificate in it');
  }
  if (!psk) return { ...common, ca, cert, key };
  if (ca === undefined && cert === undefined) return { ...common, psk };
  throw new NbdError('INVALID_ARGUMENT', 'give certificates or a pre-shared key, not both');
}

function pskOf({ psk, pskFile, username }: NbdTlsOptions): TlsClientStart['psk'] {
  if (psk || pskFile === undefined) return psk;
  const identity = username ?? userInfo().username;
  let key: Uint8Array | undefined;
  try {
    key = parsePskFile(read(pskFile), pskFile).get(identity);
  } catch (cause) {
    throw new NbdError('TLS', `pre-shared keys: ${(cause as Error).message}`, { cause });
  }
  if (key) return { identity, key };
  throw new NbdError('TLS', `${pskFile} has no key for ${JSON.stringify(identity)}`);
}

function certificatesOf(options: NbdTlsOptions): Pick<TlsClientStart, 'ca' | 'cert' | 'key'> {
  const { certificates: folder, ca, cert, key } = options;
  if (folder === undefined) return { ca, cert, key };
  const [caFile, certFile, keyFile] = ['ca-cert', 'client-cert', 'client-key'].map((name) => {
    const path = join(folder, `${name}.pem`);
    return existsSync(path) ? read(path) : undefined;
  });
  if (caFile === undefined && certFile === undefined) {
    throw new NbdError('TLS', `${folder} has neither ca-cert.pem nor client-cert.pem`);
  }
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new NbdError('TLS', `${folder}: client-cert.pem and client-key.pem go together`);
  }
  return { ca: caFile, cert: certFile, key: keyFile };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new NbdError('TLS', `cannot read ${(cause as Error).message}`, { cause });
  }
}
