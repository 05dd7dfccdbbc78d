import { existsSync } from 'node:fs';
import { openLevelLog, type OpenKeyValueLog } from 'raft-ts';

/** The stores that Raft logs are kept in, by directory; `MemoryKeyValueDisk` of raft-ts is a model. */
export interface RaftLogs {
  open: OpenKeyValueLog;
  /** Has a log been opened in this directory before? */
  exists(path: string): boolean;
  /** they lie on a file system that may be full: room is kept for them */
  readonly needsBallast?: boolean;
}

/** Raft logs in LevelDB. */
export const levelLogs: RaftLogs = {
  open: openLevelLog,
  exists: existsSync,
  needsBallast: true,
};
