import type { DiskId, NodeId, PublicationId, ReplicaId, SnapshotId, VolumeId } from '../ids.ts';
import type { ReplicaPurpose } from './segment-status.ts';
import type { SnapshotPhase } from './snapshot.ts';
import type { VolumeQos } from '../qos.ts';
import type { Attachment, VolumePolicy } from './volume.ts';

/** What the control plane gives to a new primary. */
export interface AttachmentGrant extends VolumeSettings {
  name: string;
  sizeBytes: number;
  /** see VolumeRecord */
  segmentBytes?: number;
  mode: Attachment['mode'];
  /** false: the old primary may still hold replica leases, so they are waited out (I6) */
  previousReleased: boolean;
  /** an operator gave up writes that were never flushed, so that the volume can be served */
  acceptUnflushedLoss: boolean;
}

export interface GrantedReplica {
  id: ReplicaId;
  nodeId: NodeId;
  diskId: DiskId;
  host: string;
  port: number;
  /** the primary takes it out of the in-sync set when that leaves enough members */
  leaving: boolean;
  /** it is known to have failed for good: it will never answer */
  failed: boolean;
  purpose: ReplicaPurpose;
}

/** What a primary serves under and what may change meanwhile; sent again when the record changes. */
export interface VolumeSettings {
  volumeId: VolumeId;
  epoch: number;
  /** version of the record that it was made of; an older one than the last known changes nothing */
  resourceVersion: number;
  /** of the volume (bytes); a larger one than before: it has grown. Absent: as it was */
  sizeBytes?: number;
  /** wanted number of replicas: what the failure mode counts from */
  replicas: number;
  policy: VolumePolicy;
  /** limits, weight and guarantee. Absent: none, and the default weight */
  qos?: VolumeQos;
  /** Who alone is served. Absent: everybody. */
  publications?: { id: PublicationId; readOnly: boolean }[];
  /** It is being rolled back: no client is served before this is gone. Absent: it is not. */
  rollback?: { id: string };
  /**
   * The volume's snapshots. In a grant the list is complete: what a replica holds as prepared and
   * that is not `ready` here never became one. Later lists may be older than a snapshot that this
   * primary is taking, so what they do not name is left alone: only `deleting` ones are dropped.
   */
  snapshots?: {
    id: SnapshotId;
    /** abandoned: deleted, and never ready by the records; a replica that has it ready keeps it */
    state: SnapshotPhase | 'abandoned';
    /** of the volume when it was taken: segments behind it do not have it. Absent: not known */
    sizeBytes?: number;
  }[];
  segments: {
    index: number;
    /** as recorded; only a grant's counts: afterwards the primary alone changes the set (I4) */
    setRevision: number;
    inSync: ReplicaId[];
    /**
     * Nobody has acknowledged anything under `inSync` alone: each of these has every acknowledged
     * write, and a new primary begins with them. Absent: only those of `inSync` have.
     */
    unconfirmed?: ReplicaId[];
    /** those that are on their disks: ready ones and failed ones */
    replicas: GrantedReplica[];
  }[];
}
