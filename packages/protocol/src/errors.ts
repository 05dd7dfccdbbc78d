/**
 * The one error class of Stor and its codes.
 *
 * A code is stable: clients, scripts and tests compare it. The message is for people and says what
 * is wrong, why, and what to do. Each border translates by one table: `gRPC` and `exit` are here,
 * NBD errno is in `nbd-errno.ts`, HTTP status in `http-status.ts`.
 */
export const errorCodes = [
  'INTERNAL',
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'FAILED_PRECONDITION',
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
  /** A compare-and-set lost, or a resource version is old: read again and retry. */
  'CONFLICT',
  /** What a watch should go on from is no longer kept: list again and watch from there. */
  'COMPACTED',
  /** A watch was ended because its client did not read what came: memory is bounded. */
  'TOO_SLOW',
  /** No quorum, no leader, a peer is down: retry later. */
  'UNAVAILABLE',
  /** The request may or may not have taken effect: read before trying again. */
  'OUTCOME_UNKNOWN',
  'TIMEOUT',
  'ABORTED',
  /** The pool has no room. */
  'NO_SPACE',
  /** A replica refused an epoch lower than the highest that it remembers (I2). */
  'STALE_EPOCH',
  /** The volume is attached elsewhere; details name the holder. */
  'ATTACHED_ELSEWHERE',
  /** A read, write or sync of a disk failed (I7). */
  'DISK_FAILED',
  /** Bytes do not match their checksum (I9). */
  'CHECKSUM_MISMATCH',
  /** A data folder or disk belongs to another cluster, node or a newer format. */
  'FOREIGN_DATA',
  /** An address or a lock is held by another process. */
  'IN_USE',
  /** What was asked for is not safe, and nobody has confirmed it. */
  'UNSAFE',
  /** A verb was refused by its own plan: details name what would suffer. */
  'UNSAFE_PLAN',
  /** A peer or client broke the protocol. */
  'PROTOCOL',
] as const;
export type ErrorCode = (typeof errorCodes)[number];

export class StorError extends Error {
  readonly code: ErrorCode;
  /** Facts for programs; keys are part of the interface of the code that throws. */
  readonly details: Readonly<Record<string, string>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, string> } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'StorError';
    this.code = code;
    this.details = options.details ?? {};
  }

  /** Any thrown value as a StorError; an unknown one becomes INTERNAL with its cause kept. */
  static from(value: unknown): StorError {
    if (value instanceof StorError) return value;
    if (value instanceof Error) {
      if (value.name === 'AbortError') {
        return new StorError('ABORTED', value.message, { cause: value });
      }
      return new StorError('INTERNAL', value.message, { cause: value });
    }
    return new StorError('INTERNAL', String(value), { cause: value });
  }
}

/** True for a StorError of one of these codes. */
export function hasCode(value: unknown, ...codes: ErrorCode[]): value is StorError {
  return value instanceof StorError && codes.includes(value.code);
}

/** Exit codes of `storctl` and `stor-agent`. */
export const exitCodeOf: Readonly<Record<ErrorCode, number>> = {
  INTERNAL: 1,
  INVALID_ARGUMENT: 2,
  NOT_FOUND: 3,
  ALREADY_EXISTS: 4,
  FAILED_PRECONDITION: 5,
  UNAUTHENTICATED: 6,
  PERMISSION_DENIED: 7,
  CONFLICT: 8,
  COMPACTED: 8,
  TOO_SLOW: 9,
  UNAVAILABLE: 9,
  OUTCOME_UNKNOWN: 9,
  TIMEOUT: 124,
  ABORTED: 130,
  NO_SPACE: 5,
  STALE_EPOCH: 8,
  ATTACHED_ELSEWHERE: 5,
  DISK_FAILED: 1,
  CHECKSUM_MISMATCH: 1,
  FOREIGN_DATA: 5,
  IN_USE: 5,
  UNSAFE: 11,
  UNSAFE_PLAN: 11,
  PROTOCOL: 1,
};

/** gRPC status numbers (grpc/grpc doc/statuscodes.md). The code itself travels in metadata. */
export const grpcStatusOf: Readonly<Record<ErrorCode, number>> = {
  INTERNAL: 13,
  INVALID_ARGUMENT: 3,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  FAILED_PRECONDITION: 9,
  UNAUTHENTICATED: 16,
  PERMISSION_DENIED: 7,
  CONFLICT: 10,
  COMPACTED: 11,
  TOO_SLOW: 8,
  UNAVAILABLE: 14,
  OUTCOME_UNKNOWN: 2,
  TIMEOUT: 4,
  ABORTED: 1,
  NO_SPACE: 8,
  STALE_EPOCH: 9,
  ATTACHED_ELSEWHERE: 9,
  DISK_FAILED: 13,
  CHECKSUM_MISMATCH: 15,
  FOREIGN_DATA: 9,
  IN_USE: 9,
  UNSAFE: 9,
  UNSAFE_PLAN: 9,
  PROTOCOL: 13,
};
