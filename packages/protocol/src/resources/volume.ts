import type { DiskId, NodeId, PublicationId, ReplicaId, SnapshotId, VolumeId } from '../ids.ts';
import type { QosField, QosSource } from '../qos-rules.ts';
import type { QosSpec } from '../qos.ts';
import type { Metadata } from './metadata.ts';
import type { PlacementRules } from './placement.ts';
import type { ReplicaPurpose, SegmentStatus } from './segment-status.ts';

/**
 * How many members an acknowledgement needs (DESIGN "Failure modes"): `hard` as many as the volume
 * has replicas, `soft` all but one, `threshold=N` N, `alwayson` one.
 */
export type FailureMode = 'hard' | 'soft' | 'alwayson' | `threshold=${number}`;

/** How a volume behaves when replicas are missing; all of it may be changed while it is in use. */
export interface VolumePolicy {
  failureMode: FailureMode;
  /** what happens to I/O while fewer members are in sync than the failure mode asks for */
  onLoss: 'suspend' | 'error';
  /** held I/O fails after this (ms); 0: it is held for as long as it takes */
  ioTimeoutMs: number;
  /** a replica that is away for longer is replaced on another node (ms) */
  replacementWaitMs: number;
  /**
   * What a volume does of which no reachable in-sync replica kept its memory while others cannot be
   * reached: `wait` for them (or for `volume recover`), or `accept` the loss of unflushed writes.
   */
  unflushedLoss: 'wait' | 'accept';
  /** resync and rebuild stand still */
  rebuildPaused: boolean;
  /** any node takes connections and relays them to the primary */
  shared: boolean;
}

export interface Attachment {
  nodeId: NodeId;
  agentInstance: string;
  epoch: number;
  /** auto: by a client's connection; manual: held until detach; repair: by a controller, for resync */
  mode: 'auto' | 'manual' | 'repair';
  sinceMs: number;
}

/**
 * The right of one host to use the volume as a device (ADR 19). As long as there is one, the volume is
 * served to connections that name it (`published:ID:NAME`), and to no others.
 */
export interface Publication {
  /** random, never used again */
  id: PublicationId;
  nodeId: NodeId;
  readOnly: boolean;
  /** who uses it there, for people: at most 128 characters */
  owner: string;
  sinceMs: number;
}

export type VolumeHealth =
  'creating' | 'healthy' | 'degraded' | 'suspended' | 'unavailable' | 'deleting';

/** What the control plane keeps of a volume. */
export interface VolumeRecord {
  metadata: Metadata;
  spec: {
    sizeBytes: number;
    /**
     * Bytes of every segment but the last, which may be smaller; absent in records from before there
     * were several (see segmentBytesOf). Never changes.
     */
    segmentBytes?: number;
    replicas: number;
    /** only disks of this tag take its replicas; absent: any */
    diskTag?: string;
    /** where they may lie beyond that; absent: the defaults */
    placement?: PlacementRules;
    /** an operator wants the volume attached on this node until `detach`; absent: on none */
    attachTo?: NodeId;
    policy: VolumePolicy;
    /** its own wishes, over those of its `policyName`; absent: none */
    qos?: QosSpec;
    /** of the `Policy` whose wishes it has; absent: none. (`policy` is how it bears losses.) */
    policyName?: string;
  };
  status: {
    phase: 'creating' | 'ready' | 'deleting';
    message: string;
    /** highest epoch ever granted; never under a lease, never goes back */
    epoch: number;
    attachment: Attachment | null;
    /** hosts that use it as a device; absent: none. More than one only of a shared volume. */
    publications?: Publication[];
    /**
     * The last holder gave the attachment back itself, with nothing in flight: the next primary
     * need not wait out its replica leases (I6).
     */
    cleanRelease: boolean;
    /**
     * `volume recover --accept-unflushed-loss` was given at this epoch: the next primary may begin
     * with those members that it reaches. Gone once a primary has used it.
     */
    acceptLossSinceEpoch?: number;
    segments: SegmentStatus[];
    /** a larger size is under way; absent: none is */
    growth?: VolumeGrowth;
    /** a rollback is under way; absent: none is */
    rollback?: VolumeRollback;
  };
}

/**
 * `volume rollback` between its first change and its last one. As long as it is recorded no client is
 * served, and whoever leads has it carried out: so clients see the volume before it or after it, and
 * never some of both.
 */
export interface VolumeRollback {
  /** of this order: another one for the same snapshot has another id */
  id: string;
  snapshotId: SnapshotId;
  /** what the volume was before; '': that was not kept */
  safetyId: SnapshotId;
  /** also while clients are connected */
  force: boolean;
  /** by the wall clock */
  sinceMs: number;
}

/**
 * `volume resize` between its first and its last step. Until then the volume has its old size; then
 * the size of the record and these segments are taken over in one change, or these are given up.
 */
export interface VolumeGrowth {
  sizeBytes: number;
  /** by the wall clock */
  sinceMs: number;
  /** those that follow the present ones; their replicas are being created */
  segments: SegmentStatus[];
}

