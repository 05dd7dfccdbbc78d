import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { StorError } from '@stor/protocol';
import { tlsServer, type Clock, type Logger, type TlsServer } from '@stor/runtime';
import { maxPskFileBytes, parsePskFile, type NbdTlsOptions } from 'nbd-client-js';
import type { TlsMode } from '../core/nbd/tls-gate.ts';

/** How NBD is encrypted, as the configuration says it; paths of PEM files. */
export interface TlsSettings {
  mode: TlsMode;
  cert?: string | undefined;
  key?: string | undefined;
  /** who vouches for clients, and for other nodes */
  ca?: string | undefined;
  /** a client must show a certificate of the CA, or use a pre-shared key */
  demandsCertificate: boolean;
  /** as psktool makes it */
  pskFile?: string | undefined;
  /** the name of this node in that file when it is the client of another; its first one unless given */
  pskIdentity?: string | undefined;
}

/** TLS client authentication among the extended key usages of a certificate. */
const clientPurpose = '1.3.6.1.5.5.7.3.2';

/** Files that have changed are seen at most so much later (ms): each look reads all of them. */
const lookMs = 1_000;

interface Loaded {
  /** all that was read, to see whether it has changed */
  texts: string;
  server: TlsServer;
  ca: string | undefined;
  cert: string | undefined;
  key: string | undefined;
  psk: ReadonlyMap<string, Uint8Array> | undefined;
}

/**
 * Certificates and keys of the NBD server, and of this node as the client of others. They are read
 * again when a connection needs them, so that new files count for new connections; files that do not
 * fit together (one of a pair is replaced before the other) leave the old ones in use.
 */
export class TlsFiles {
  readonly settings: TlsSettings;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #readText: (path: string) => string;
  #loaded: Loaded;
  #lookedMs: number;
  /** the last complaint: the same one is not logged for each connection */
  #complaint = '';

  /** Throws INVALID_ARGUMENT, with the file that is wrong. */
  constructor(
    settings: TlsSettings,
    {
      clock,
      logger,
      readText = readFile,
    }: {
      clock: Clock;
      logger: Logger;
      readText?: (path: string) => string;
    },
  ) {
    this.settings = settings;
    this.#clock = clock;
    this.#logger = logger;
    this.#readText = readText;
    this.#loaded = load(this.#read(), settings);
    this.#checkPurpose();
    this.#lookedMs = clock.monotonicMs();
  }

  /** For a connection that begins TLS now. */
  server(): TlsServer {
    return this.#current().server;
  }

  /** How this node, as a client of another, proves who it is and knows that one; see NbdTlsOptions. */
  client(): NbdTlsOptions {
    const { ca, cert, key, psk } = this.#current();
    const { mode, pskIdentity } = this.settings;
    const connect = mode === 'required' ? 'require' : 'allow';
    // a key proves both sides, whatever names and purposes the certificates have
    if (!psk) return { mode: connect, ca, cert, key };
    const name = pskIdentity ?? psk.keys().next().value ?? '';
    return { mode: connect, psk: { identity: name, key: psk.get(name) ?? new Uint8Array() } };
  }

  /** Other nodes would refuse it, which nobody notices before a volume is relayed. */
  #checkPurpose(): void {
    const { cert, psk } = this.#loaded;
    const { demandsCertificate, cert: file } = this.settings;
    if (cert === undefined || psk || !demandsCertificate) return;
    const { keyUsage: purposes } = new X509Certificate(cert) as { keyUsage?: string[] };
    if (!purposes || purposes.includes(clientPurpose)) return;
    const text =
      'the certificate is for servers only: other nodes will refuse it when a volume is relayed';
    this.#logger.warn({ cert: file }, text);
  }

  #current(): Loaded {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#lookedMs < lookMs) return this.#loaded;
    this.#lookedMs = nowMs;
    try {
      const texts = this.#read();
      if (JSON.stringify(texts) !== this.#loaded.texts) {
        this.#loaded = load(texts, this.settings);
        this.#checkPurpose();
        this.#logger.info({}, 'new TLS certificates and keys for NBD');
      }
      this.#complaint = '';
    } catch (thrown) {
      const { message } = StorError.from(thrown);
      if (message !== this.#complaint) {
        this.#logger.error(
          { error: message },
          'TLS files of NBD; the ones read before stay in use',
        );
      }
      this.#complaint = message;
    }
    return this.#loaded;
  }

  #read(): Texts {
    const { cert, key, ca, pskFile } = this.settings;
    const read = (path: string | undefined): string | undefined =>
      path === undefined ? undefined : this.#readText(path);
    return { cert: read(cert), key: read(key), ca: read(ca), psk: read(pskFile) };
  }
}

interface Texts {
  cert: string | undefined;
  key: string | undefined;
  ca: string | undefined;
  psk: string | undefined;
}

function load(texts: Texts, settings: TlsSettings): Loaded {
  const { cert, key, ca } = texts;
  const { demandsCertificate, pskFile, pskIdentity } = settings;
  try {
    if (ca !== undefined) checkAuthorities(ca, settings.ca ?? '');
    const psk =
      texts.psk === undefined ? undefined : parsePskFile(texts.psk, `pskFile ${pskFile ?? ''}`);
    if (pskIdentity !== undefined && psk?.has(pskIdentity) !== true) {
      throw new Error(`pskFile ${pskFile ?? ''} has no key for pskIdentity ${pskIdentity}`);
    }
    const server = tlsServer({ cert, key, ca, demandsCertificate, psk });
    return { texts: JSON.stringify(texts), server, ca, cert, key, psk };
  } catch (error) {
    const files = [settings.cert, settings.key, settings.ca, pskFile].filter((path) => path);
    throw new StorError(
      'INVALID_ARGUMENT',
      `nbd.tls: ${(error as Error).message} (of ${files.join(', ')})`,
      { cause: error },
    );
  }
}

/**
 * An empty list of authorities is taken for none given, and then all that the system knows vouch for
 * clients; one that breaks off in the middle would lock out those of the rest. A file is like that while
 * it is being written.
 */
function checkAuthorities(text: string, file: string): void {
  const found = text.match(/-----BEGIN [^-]*CERTIFICATE-----[^-]*(-----END [^-]*-----)?/g) ?? [];
  if (found.length === 0) throw new Error(`ca ${file} has no certificate`);
  for (const pem of found) new X509Certificate(pem);
}

/** INVALID_ARGUMENT. */
function readFile(path: string): string {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new StorError('INVALID_ARGUMENT', `nbd.tls: cannot read ${(error as Error).message}`, {
      cause: error,
    });
  }
  if (text.length <= maxPskFileBytes) return text;
  throw new StorError('INVALID_ARGUMENT', `nbd.tls: ${path} is too large`);
}
