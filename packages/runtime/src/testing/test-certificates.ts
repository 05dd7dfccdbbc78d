import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Why certificates cannot be made here; CI has openssl, so there it is a failure instead. */
export function missingOpenssl(): string | false {
  const path = (process.env['PATH'] ?? '').split(delimiter);
  if (path.some((folder) => existsSync(join(folder, 'openssl')))) return false;
  const text = `openssl is not here: install Debian's package openssl`;
  if (process.env['CI'] === 'true') throw new Error(text);
  return text;
}

/**
 * Certificates for two days, in a folder with the names that libnbd, qemu and nbdkit look for:
 * ca-cert.pem, server-cert.pem (for localhost and 127.0.0.1), client-cert.pem (CN=alice), and node-cert.pem,
 * which is for both purposes, each with its key.
 */
export function makeTestCertificates(folder: string, clientName = 'alice'): void {
  mkdirSync(folder, { recursive: true });
  // the host's own configuration would add extensions
  const config = join(folder, 'openssl.cnf');
  writeFileSync(config, '[req]\ndistinguished_name = dn\n[dn]\n');
  const request = (name: string, subject: string, extensions: string[], byCa: boolean): void => {
    const file = (kind: string): string => join(folder, `${name}-${kind}.pem`);
    execFileSync(
      'openssl',
      [
        ...[
          'req',
          '-config',
          config,
          '-x509',
          '-newkey',
          'ec',
          '-pkeyopt',
          'ec_paramgen_curve:prime256v1',
          '-nodes',
        ],
        ...['-days', '2', '-subj', subject, '-keyout', file('key'), '-out', file('cert')],
        ...(byCa ? ['-CA', join(folder, 'ca-cert.pem'), '-CAkey', join(folder, 'ca-key.pem')] : []),
        ...extensions.flatMap((extension) => ['-addext', extension]),
      ],
      { stdio: 'pipe' },
    );
  };
  const authority = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign'];
  request('ca', '/CN=Test CA', authority, false);
  const leaf = ['basicConstraints=critical,CA:FALSE', 'keyUsage=critical,digitalSignature'];
  const names = 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1';
  request('server', '/CN=localhost', [...leaf, names, 'extendedKeyUsage=serverAuth'], true);
  request(
    'node',
    '/CN=localhost',
    [...leaf, names, 'extendedKeyUsage=serverAuth,clientAuth'],
    true,
  );
  request('client', `/O=Test/CN=${clientName}`, [...leaf, 'extendedKeyUsage=clientAuth'], true);
}

/** A file as psktool makes it: a line `NAME:HEX` for each. */
export function writeTestKeys(file: string, keys: Readonly<Record<string, string>>): void {
  const lines = Object.entries(keys).map(([name, hex]) => `${name}:${hex}\n`);
  writeFileSync(file, lines.join(''), { mode: 0o600 });
}
