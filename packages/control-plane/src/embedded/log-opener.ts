import path from 'node:path';
import { systemFiles } from '@stor/runtime';
import type { OpenKeyValueLog } from 'raft-ts';
import { Ballast } from './ballast.ts';
import type { EmbeddedStoreOptions } from './open-node.ts';
import { levelLogs } from './raft-logs.ts';
import { RoomyLog } from './roomy-log.ts';

/** How the Raft log is opened; on a file system that may be full so that it waits for room. */
export function logOpener(options: EmbeddedStoreOptions): OpenKeyValueLog {
  const { dataPath, clock, logger, files = systemFiles, logs = levelLogs } = options;
  const { open } = logs;
  if (!logs.needsBallast) return open;
  const ballast = new Ballast(files, dataPath, path.join(dataPath, 'ballast'));
  return (logPath) => RoomyLog.open(logPath, { open, ballast, clock, logger });
}