/** What a clone was made of, by the names of that time; the source may be gone by now. */
export interface VolumeOrigin {
  volumeId: VolumeId;
  volume: string;
  snapshotId: SnapshotId;
  /** '': it was made of the live volume */
  snapshot: string;
}

/** A deleted volume that can be brought back. */
export interface TrashedVolume {
  /** `name` is what it was called; that name is free */
  metadata: Metadata;
  spec: { sizeBytes: number; replicas: number };
  status: {
    deletedAtMs: number;
    keptUntilMs: number;
    /** they come back with it */
    snapshots: number;
    /** where its replicas lie */
    nodes: string[];
    /** what it takes on each disk, snapshots included; null when no node could be asked */
    allocatedBytes: number | null;
  };
}

/** What `volume inspect` shows: the record and what follows from it and from the nodes. */
export interface Volume {
  metadata: Metadata;
  spec: Omit<VolumeRecord['spec'], 'attachTo'>;
  status: {
    health: VolumeHealth;
    /** one sentence: why it is not healthy, or empty */
    message: string;
    /** what the primary says of itself: serving, activating, holding, failing (I/O gets errors); '' */
    serving: string;
    primary: { nodeId: NodeId; node: string; mode: Attachment['mode']; sinceMs: number } | null;
    epoch: number;
    setRevision: number;
    replicas: {
      id: ReplicaId;
      /** index of the segment that it is a copy of */
      segment: number;
      nodeId: NodeId;
      node: string;
      diskId: DiskId;
      state: 'creating' | 'in-sync' | 'syncing' | 'out-of-sync' | 'failed' | 'node-down';
      /** while syncing, as the primary last said; else 0 */
      bytesRemaining: number;
      purpose: ReplicaPurpose;
      leaving: boolean;
    }[];
    allocatedBytes: number;
    /** ready ones */
    snapshots: number;
    /** what it is a clone of; null for any other */
    origin: VolumeOrigin | null;
    /**
     * What it takes on each disk that has a copy (bytes), each byte counted once; null when no node
     * was asked (`volume ls`), or none could be.
     */
    space: {
      /** in the live image */
      allocatedBytes: number;
      /** held by snapshots only */
      snapshotBytes: number;
      /** freed, and not yet given back to the file system */
      reclaimableBytes: number;
    } | null;
    nbdUri: string;
    /** hosts that use it as a device */
    publications: PublicationView[];
    /** absent: answered by an older version */
    qos?: VolumeQosStatus;
  };
}

export interface PublicationView extends Publication {
  node: string;
  /** the export that its connections name */
  exportName: string;
}

/** What a primary enforces for a volume, and where each value comes from. */
export interface VolumeQosStatus {
  effective: QosSpec;
  sources: Partial<Record<QosField, QosSource>>;
  /** absent: it is attached nowhere, or nobody could say */
  throttle?: VolumeThrottle;
}

/** Why a volume is as it is, for people: `storctl volume explain`. */
export interface VolumeExplanation {
  name: string;
  volumeId: VolumeId;
  health: VolumeHealth;
  /** one line: the state in words */
  state: string;
  /** what brought it there; one line each, most important first; empty when healthy */
  causes: { text: string; sinceMs: number | null }[];
  /** who holds it, since when, how; '' when nobody does */
  holder: string;
  /** since when it has been in this state, by the wall clock; null when not known */
  sinceMs: number | null;
  /** what happens next by itself */
  next: string[];
  /** what a person can do, with the exact command */
  advice: string[];
}

/** A replica that is being made equal: `storctl rebuild ls`. */
export interface Rebuild {
  volume: string;
  volumeId: VolumeId;
  replicaId: ReplicaId;
  nodeId: NodeId;
  node: string;
  /** returned: it was away; else why a new replica is filled */
  reason: 'returned' | 'replacement' | 'move' | 'update';
  /** waiting: not begun (back-off, no primary, node down) */
  state: 'running' | 'paused' | 'waiting';
  /** why it waits; '' else */
  message: string;
  /** node that the bytes come from; '' when not known */
  source: string;
  /** to be compared at the beginning, and still */
  bytesTotal: number;
  bytesRemaining: number;
  /** of what was compared, what differed and was copied */
  bytesCopied: number;
  bytesPerSecond: number;
  /** null when it cannot be said */
  etaMs: number | null;
  startedAtMs: number | null;
}

/** Whether requests of a volume wait right now, and for what. */
export interface VolumeThrottle {
  /** limit (its own or its policy's), tenant, contention (others go first); '': nothing waits */
  reason: string;
  /** whose limit it is: `volume`, `policy gold`, `tenant acme`; '' for no limit */
  source: string;
  /** those that are used up, as people write them: `read-iops` */
  limits: string[];
  /** requests that wait */
  queued: number;
  /** how long requests have waited since the volume was attached, all added up (ms) */
  limitMs: number;
  tenantMs: number;
  contentionMs: number;
}
