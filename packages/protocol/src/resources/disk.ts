import type { NodeId, ReplicaId, VolumeId } from '../ids.ts';
import type { Metadata } from './metadata.ts';

/** How full a disk or pool is, its reserve left out: nearly full from 80 %, full from 95 %. */
export type SpaceLevel = 'ok' | 'nearly-full' | 'full' | 'unknown';

export interface Disk {
  metadata: Metadata;
  spec: {
    nodeId: NodeId;
    /** the directory that holds the replicas */
    path: string;
    tag: string;
    /** the block device that the agent formatted and mounts there; '' for a directory */
    device: string;
    /** it takes no replica any more, and those that it has move elsewhere */
    evacuate: boolean;
    /** what may be guaranteed to volumes on it, per second; absent: no bound */
    iopsCapacity?: number;
    bpsCapacity?: number;
  };
  status: {
    /** failing: it had I/O errors, so what lies on it moves elsewhere; failed: nothing of it is served */
    state: 'online' | 'failing' | 'offline' | 'failed';
    message: string;
    capacityBytes: number;
    usedBytes: number;
    /** without the reserve */
    freeBytes: number;
    /** kept free for metadata and for others (`--reserve`) */
    reservedBytes: number;
    /** promised to volumes: the sum of the sizes of what has replicas here */
    provisionedBytes: number;
    replicas: number;
    space: SpaceLevel;
    /** which data-path thread of its node has it */
    lane: number;
  };
}

/** A replica as `disk inspect` shows it. */
export interface DiskReplicaView {
  id: ReplicaId;
  volume: string;
  volumeId: VolumeId;
  segment: number;
  sizeBytes: number;
  /** what it takes of the disk, as its node last said */
  allocatedBytes: number;
  /** creating, in-sync, out-of-sync, failed, in-trash (its volume was deleted and is kept) */
  state: string;
  leaving: boolean;
  /** in-sync replicas of the segment on other disks that work: 0 means that it is the last one */
  otherCopies: number;
}

export interface DiskInspection {
  disk: Disk;
  replicas: DiskReplicaView[];
  /** to the volumes that have replicas here, per second; absent: an older version answered */
  guaranteed?: { iops: number; bps: number };
  /** what happens next by itself */
  next: string[];
  /** what a person can do, with the exact command */
  advice: string[];
}

/** Where the replicas of a disk go, or why they cannot. */
export interface EvacuationPlan {
  disk: Disk;
  moves: {
    volume: string;
    replicaId: ReplicaId;
    segment: number;
    toNode: string;
    toDisk: string;
    bytes: number;
  }[];
  /** replicas that can go nowhere at present */
  blocked: { volume: string; replicaId: ReplicaId; segment: number; reason: string }[];
  /** to be copied */
  bytes: number;
}

/** The disks of one tag. */
export interface Pool {
  tag: string;
  disks: { total: number; online: number };
  nodes: number;
  capacityBytes: number;
  usedBytes: number;
  freeBytes: number;
  reservedBytes: number;
  /** of the free bytes, what new volumes must leave for rebuilds */
  repairReserveBytes: number;
  provisionedBytes: number;
  /** what may be promised at most */
  provisionLimitBytes: number;
  space: SpaceLevel;
  /** what fails first when it fills up or a node is lost */
  outlook: string[];
}

/** What holds for all disks of the cluster: `storctl pool set`. */
export interface ClusterSettings {
  /** volumes are thin: their sizes may sum up to this share of each disk's size (%) */
  overprovisionPercent: number;
  /** share of each disk that placing new volumes leaves free, so that lost replicas can be rebuilt (%) */
  repairReservePercent: number;
}
