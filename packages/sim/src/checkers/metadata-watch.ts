import type { CommittedSet, SimCluster } from '../cluster/sim-cluster.ts';

/** Looks this often (ms). */
const lookMs = 1_500;

/**
 * What never goes back: the highest epoch that a replica remembers, the revision of the set that it
 * recorded, epochs and revisions of the control plane. And no set is ever empty, and no change of a
 * set takes effect twice.
 */
export class MetadataWatch {
  readonly #cluster: SimCluster;
  readonly #problem: (detail: string) => void;
  readonly #epochs = new Map<string, number>();
  readonly #revisions = new Map<string, number>();
  readonly #committed = new Map<string, CommittedSet>();

  constructor(cluster: SimCluster, problem: (detail: string) => void) {
    this.#cluster = cluster;
    this.#problem = problem;
  }

  start(): void {
    const look = (): void => {
      this.#look();
      this.#cluster.scheduler.at(lookMs, look);
    };
    look();
  }

  committed(set: CommittedSet): void {
    if (set.inSync.length === 0) this.#problem(`${set.volume}: the in-sync set became empty`);
    const last = this.#committed.get(set.volume);
    if (last && set.epoch < last.epoch) {
      this.#problem(`${set.volume}: a set of epoch ${set.epoch} after one of ${last.epoch}`);
    }
    const isConfirmed =
      last?.setRevision === set.setRevision && set.whole.length < last.whole.length;
    if (isConfirmed) {
      // what follows is about changes
      this.#committed.set(set.volume, set);
      return;
    }
    if (last && set.epoch === last.epoch && set.setRevision <= last.setRevision) {
      this.#problem(`${set.volume}: set revision ${set.setRevision} was used before`);
    }
    // a primary asks for another set than the one it has, so nobody asked for this one
    const isNext = last?.epoch === set.epoch && set.setRevision === last.setRevision + 1;
    if (isNext && String(set.inSync) === String(last.inSync)) {
      this.#problem(`${set.volume}: the change to set revision ${last.setRevision} was made twice`);
    }
    this.#committed.set(set.volume, set);
  }

  #look(): void {
    for (const volume of this.#cluster.volumes) {
      for (const { replicaId, highestEpoch, setRevision } of this.#cluster.replicasOf(volume)) {
        const epoch = this.#epochs.get(replicaId) ?? 0;
        if (highestEpoch < epoch) {
          this.#problem(`${replicaId} forgot epoch ${epoch}: it knows ${highestEpoch}`);
        }
        this.#epochs.set(replicaId, Math.max(epoch, highestEpoch));
        const revision = this.#revisions.get(replicaId) ?? 0;
        if (setRevision < revision) {
          this.#problem(`${replicaId} forgot set revision ${revision}: it knows ${setRevision}`);
        }
        this.#revisions.set(replicaId, Math.max(revision, setRevision));
      }
    }
  }
}
