import type { SnapshotId } from '@stor/protocol';

import type { ReplicaSnapshot } from '../../replica-snapshots.ts';

/** The snapshots of a member as its primary knows them: as it said, and what it was told since. */
export class SnapshotList {
  #snapshots: ReplicaSnapshot[];
  #headParent: SnapshotId | null;

  constructor(snapshots: readonly ReplicaSnapshot[] = [], headParent: SnapshotId | null = null) {
    this.#snapshots = [...snapshots];
    this.#headParent = headParent;
  }

  /** in the order in which they were taken */
  get all(): readonly ReplicaSnapshot[] {
    return this.#snapshots;
  }
  get headParent(): SnapshotId | null {
    return this.#headParent;
  }

  taken(snapshot: Omit<ReplicaSnapshot, 'parent' | 'ownBytes'>): void {
    const { snapshotId } = snapshot;
    if (this.#snapshots.some((each) => each.snapshotId === snapshotId)) return;
    this.#snapshots.push({ ...snapshot, parent: this.#headParent, ownBytes: 0 });
    this.#headParent = snapshotId;
  }

  confirmed(id: SnapshotId, mostBytes = Infinity): void {
    this.#snapshots = this.#snapshots.map((each) => {
      if (each.snapshotId !== id || each.state === 'ready') return each;
      return { ...each, state: 'ready', sizeBytes: Math.min(each.sizeBytes, mostBytes) };
    });
  }

  dropped(id: SnapshotId): void {
    const gone = this.#snapshots.find((each) => each.snapshotId === id);
    if (!gone) return;
    const { parent } = gone;
    this.#snapshots = this.#snapshots
      .filter((each) => each !== gone)
      .map((each) => (each.parent === id ? { ...each, parent } : each));
    if (this.#headParent === id) this.#headParent = parent;
  }

  rolledBack(id: SnapshotId): void {
    this.#headParent = id;
  }
}

export function findSnapshot(
  snapshots: readonly ReplicaSnapshot[],
  id: SnapshotId | null,
): ReplicaSnapshot | null {
  return snapshots.find(({ snapshotId }) => snapshotId === id) ?? null;
}

/** How long a snapshot is: a replica that took it late, when it had grown, has a longer copy. */
export function snapshotBytes(
  replicas: readonly { readonly snapshots: readonly ReplicaSnapshot[] }[],
  id: SnapshotId,
): number | undefined {
  const sizes = replicas.flatMap(({ snapshots }) => findSnapshot(snapshots, id)?.sizeBytes ?? []);
  return sizes.length > 0 ? Math.min(...sizes) : undefined;
}
