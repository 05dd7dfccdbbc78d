import { StorError } from '@stor/protocol';
import type { ErrorCode } from '@stor/protocol';

/** gRPC status numbers (grpc/grpc doc/statuscodes.md) that the driver answers with. */
export const status = {
  OK: 0,
  CANCELLED: 1,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;
export type CsiCode = keyof typeof status;

/**
 * How errors of Stor leave over CSI. An orchestrator takes ABORTED, UNAVAILABLE and DEADLINE_EXCEEDED for
 * "it may have been done: ask again", and the others for the end of the matter; so whatever is not known to
 * have failed is one of those three.
 */
const codeOf: Readonly<Record<ErrorCode, CsiCode>> = {
  INTERNAL: 'INTERNAL',
  INVALID_ARGUMENT: 'INVALID_ARGUMENT',
  NOT_FOUND: 'NOT_FOUND',
  ALREADY_EXISTS: 'ALREADY_EXISTS',
  FAILED_PRECONDITION: 'FAILED_PRECONDITION',
  PERMISSION_DENIED: 'PERMISSION_DENIED',
  UNAUTHENTICATED: 'UNAUTHENTICATED',
  CONFLICT: 'ABORTED',
  COMPACTED: 'ABORTED',
  TOO_SLOW: 'UNAVAILABLE',
  UNAVAILABLE: 'UNAVAILABLE',
  OUTCOME_UNKNOWN: 'UNAVAILABLE',
  TIMEOUT: 'DEADLINE_EXCEEDED',
  ABORTED: 'ABORTED',
  NO_SPACE: 'RESOURCE_EXHAUSTED',
  STALE_EPOCH: 'FAILED_PRECONDITION',
  ATTACHED_ELSEWHERE: 'FAILED_PRECONDITION',
  DISK_FAILED: 'INTERNAL',
  CHECKSUM_MISMATCH: 'DATA_LOSS',
  FOREIGN_DATA: 'FAILED_PRECONDITION',
  IN_USE: 'FAILED_PRECONDITION',
  UNSAFE: 'FAILED_PRECONDITION',
  UNSAFE_PLAN: 'FAILED_PRECONDITION',
  PROTOCOL: 'INTERNAL',
};

/** Under which the details of an error of this driver name its CSI code. */
const codeKey = 'csiCode';

/** The nearest code of Stor to one of CSI, for whoever looks at the error as such. */
const nearest: Readonly<Partial<Record<CsiCode, ErrorCode>>> = {
  NOT_FOUND: 'NOT_FOUND',
  ALREADY_EXISTS: 'ALREADY_EXISTS',
  FAILED_PRECONDITION: 'FAILED_PRECONDITION',
  RESOURCE_EXHAUSTED: 'NO_SPACE',
  ABORTED: 'CONFLICT',
  UNAVAILABLE: 'UNAVAILABLE',
};

/** An error with the code that the specification gives the condition. */
export function csiError(code: CsiCode, message: string, cause?: unknown): StorError {
  return new StorError(nearest[code] ?? 'INVALID_ARGUMENT', message, {
    details: { [codeKey]: code },
    ...(cause === undefined ? {} : { cause }),
  });
}

/** What the client gets for any thrown value. */
export function csiStatusOf(thrown: unknown): { code: CsiCode; number: number; message: string } {
  const error = StorError.from(thrown);
  const own = error.details[codeKey];
  const code = own !== undefined && own in status ? (own as CsiCode) : codeOf[error.code];
  return { code, number: status[code], message: error.message };
}
