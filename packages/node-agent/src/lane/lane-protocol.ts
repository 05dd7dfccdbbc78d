import type {
  AgentDisk,
  ControlPlanePort,
  LiveVolume,
  LocalReplica,
  NewReplica,
  PrimaryAnswer,
  PrimaryOrder,
  ReplicaSpace,
  SnapshotDrop,
} from '@stor/control-plane';
import type {
  AttachmentGrant,
  DiskId,
  EventNote,
  NodeId,
  PeerLanes,
  QosClass,
  ReplicaId,
  ScrubOrder,
  ScrubProgress,
  SnapshotId,
  VolumeId,
  VolumeSettings,
} from '@stor/protocol';

import type { IntegrityCounters } from '@stor/replicator';
import type { SocketTarget } from '@stor/runtime';
import type { TlsSettings } from '../nbd/tls-files.ts';
import type { ClassQosReport } from '../qos/lane-turns.ts';
import type { VolumeQosReport } from '../qos/lane-volume.ts';

/** What a lane is started with (structured-clone data only). */
export interface LaneOptions {
  lane: number;
  clusterId: string;
  nodeId: NodeId;
  nodeName: string;
  agentInstance: string;
  bootId: string;
  dataDir: string;
  /** how many lanes the agent has */
  lanes: number;
  /** memory of the lock on the failure log (see ThreadLock) */
  failureLock: SharedArrayBuffer;
  host: string;
  peersPort: number;
  nbdPort: number;
  nbdUnixPath: string | null;
  diskReserveBytes: number | null;
  autoDetachMs: number;
  logLevel: string;
  /** may use up a core to wait for a client that sends one request after another @default false */
  busyPoll?: boolean;
  /** absent: NBD in the clear */
  nbdTls?: TlsSettings;
}

/** A disk that a lane is to open. */
export interface LaneDisk {
  diskId: DiskId;
  path: string;
  tag: string;
  labels?: Record<string, string>;
  /** `10%`, `20GiB`; absent: the default */
  reserve?: string;
  /** the block device that is mounted at `path` */
  device?: string;
  /** what to tell of it while it works */
  note?: string;
  /** why it cannot be opened now (its device is not there); the directory must not be touched then */
  unavailable?: string;
  /** reads and writes that it may have in the process's thread pool; absent: as the store says */
  pooledCalls?: number;
  /** a missing or empty directory becomes a disk */
  create: boolean;
}

/** Counters of one export since the lane started, and its latency histogram per operation. */
export interface ExportCounters {
  volume: string;
  volumeId: VolumeId;
  operations: {
    op: 'read' | 'write' | 'trim' | 'flush';
    count: number;
    bytes: number;
    errors: number;
    /** cumulative counts per bucket of `latencyBucketsSeconds`, then +Inf */
    buckets: number[];
    secondsSum: number;
  }[];
  connections: number;
  inflight: number;
}

export interface LaneCounters {
  exports: ExportCounters[];
  latencyBucketsSeconds: number[];
  nbdErrors: { error: string; count: number }[];
  /** connections that were turned away or cut off, see RefusalReason */
  nbdRefused: { reason: string; count: number }[];
  busyPollSeconds: number;
  disks: { diskId: DiskId; errors: number }[];
  /** connections of this node's clients that another node's primary serves, and what they carried */
  relays: { connections: number; readBytes: number; writtenBytes: number };
  /** the same of connections that came to another lane of this node than the volume's */
  crossings: { connections: number; readBytes: number; writtenBytes: number };
  /** bad blocks that the primaries of this lane found, and what their scrubs have read */
  integrity: IntegrityCounters;
  /** volumes that this node gave over to another while they were in use */
  handovers: number;
  /** of the volumes that are served now */
  qos: VolumeQosReport[];
  /** of background work */
  classes: ClassQosReport[];
}

/** Main thread to lane. */
export interface LaneMethods {
  /** Opens the listeners; IN_USE names the port that is taken. */
  listen(): Promise<{ peersPort: number; nbdPort: number }>;
  openDisk(entry: LaneDisk): Promise<AgentDisk>;
  /**
   * Closes a disk for good; an unknown one is closed already. FAILED_PRECONDITION while replicas lie
   * on it, unless it is `lost`.
   */
  closeDisk(diskId: DiskId, lost: boolean): Promise<void>;
  disks(): Promise<AgentDisk[]>;
  createReplica(diskId: DiskId, replica: NewReplica): Promise<void>;
  dropSnapshots(diskId: DiskId, replicaId: ReplicaId, drops: SnapshotDrop[]): Promise<SnapshotId[]>;
  replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]>;
  orderPrimary(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer>;
  /** Resolves with the volume that it was of; null when there was no such replica. */
  deleteReplica(diskId: DiskId, replicaId: ReplicaId): Promise<VolumeId | null>;
  /** Drops the counters of a volume that is not served by this lane. */
  forgetVolume(volumeId: VolumeId): Promise<void>;
  /** bytes that the replicas on this lane's disks take, by volume; those that have none are left out */
  allocatedBytes(volumeIds: VolumeId[]): Promise<Record<VolumeId, number>>;
  replicas(): Promise<LocalReplica[]>;
  attach(grant: AttachmentGrant): Promise<void>;
  detach(volumeId: VolumeId, epoch: number, ifIdle: boolean): Promise<'released' | 'busy' | 'gone'>;
  liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]>;
  /** Volumes of the tenant are attached on so many lanes of this node, which divide its share equally. */
  spreadTenant(name: string, lanes: number): Promise<void>;
  /** How the lane shares itself between clients and background work; limits are those of the node. */
  updateQosClasses(classes: QosClass[]): Promise<void>;
  updateVolume(settings: VolumeSettings): Promise<void>;
  handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'>;
  /** See AgentPort.scrub. */
  scrub(order: ScrubOrder): Promise<ScrubProgress | null>;
  peersChanged(peers: PeerLanes[]): Promise<void>;
  counters(): Promise<LaneCounters>;
  /** Stops serving: every attachment drains and is given back, none begins. Works twice. */
  giveUp(): Promise<void>;
  close(): Promise<void>;
}

/** Where a lane serves NBD for the other lanes of its node. */
export interface LaneTarget {
  lane: number;
  address: SocketTarget;
}

/** Lane to main thread: the control plane as far as the data path needs it. */
export interface MainMethods {
  /** Which lane of this node serves, or would serve, the volume. NOT_FOUND, UNAVAILABLE. */
  route(name: string): Promise<LaneTarget>;
  acquire(name: string): Promise<AttachmentGrant>;
  release: ControlPlanePort['release'];
  proposeSet: ControlPlanePort['proposeSet'];
  reportFailure: ControlPlanePort['reportFailure'];
  volumeNames: ControlPlanePort['volumeNames'];
  volumeInfo: ControlPlanePort['volumeInfo'];
  snapshotExport: ControlPlanePort['snapshotExport'];
  snapshotIds: ControlPlanePort['snapshotIds'];
  primaryAddress: ControlPlanePort['primaryAddress'];
  /** See ControlPlanePort.noteEvent; lost while the agent starts. */
  noteEvent(note: EventNote): Promise<void>;
}
