import type { NbdTlsOptions } from 'nbd-client-js';

/**
 * What storctl needs of an NBD connection. `nbd-client-js` fits it; tests serve it from memory.
 * Offsets and lengths in bytes. Calls may overlap; each rejects when the connection breaks, or, of a
 * session with several addresses, when none of them has the export for too long.
 */
export interface NbdSession {
  readonly sizeBytes: number;
  read(offset: number, length: number): Promise<Uint8Array>;
  /** `bytes` must stay unchanged until the promise settles. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  /** Extents from `offset` on, the first ones of the range asked for; `zero`: reads as zeros. */
  blockStatus(offset: number, length: number): Promise<{ length: number; zero: boolean }[]>;
  /** Says goodbye (NBD_CMD_DISC) and closes. Works twice. */
  close(): Promise<void>;
}

export interface NbdOpenOptions {
  /** ends the session at any time */
  signal?: AbortSignal;
  /**
   * More addresses of the same export: the session takes the first that grants it, and when that is
   * lost goes on with any other. Without them it lives and dies with its one connection.
   */
  otherUris?: readonly string[];
  /** only over TLS, and how; absent: as the addresses say */
  tls?: NbdTlsOptions;
}

/** Connects to `nbd://host:port/name`. Rejects with StorError. */
export type NbdOpener = (uri: string, options: NbdOpenOptions) => Promise<NbdSession>;
