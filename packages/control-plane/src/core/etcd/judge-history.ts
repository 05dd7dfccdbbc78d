import { StorError } from '@stor/protocol';

/** What a node remembers of the etcd that its cluster is in. */
export interface SeenEtcd {
  /** etcd's own id of its cluster */
  clusterId: string;
  /** the newest revision that the node has heard of */
  revision: number;
  /** a key that was put at this revision: another past has not put it just then */
  put?: { key: string; revision: number } | undefined;
}

/** What an etcd says of itself. */
export interface EtcdWitness {
  /** of the server that answered */
  address: string;
  clusterId: string;
  revision: number;
  /**
   * of `put.key` as it was at `put.revision`: the revision of its change; null: there was none then;
   * undefined: etcd keeps nothing of that time any more
   */
  putRevision?: number | null | undefined;
}

const whatToDo =
  'Correct the list of etcd servers, or put the newest state of that etcd back. When that is lost: stop all agents and make the cluster store anew from a backup of the cluster (stor-agent --restore FILE), which raises all epochs; see docs/operating/etcd.md';

/**
 * FOREIGN_DATA when this is not the etcd that the node knows, or one that has gone back to an earlier
 * state: epochs that were granted since would be granted again (I2).
 */
export function judgeHistory(seen: SeenEtcd, now: EtcdWitness): StorError | null {
  const refuse = (what: string): StorError =>
    new StorError('FOREIGN_DATA', `${now.address} is refused: ${what}. ${whatToDo}`);
  if (now.clusterId !== seen.clusterId) {
    return refuse(
      `it belongs to etcd cluster ${now.clusterId}, and the state of this cluster is in ${seen.clusterId}`,
    );
  }
  if (now.revision < seen.revision) {
    return refuse(
      `it is at revision ${now.revision}, and this node has seen revision ${seen.revision}: it was emptied, or restored from an older backup`,
    );
  }
  const { put } = seen;
  if (!put || now.putRevision === undefined || now.putRevision === put.revision) return null;
  return refuse(
    `it knows nothing of the change of ${put.key} at revision ${put.revision}: it was restored from an older backup and written since`,
  );
}
