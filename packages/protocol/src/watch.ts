import type { Disk, Node, Policy, Snapshot, Volume } from './resources.ts';

/** Kinds of objects that can be watched. */
export const watchKinds = ['volume', 'node', 'disk', 'snapshot', 'policy'] as const;
export type WatchKind = (typeof watchKinds)[number];

export interface WatchedObjects {
  volume: Volume;
  node: Node;
  disk: Disk;
  snapshot: Snapshot;
  policy: Policy;
}

/** An object, and what became of it; a deleted one is shown as it was last. */
export type WatchedChange = {
  [Kind in WatchKind]: {
    type: 'ADDED' | 'MODIFIED' | 'DELETED';
    kind: Kind;
    id: string;
    object: WatchedObjects[Kind];
  };
}[WatchKind];

/**
 * Where a watch may go on, at any node: all changes up to `revision` are known. `history` tells apart
 * revisions that are not of the same count, as after a restore from a backup.
 */
export interface WatchPosition {
  history: string;
  revision: number;
}

/** What a node sends of a watch (message `WatchBatch`). */
export interface WatchBatch extends WatchPosition {
  changes: WatchedChange[];
  /** all up to `revision` has been sent: the position is one to go on from */
  complete: boolean;
  /** part of the objects as they were when the watch began; what is not among them is gone */
  listing: boolean;
}

/** Where a node is asked to begin. */
export interface WatchStart {
  kinds: readonly WatchKind[];
  /** only the object with this name or id; '': all */
  name: string;
  /** null: with all objects as they are */
  after: WatchPosition | null;
  /** with all objects again, but not as of before `after` */
  listAgain: boolean;
}

/** What a client of the API hears. */
export type WatchEvent =
  | (WatchedChange & { revision: number })
  /** All objects that there are have been told; once, and again never. */
  | { type: 'SYNCED'; revision: number }
  /** Nothing else has changed up to this revision. */
  | { type: 'BOOKMARK'; revision: number };

/** The wire has one field for each kind of object, and null in the others. */
type WireChange = Pick<WatchedChange, 'type' | 'kind' | 'id'> & Record<string, unknown>;

export function encodeWatchBatch(batch: WatchBatch): object {
  const changes = batch.changes.map(({ object, ...change }) => ({
    ...change,
    [change.kind]: object,
  }));
  return { ...batch, changes };
}

/** Objects of a kind that only a newer version knows are left out. */
export function decodeWatchBatch(wire: unknown): WatchBatch {
  const batch = wire as Omit<WatchBatch, 'changes'> & { changes: WireChange[] };
  const changes = batch.changes.flatMap(({ type, kind, id, ...objects }): WatchedChange[] => {
    const object = objects[kind] as WatchedObjects[WatchKind] | null | undefined;
    if (!object) return [];
    if (kind === 'snapshot') {
      const { status } = object as Snapshot;
      status.ownBytes ??= null;
    }
    return [{ type, kind, id, object } as WatchedChange];
  });
  const { history, revision, complete, listing } = batch;
  return { changes, history, revision, complete, listing };
}

export function encodeWatchStart({ kinds, name, after, listAgain }: WatchStart): object {
  const isAll = watchKinds.every((kind) => kinds.includes(kind));
  return {
    // a node of an older version knows fewer kinds, and none means all that it knows
    kinds: isAll ? [] : [...kinds],
    name,
    history: after?.history ?? '',
    afterRevision: after?.revision ?? 0,
    listAgain,
  };
}
