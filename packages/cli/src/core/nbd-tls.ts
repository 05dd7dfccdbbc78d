import { StorError } from '@stor/protocol';
import type { NbdTlsOptions } from 'nbd-client-js';

/** Flags of the commands that speak NBD, and the variables that stand in for them. */
export const nbdTlsFlags = [
  {
    flag: '--tls-certificates <dir>',
    key: 'tlsCertificates',
    env: 'STOR_TLS_CERTIFICATES',
    help: 'NBD over TLS: folder with ca-cert.pem, client-cert.pem and client-key.pem',
  },
  {
    flag: '--tls-psk-file <file>',
    key: 'tlsPskFile',
    env: 'STOR_TLS_PSK_FILE',
    help: 'NBD over TLS: pre-shared keys as psktool makes them',
  },
  {
    flag: '--tls-username <name>',
    key: 'tlsUsername',
    env: 'STOR_TLS_USERNAME',
    help: 'name in that file (default: the user)',
  },
  {
    flag: '--tls-hostname <name>',
    key: 'tlsHostname',
    env: 'STOR_TLS_HOSTNAME',
    help: "name in the nodes' certificates, when it is not their address",
  },
] as const;

/**
 * How storctl connects to NBD: with one of these given, only over TLS. Null: as the address says. Throws
 * INVALID_ARGUMENT.
 */
export function nbdTlsOf(
  globals: Readonly<Record<string, unknown>>,
  env: Readonly<Record<string, string | undefined>>,
): NbdTlsOptions | null {
  const given = new Map<string, string>();
  for (const { key, env: name } of nbdTlsFlags) {
    const text = (globals[key] as string | undefined) ?? env[name];
    if (text !== undefined && text !== '') given.set(key, text);
  }
  const certificates = given.get('tlsCertificates');
  const pskFile = given.get('tlsPskFile');
  if (certificates === undefined && pskFile === undefined) {
    if (given.size === 0) return null;
    throw new StorError(
      'INVALID_ARGUMENT',
      'NBD over TLS needs --tls-certificates DIR or --tls-psk-file FILE too',
    );
  }
  if (certificates !== undefined && pskFile !== undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      'give --tls-certificates (STOR_TLS_CERTIFICATES) or --tls-psk-file (STOR_TLS_PSK_FILE), not both',
    );
  }
  return {
    certificates,
    pskFile,
    username: given.get('tlsUsername'),
    hostname: given.get('tlsHostname'),
  };
}
