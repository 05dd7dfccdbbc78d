import type { ClusterId, DiskId, NodeId, ReplicaId, VolumeId } from './ids.ts';

/** What every resource carries. `resourceVersion` is the store revision of its last change. */
export interface Metadata {
  id: string;
  name: string;
  labels: Record<string, string>;
  createdAtMs: number;
  resourceVersion: number;
}

export interface NodeAddresses {
  /** host:port of the gRPC API */
  api: string;
  /** host:port of HTTP: /metrics, /healthz, /readyz */
  http: string;
  /** host:port of the replication listener of each lane */
  peers: string[];
  /** host:port of the NBD listener of each lane */
  nbd: string[];
  /** path of the NBD UNIX socket of each lane */
  nbdUnix: string[];
}

export interface Node {
  metadata: Metadata;
  spec: Record<string, never>;
  status: {
    /** up: holds its node lease */
    state: 'up' | 'down';
    addresses: NodeAddresses;
    /** changes at each start of the agent process */
    agentInstance: string;
    bootId: string;
    version: string;
    raftRole: 'leader' | 'follower' | 'none';
  };
}

export interface Disk {
  metadata: Metadata;
  spec: { nodeId: NodeId; path: string; tag: string };
  status: {
    state: 'online' | 'offline' | 'failed';
    message: string;
    capacityBytes: number;
    usedBytes: number;
    freeBytes: number;
  };
}

export interface VolumeReplica {
  id: ReplicaId;
  nodeId: NodeId;
  diskId: DiskId;
  /** creating: not on its disk yet */
  state: 'creating' | 'ready' | 'failed';
}

/** One segment's membership: changed only by compare-and-set on (epoch, setRevision) (I4). */
export interface SegmentStatus {
  index: number;
  setRevision: number;
  replicas: VolumeReplica[];
  inSync: ReplicaId[];
}

export interface Attachment {
  nodeId: NodeId;
  agentInstance: string;
  epoch: number;
  /** auto: by a client's connection; manual: held until detach; repair: by a controller, for resync */
  mode: 'auto' | 'manual' | 'repair';
  sinceMs: number;
}

export type VolumeHealth = 'creating' | 'healthy' | 'degraded' | 'unavailable' | 'deleting';

/** What the control plane keeps of a volume. */
export interface VolumeRecord {
  metadata: Metadata;
  spec: {
    sizeBytes: number;
    replicas: number;
    /** an operator wants the volume attached on this node until `detach`; absent: on none */
    attachTo?: NodeId;
  };
  status: {
    phase: 'creating' | 'ready' | 'deleting';
    message: string;
    /** highest epoch ever granted; never under a lease, never goes back */
    epoch: number;
    attachment: Attachment | null;
    /**
     * The last holder gave the attachment back itself, with nothing in flight: the next primary
     * need not wait out its replica leases (I6).
     */
    cleanRelease: boolean;
    segments: SegmentStatus[];
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
    primary: { nodeId: NodeId; node: string; mode: Attachment['mode']; sinceMs: number } | null;
    epoch: number;
    setRevision: number;
    replicas: {
      id: ReplicaId;
      nodeId: NodeId;
      node: string;
      diskId: DiskId;
      state: 'creating' | 'in-sync' | 'syncing' | 'out-of-sync' | 'failed' | 'node-down';
      /** while syncing, as the primary last said; else 0 */
      bytesRemaining: number;
    }[];
    allocatedBytes: number;
    nbdUri: string;
  };
}

export interface ClusterStatus {
  clusterId: ClusterId;
  name: string;
  version: string;
  leader: { nodeId: NodeId; node: string } | null;
  term: number;
  quorum: boolean;
  nodes: { total: number; up: number };
  disks: { total: number; online: number; capacityBytes: number; usedBytes: number };
  volumes: { total: number; healthy: number; degraded: number; unavailable: number };
}

/** What the control plane gives to a new primary. */
export interface AttachmentGrant {
  volumeId: VolumeId;
  name: string;
  sizeBytes: number;
  epoch: number;
  mode: Attachment['mode'];
  /** false: the old primary may still hold replica leases, so they are waited out (I6) */
  previousReleased: boolean;
  segments: {
    index: number;
    setRevision: number;
    inSync: ReplicaId[];
    replicas: { id: ReplicaId; nodeId: NodeId; diskId: DiskId; host: string; port: number }[];
  }[];
}
