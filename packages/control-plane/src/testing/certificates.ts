import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';

/** Paths of PEM files. */
export interface Certificate {
  cert: string;
  key: string;
}

/**
 * Whether certificates can be made. Without the program the test is skipped and says which Debian
 * package has it; with CI=true that is a failure.
 */
export function needsOpenssl(t: Test): boolean {
  if (spawnSync('openssl', ['version']).status === 0) return true;
  const message = 'openssl is missing: apt-get install openssl';
  if (process.env['CI'] === 'true') t.fail(message);
  else t.plan(0, message);
  return false;
}

/** An authority of its own, and certificates that it signs; the files end with the test. */
export class Authority {
  readonly #folder: string;
  readonly ca: string;
  readonly #key: string;
  #count = 0;

  constructor(t: Test) {
    this.#folder = mkdtempSync(join(tmpdir(), 'stor-ca-'));
    t.teardown(() => {
      rmSync(this.#folder, { recursive: true, force: true });
    });
    this.ca = join(this.#folder, 'ca.pem');
    this.#key = join(this.#folder, 'ca-key.pem');
    this.#openssl(
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
      ...['-subj', '/CN=authority', '-days', '2', '-keyout', this.#key, '-out', this.ca],
    );
  }

  /** For 127.0.0.1 and localhost, servers and clients. */
  sign(name: string, options: { isExpired?: boolean; hosts?: string } = {}): Certificate {
    const path = (kind: string): string => join(this.#folder, `${this.#count}-${kind}`);
    this.#count += 1;
    const [key, request, cert, extensions] = ['key.pem', 'request', 'cert.pem', 'extensions'].map(
      path,
    ) as [string, string, string, string];
    const { hosts = 'IP:127.0.0.1,DNS:localhost', isExpired = false } = options;
    writeFileSync(extensions, `subjectAltName=${hosts}\nextendedKeyUsage=serverAuth,clientAuth\n`);
    this.#openssl(
      ...['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
      ...['-subj', `/CN=${name}`, '-keyout', key, '-out', request],
    );
    this.#openssl(
      ...['x509', '-req', '-in', request, '-CA', this.ca, '-CAkey', this.#key, '-CAcreateserial'],
      // a negative count of days ends it before today
      ...['-days', isExpired ? '-1' : '2', '-extfile', extensions, '-out', cert],
    );
    return { cert, key };
  }

  #openssl(...words: string[]): void {
    execFileSync('openssl', words, { stdio: 'pipe' });
  }
}
