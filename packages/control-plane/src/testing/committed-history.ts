import { join } from 'node:path';
import { LevelRaftStorage } from 'raft-ts';
import { ClusterStoreMachine } from '../cluster-store-machine.ts';
import { volumesPrefix } from '../resources/keys.ts';
import { decodeVolume } from '../resources/records.ts';
import type { StoredVolume } from '../resources/records.ts';

/** How a volume's record was after one committed change of it. */
export interface CommittedVolume {
  revision: number;
  /** nodes that have an in-sync replica, of the segment that has fewest */
  inSync: number;
}

/**
 * Every state of a volume's record that was ever committed, in order, from the Raft log of a node whose
 * agent does not run: what a watch of the store would have seen, and nothing in between is missed. Throws
 * when the log has been compacted, since it then begins too late.
 */
export async function committedHistory(
  dataDir: string,
  volume: string,
): Promise<CommittedVolume[]> {
  const storage = await LevelRaftStorage.open(join(dataDir, 'raft', 'log'));
  try {
    const stored = await storage.load();
    if (!stored || stored.start.index > 0) throw new Error(`the log in ${dataDir} was compacted`);
    const machine = new ClusterStoreMachine();
    const history: CommittedVolume[] = [];
    for (const entry of stored.entries) {
      if (entry.index > stored.hardState.commit) break;
      if (entry.type !== 'normal') continue;
      machine.apply([entry]);
      const { state } = machine;
      for (const { key, value, modRevision } of state.list(volumesPrefix)) {
        if (modRevision !== state.revision) continue;
        const record = decodeVolume(key, value);
        const isNew = history.at(-1)?.revision !== modRevision;
        if (record.metadata.name === volume && isNew)
          history.push({ revision: modRevision, inSync: inSyncCount(record) });
      }
    }
    return history;
  } finally {
    await storage.close();
  }
}

/** A move from disk to disk has two on one node for a while, which count as one. */
function inSyncCount({ status }: StoredVolume): number {
  const counts = status.segments.map(({ replicas, inSync }) => {
    const members = replicas.filter(({ id }) => inSync.includes(id));
    return new Set(members.map(({ nodeId }) => nodeId)).size;
  });
  return Math.min(...counts);
}
