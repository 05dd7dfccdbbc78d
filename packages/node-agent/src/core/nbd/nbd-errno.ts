import type { ErrorCode } from '@stor/protocol';
import { errno, optionReplyType } from 'nbd-client-js';

/**
 * The error number of a reply in the transmission phase. Only numbers of the specification's list
 * ("Error values") may be sent. ESHUTDOWN is for everything that another connection, to the node
 * that serves the volume now, may cure: a client that reconnects by itself knows it from a bad disk.
 */
export const nbdErrnoOf: Readonly<Record<ErrorCode, number>> = {
  NO_SPACE: errno.ENOSPC,
  INVALID_ARGUMENT: errno.EINVAL,
  PERMISSION_DENIED: errno.EPERM,
  UNAUTHENTICATED: errno.EPERM,
  ABORTED: errno.ESHUTDOWN,
  UNAVAILABLE: errno.ESHUTDOWN,
  STALE_EPOCH: errno.ESHUTDOWN,
  ATTACHED_ELSEWHERE: errno.ESHUTDOWN,
  INTERNAL: errno.EIO,
  NOT_FOUND: errno.EIO,
  ALREADY_EXISTS: errno.EIO,
  FAILED_PRECONDITION: errno.EIO,
  CONFLICT: errno.EIO,
  COMPACTED: errno.EIO,
  TOO_SLOW: errno.EIO,
  OUTCOME_UNKNOWN: errno.EIO,
  TIMEOUT: errno.EIO,
  DISK_FAILED: errno.EIO,
  CHECKSUM_MISMATCH: errno.EIO,
  FOREIGN_DATA: errno.EIO,
  IN_USE: errno.EIO,
  UNSAFE: errno.EIO,
  UNSAFE_PLAN: errno.EIO,
  PROTOCOL: errno.EIO,
};

/**
 * The reply to an option that asked for an export ("Option reply types"). ERR_SHUTDOWN makes a client
 * leave, so it is for what will pass; ERR_POLICY carries the reason in its text.
 */
export const nbdOptionErrorOf: Readonly<Record<ErrorCode, number>> = {
  NOT_FOUND: optionReplyType.errUnknown,
  INVALID_ARGUMENT: optionReplyType.errUnknown,
  UNAVAILABLE: optionReplyType.errShutdown,
  ABORTED: optionReplyType.errShutdown,
  TIMEOUT: optionReplyType.errShutdown,
  OUTCOME_UNKNOWN: optionReplyType.errShutdown,
  STALE_EPOCH: optionReplyType.errShutdown,
  CONFLICT: optionReplyType.errShutdown,
  COMPACTED: optionReplyType.errShutdown,
  TOO_SLOW: optionReplyType.errShutdown,
  ATTACHED_ELSEWHERE: optionReplyType.errPolicy,
  FAILED_PRECONDITION: optionReplyType.errPolicy,
  PERMISSION_DENIED: optionReplyType.errPolicy,
  UNAUTHENTICATED: optionReplyType.errPolicy,
  IN_USE: optionReplyType.errPolicy,
  ALREADY_EXISTS: optionReplyType.errPolicy,
  NO_SPACE: optionReplyType.errPolicy,
  UNSAFE: optionReplyType.errPolicy,
  UNSAFE_PLAN: optionReplyType.errPolicy,
  INTERNAL: optionReplyType.errPolicy,
  DISK_FAILED: optionReplyType.errPolicy,
  CHECKSUM_MISMATCH: optionReplyType.errPolicy,
  FOREIGN_DATA: optionReplyType.errPolicy,
  PROTOCOL: optionReplyType.errPolicy,
};
