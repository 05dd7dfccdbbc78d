import type { AttachmentGrant, NodeId, ReplicaId, VolumeId } from '@stor/protocol';

/**
 * What the data path needs of the control plane. Implemented over messages to the agent's main
 * thread; a fake serves tests and the simulator.
 */
export interface ReplicatorControl {
  /**
   * Compare-and-set of a segment's in-sync set on (epoch, setRevision) (I4).
   * - `committed`: the set is now `inSync` with the new revision.
   * - `superseded`: the epoch or the revision is another one; the primary must stop.
   * Rejects with UNAVAILABLE (nothing was sent) or OUTCOME_UNKNOWN: ask again with the same
   * arguments, which answers `committed` if the first try took effect.
   */
  proposeSet(proposal: {
    volumeId: VolumeId;
    segment: number;
    epoch: number;
    setRevision: number;
    inSync: ReplicaId[];
  }): Promise<
    { outcome: 'committed'; setRevision: number } | { outcome: 'superseded'; reason: string }
  >;
}

/** How the engine of one attached volume is seen from outside (metrics, inspect, repair). */
export interface PrimaryStatus {
  volumeId: VolumeId;
  epoch: number;
  state: 'activating' | 'serving' | 'holding' | 'stopping' | 'stopped';
  /** why it holds or is not serving yet; empty when serving */
  reason: string;
  segments: {
    index: number;
    setRevision: number;
    inSync: ReplicaId[];
    members: {
      replicaId: ReplicaId;
      nodeId: NodeId;
      state: 'in-sync' | 'joining' | 'syncing' | 'connecting' | 'absent' | 'failed';
      bytesRemaining: number;
    }[];
    settleBytesRemaining: number;
  }[];
}

export type { AttachmentGrant };
