import { StorError } from '@stor/protocol';
import { RaftError } from 'raft-ts';

/** An error of raft-ts as ours: UNAVAILABLE when nothing has happened, else OUTCOME_UNKNOWN. */
export function fromRaft(error: unknown): StorError {
  if (!(error instanceof RaftError)) return StorError.from(error);
  switch (error.code) {
    case 'NOT_LEADER':
    case 'TOO_BUSY':
    case 'CLOSED':
    case 'ABORTED':
      return new StorError('UNAVAILABLE', error.message, { cause: error });
    default:
      return new StorError('OUTCOME_UNKNOWN', error.message, { cause: error });
  }
}

/** An error of opening the Raft log, or the one that stopped the node for good. */
export function fromRaftStorage(error: unknown, path: string): StorError {
  if (!(error instanceof RaftError)) return StorError.from(error);
  switch (error.code) {
    case 'IN_USE':
      return new StorError('IN_USE', `${path} is held by another process: is an agent running?`, {
        cause: error,
      });
    case 'UNSUPPORTED_FORMAT':
      return new StorError('FOREIGN_DATA', `${path}: ${error.message}`, { cause: error });
    case 'CORRUPT':
      return new StorError('CHECKSUM_MISMATCH', `${path}: ${error.message}`, { cause: error });
    case 'INTERNAL':
    case 'INVALID_ARGUMENT':
      return new StorError(error.code, error.message, { cause: error });
    default:
      return new StorError('DISK_FAILED', `${path}: ${error.message}`, { cause: error });
  }
}
