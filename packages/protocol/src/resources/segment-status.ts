import type { DiskId, NodeId, ReplicaId, SnapshotId } from '../ids.ts';

/** Why a replica was placed: with its volume, for a lost one, by a move, by a higher count. */
export type ReplicaPurpose = 'volume' | 'replacement' | 'move' | 'update';

export interface VolumeReplica {
  id: ReplicaId;
  nodeId: NodeId;
  diskId: DiskId;
  /** creating: not on its disk yet */
  state: 'creating' | 'ready' | 'failed';
  /** absent in records from before it: `volume` */
  purpose?: ReplicaPurpose;
  /** when it was placed, by the wall clock; absent in older records */
  placedAtMs?: number;
  /**
   * It goes as soon as enough others are in sync: `move` and a lower replica count set it. Until
   * then it is a member as before.
   */
  leaving?: boolean;
  /** it is made as the image of this snapshot of a replica on the same disk */
  cloneOf?: { replicaId: ReplicaId; snapshotId: SnapshotId };
  /** said of one that was added: it was in the in-sync set, so it has been filled */
  filled?: boolean;
}

export interface RemovedReplica {
  id: ReplicaId;
  nodeId: NodeId;
  diskId: DiskId;
  /** it never was in a set: one that has served nevertheless is not deleted */
  unused?: boolean;
}

/** One segment's membership: changed only by compare-and-set on (epoch, setRevision) (I4). */
export interface SegmentStatus {
  index: number;
  setRevision: number;
  replicas: VolumeReplica[];
  inSync: ReplicaId[];
  /**
   * The set has shrunk to one node, and its primary has not said yet that it acknowledges anything
   * under it alone. Until then these replicas, those of the set included, have every acknowledged
   * write. Counts only while `epoch` is the volume's: whoever grants the next one writes that here too.
   */
  unconfirmed?: { epoch: number; members: ReplicaId[] };
  /** when `inSync` last changed, by the wall clock; absent in older records */
  changedAtMs?: number;
  /**
   * Replicas that are not part of the segment any more and still lie on a disk: their nodes delete
   * them and report it, then they are forgotten.
   */
  removed?: RemovedReplica[];
}
