import { errnoName } from './core/constants.ts';

/**
 * - `IO`: the server answered a request with an error; `errno` says which.
 * - `REFUSED`: the server answered an option of the handshake with an error.
 * - `PROTOCOL`: the server broke the protocol; the connection is gone.
 * - `TLS`: no TLS with this server: a certificate, name or key is not right, on either side.
 * - `DISCONNECTED`: the connection could not be made, or ended while requests were outstanding.
 * - `ABORTED`: the caller's signal. `TIMEOUT`: no handshake within the time given.
 * - `INVALID_ARGUMENT`: refused here, nothing was sent. `OVERLOADED`: too many requests wait.
 */
export type NbdErrorCode =
  | 'IO'
  | 'REFUSED'
  | 'PROTOCOL'
  | 'DISCONNECTED'
  | 'TLS'
  | 'ABORTED'
  | 'TIMEOUT'
  | 'INVALID_ARGUMENT'
  | 'OVERLOADED';

export class NbdError extends Error {
  readonly code: NbdErrorCode;
  /** The protocol's error number of a reply (`errno` in the constants); 0 for every other error. */
  readonly errno: number;
  /** `optionReplyType` of a REFUSED; 0 for every other error. */
  readonly optionReply: number;
  /** Byte of the export at which the request failed, when the server said it; else null. */
  readonly offset: number | null;

  constructor(
    code: NbdErrorCode,
    message: string,
    options: { cause?: unknown; errno?: number; optionReply?: number; offset?: number | null } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'NbdError';
    this.code = code;
    this.errno = options.errno ?? 0;
    this.optionReply = options.optionReply ?? 0;
    this.offset = options.offset ?? null;
  }

  /** `EIO`, `ENOSPC`, …; empty when the error is not from a reply. */
  get errnoName(): string {
    return this.errno === 0 ? '' : errnoName(this.errno);
  }
}
