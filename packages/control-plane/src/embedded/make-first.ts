import path from 'node:path';
import { systemFiles, type Files } from '@stor/runtime';
import { inOnePiece, LevelRaftStorage, membershipOf } from 'raft-ts';
import { encodeSnapshot } from '../core/kv/kv-snapshot.ts';
import { fromRaftStorage } from './raft-errors.ts';
import { levelLogs, type RaftLogs } from './raft-logs.ts';
import { claimFolder, type StoreIdentity } from './store-identity.ts';

/**
 * Makes one member's part of an empty store in a folder of its own. All members are made with the
 * same `voters`, `learners` and `revision`: it is as if each had been sent the same first snapshot.
 * Done again after a crash, it keeps what is there.
 */
export async function makeFirstMember(options: {
  dataPath: string;
  identity: StoreIdentity;
  voters: readonly string[];
  learners: readonly string[];
  /** of the empty store */
  revision: number;
  files?: Files;
  logs?: RaftLogs;
}): Promise<void> {
  const { dataPath, identity, voters, learners, files = systemFiles, logs = levelLogs } = options;
  claimFolder(files, dataPath, identity);
  const none = { sequence: 0, items: [], leases: [], forgottenUpTo: 0, requests: [], extra: {} };
  const data = encodeSnapshot({ revision: options.revision, ...none });
  const membership = { ...membershipOf(voters), learners: [...learners].sort() };
  const position = { index: 1, term: 1 };
  const storage = await LevelRaftStorage.open(path.join(dataPath, 'log'), logs.open);
  try {
    if (await storage.load()) return;
    await storage.save({
      hardState: { term: 1, vote: null, commit: 1 },
      ...inOnePiece({ ...position, membership, data }),
      log: { type: 'reset', position },
      entries: [],
    });
  } catch (error) {
    throw fromRaftStorage(error, dataPath);
  } finally {
    await storage.close();
  }
}
