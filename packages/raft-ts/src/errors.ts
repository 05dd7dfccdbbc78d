/** Codes of every error of this library; stable, to be compared by programs. */
export type RaftErrorCode =
  /** This node does not lead; nothing happened. `details.leaderId` names the leader, if known. */
  | 'NOT_LEADER'
  /** The entry was appended, then leadership was lost or the node closed: it may still commit. */
  | 'OUTCOME_UNKNOWN'
  /** A bound on work in flight was reached; nothing happened. Try again later. */
  | 'TOO_BUSY'
  /** Another change of members, or a transfer of leadership, is under way; nothing happened. */
  | 'CHANGE_PENDING'
  /** What was waited for did not happen in its time; it may still. */
  | 'TIMED_OUT'
  /** The caller gave up before anything happened. */
  | 'ABORTED'
  /** The node is closed, or stopped by a fault; nothing happened. */
  | 'CLOSED'
  /** The caller passed what the contract forbids; nothing happened. */
  | 'INVALID_ARGUMENT'
  /** Stored or received bytes are not what was written. */
  | 'CORRUPT'
  /** The store was written by a newer version. */
  | 'UNSUPPORTED_FORMAT'
  /** Another process holds the store. */
  | 'IN_USE'
  /** The store has no room left; what is on it is as good as before. */
  | 'DISK_FULL'
  /** The store could not read or write. */
  | 'STORAGE_FAILED'
  /** An invariant of the algorithm is broken: the node stops rather than go on. */
  | 'INTERNAL';

/** The one error class of raft-ts. */
export class RaftError extends Error {
  readonly code: RaftErrorCode;
  /** Facts for programs, for example `leaderId` of NOT_LEADER. */
  readonly details: Readonly<Record<string, string>>;

  constructor(
    code: RaftErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, string> } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'RaftError';
    this.code = code;
    this.details = options.details ?? {};
  }
}

/** Throws INTERNAL unless `condition` holds: for what no input from outside can cause. */
export function invariant(condition: boolean, message: string): asserts condition {
  if (!condition) throw new RaftError('INTERNAL', message);
}
