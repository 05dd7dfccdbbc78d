import type { AttachmentGrant, EventNote, NodeId, ReplicaId, VolumeId } from '@stor/protocol';

/**
 * What the data path needs of the control plane. Implemented over messages to the agent's main
 * thread; a fake serves tests and the simulator.
 */
export interface ReplicatorControl {
  /**
   * Compare-and-set of a segment's in-sync set on (epoch, setRevision) (I4).
   * - `committed`: the set is now `inSync` with the new revision. It is above `rememberedRevision`
   *   too, the newest that replicas remember: else what an absent one remembers from before the
   *   control plane went back in time would be taken for newer than this set.
   *   `unconfirmed`: the next primary takes it that nothing was acknowledged under this set alone; ask
   *   again with the new revision and `confirms` before anything is.
   * - `superseded`: the epoch or the revision is another one; the primary must stop.
   * Rejects with UNAVAILABLE (nothing was sent) or OUTCOME_UNKNOWN: ask again with the same
   * arguments, which answers `committed` if the first try took effect.
   */
  proposeSet(proposal: {
    volumeId: VolumeId;
    segment: number;
    epoch: number;
    setRevision: number;
    rememberedRevision?: number;
    inSync: ReplicaId[];
    confirms?: boolean;
  }): Promise<
    | { outcome: 'committed'; setRevision: number; unconfirmed?: true }
    | { outcome: 'superseded'; reason: string }
  >;
  /** Something happened that people may want to know; absent: nobody listens. */
  noteEvent?(note: EventNote): Promise<void>;
}

/** How the engine of one attached volume is seen from outside (metrics, inspect, repair). */
export interface PrimaryStatus {
  volumeId: VolumeId;
  epoch: number;
  /** failing: I/O gets errors, as the policy says */
  state: 'activating' | 'serving' | 'holding' | 'failing' | 'stopping' | 'stopped';
  /** why it holds or is not serving yet; empty when serving */
  reason: string;
  /** for how long it has been in this state (ms) */
  stateAgeMs: number;
  segments: {
    index: number;
    setRevision: number;
    inSync: ReplicaId[];
    members: {
      replicaId: ReplicaId;
      nodeId: NodeId;
      state: 'in-sync' | 'joining' | 'syncing' | 'connecting' | 'absent' | 'failed';
      bytesRemaining: number;
      /** it has no room for a new chunk: writes that need one are refused */
      noSpace?: boolean;
      resync?: ResyncStatus;
    }[];
    settleBytesRemaining: number;
    /** writes refused for lack of space, since this primary began */
    noSpaceWrites?: number;
    /** blocks that did not verify at a member, and those of them that were repaired (I9) */
    badBlocks?: { found: number; repaired: number };
  }[];
}

/** How far a replica's way back is. */
export interface ResyncStatus {
  state: 'running' | 'paused' | 'waiting';
  /** why it waits; '' else */
  message: string;
  sourceReplicaId: ReplicaId | null;
  /** to be compared at the beginning, and still */
  bytesTotal: number;
  bytesRemaining: number;
  /** of what was compared, what differed and was copied */
  bytesCopied: number;
  bytesPerSecond: number;
  elapsedMs: number;
}

export type { AttachmentGrant };
