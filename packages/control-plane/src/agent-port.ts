import type {
  Attachment,
  AttachmentGrant,
  DiskId,
  EventNote,
  NodeId,
  PeerLanes,
  QosClass,
  ReplicaId,
  SnapshotId,
  SnapshotName,
  ScrubOrder,
  ScrubProgress,
  VolumeId,
  VolumeSettings,
} from '@stor/protocol';
import type { SnapshotExport } from './core/volume/export-snapshot.ts';
import type { HostAnswer, HostOrder } from './host-order.ts';

export interface AgentDisk {
  diskId: DiskId;
  path: string;
  tag: string;
  labels?: Record<string, string>;
  /** the block device that is mounted at `path`; absent: a directory */
  device?: string;
  state: 'online' | 'failed';
  /** failed for good (I7): its replicas are lost; not so when it only cannot be opened now */
  isLost?: boolean;
  message: string;
  capacityBytes: number;
  usedBytes: number;
  freeBytes: number;
  /** kept free of replicas; `freeBytes` does not count it */
  reservedBytes?: number;
  /** why it is not to be trusted although it answers: I/O errors; absent: it is */
  trouble?: string;
  /** which lane of the node has it; absent: 0 */
  lane?: number;
}

/** What is to become a disk of the node. */
export interface DiskOrder {
  /** of a directory, or of a block device that is formatted and mounted */
  path: string;
  tag: string;
  labels: Record<string, string>;
  /** `10%` or `20GiB`; '': the default */
  reserve: string;
  /** a device that is not empty loses what is on it */
  forceFormat: boolean;
}

export interface LocalReplica {
  diskId: DiskId;
  replicaId: ReplicaId;
  volumeId: VolumeId;
  /** what it takes of its disk */
  allocatedBytes?: number;
  /** why it failed for good (I7); absent when it did not */
  failure?: string;
  /** the newest in-sync set that it served under, as it keeps it durably; absent: none, or unknown */
  setView?: { epoch: number; setRevision: number; members: ReplicaId[] };
}

/** A replica as its primary sees it right now. */
export interface LiveReplica {
  replicaId: ReplicaId;
  /** in-sync, joining, syncing, connecting, absent, failed */
  state: string;
  /** while it is made equal, else 0: what is still to be compared */
  bytesRemaining: number;
  /** its disk has no room for a new chunk: writes that need one get ENOSPC */
  noSpace?: boolean;
  /** of the resync that runs, or waits; absent when none is wanted */
  resync?: LiveResync;
}

export interface LiveResync {
  state: 'running' | 'paused' | 'waiting';
  /** why it waits; '' else */
  message: string;
  sourceReplicaId: ReplicaId | null;
  bytesTotal: number;
  bytesRemaining: number;
  bytesCopied: number;
  bytesPerSecond: number;
  /** how long it has run (ms) */
  elapsedMs: number;
}

/** What a primary says of itself right now. */
export interface LiveVolume {
  volumeId: VolumeId;
  epoch: number;
  /** serving, activating, holding (I/O waits), failing (I/O gets errors), stopping */
  state: string;
  /** why it is not serving; '' else */
  reason: string;
  /** for how long it has been in this state (ms) */
  stateAgeMs: number;
  connections: number;
  /** as its clients see it (bytes); absent: it does not serve yet */
  sizeBytes?: number;
  allocatedBytes: number;
  /** what is left to settle after an unclean stop */
  settleBytesRemaining: number;
  /** writes refused for lack of space since it became primary; only known on its own node */
  noSpaceWrites?: number;
  /** which lane of the node serves it; absent: 0 */
  lane?: number;
  /** blocks that did not verify at a member since it became primary, and those repaired (I9) */
  badBlocks?: { found: number; repaired: number };
  replicas: LiveReplica[];
  /** absent: a node of an older version */
  throttle?: LiveThrottle;
}

/** What the clients of a volume wait for at their limits, and what they had since it became primary. */
export interface LiveThrottle {
  /** what the oldest request that waits waits for: limit, tenant, contention; '': none waits */
  waitsFor: string;
  /** those of the volume, or of its tenant, that are used up now (readIops) */
  limits: string[];
  /** requests that wait now */
  queued: number;
  /** how long requests waited, by reason (ms) */
  limitMs: number;
  tenantMs: number;
  contentionMs: number;
  /** as limits count them; nothing while nothing limits the volume */
  readOps: number;
  writeOps: number;
  readBytes: number;
  writeBytes: number;
}

export interface SnapshotDrop {
  id: SnapshotId;
  /** the records never called it ready: it is dropped only if it is not ready here either */
  neverReady: boolean;
}

/** What takes place on a replica of this node. */
export interface NewReplica {
  replicaId: ReplicaId;
  volumeId: VolumeId;
  segment: number;
  sizeBytes: number;
  /** it begins as the image of this snapshot of a replica on the same disk, and shares its space */
  cloneOf?: { replicaId: ReplicaId; snapshotId: SnapshotId };
}

/** The space that one replica takes on its disk (bytes), each byte counted once. */
export interface ReplicaSpace {
  replicaId: ReplicaId;
  volumeId: VolumeId;
  /** what its live image reads as data */
  allocatedBytes: number;
  /** held by snapshots only */
  snapshotBytes: number;
  /** freed, and not yet given back to the file system */
  reclaimableBytes: number;
  /** `ownBytes`: what deleting it would free; `state`: prepared, ready, incomplete */
  snapshots: { id: SnapshotId; ownBytes: number; state: string; sizeBytes: number }[];
}

/**
 * What the primary of a volume is asked to do about snapshots, all segments at once.
 * - take: flush, hold, prepare, release and seal in one; TIMEOUT when clients would have to wait for
 *   longer than `holdMs`: then nothing is left behind
 * - flush: as a client's, so that the hold that follows is short
 * - hold: new requests wait until `release`, or until `holdMs` are over; those started are drained
 * - prepare, under a hold: durable on every in-sync replica
 * - release: `intact` says whether the hold had lasted until now; if not, what was prepared is void
 * - seal: what was prepared has all its bytes durable on every in-sync replica
 * - confirm, drop: on every replica that can be reached; for an unknown id there is nothing to do
 * - rollback: the volume becomes what it was, as its record asks at `version` under `id`. Clients wait
 *   until the record does not name it any more. FAILED_PRECONDITION while clients are connected unless
 *   `force`. An error whose details say `untouched` has changed nothing, and nothing will change under
 *   that id. ABORTED: it is over
 * - resize: every in-sync replica becomes so large; the volume follows when its record says so
 * - changes: what differs between two images (chunks); '' as `from` is an empty one, as `to` the
 *   live one; at most `limit` extents that begin at `offset` or later
 */
export type PrimaryOrder =
  | { type: 'take'; snapshotId: SnapshotId; holdMs: number }
  | { type: 'flush' }
  | { type: 'hold'; token: string; holdMs: number }
  | { type: 'prepare'; token: string; snapshotId: SnapshotId }
  | { type: 'release'; token: string }
  | { type: 'seal' | 'confirm' | 'drop'; snapshotId: SnapshotId }
  | { type: 'rollback'; id: string; version: number; snapshotId: SnapshotId; force: boolean }
  | { type: 'resize'; sizeBytes: number }
  | { type: 'changes'; from: string; to: string; offset: number; limit: number };

/** What is not said by an order is 0, true or empty. */
export interface PrimaryAnswer {
  /** take, release, rollback: for how long clients waited (ms) */
  pausedMs: number;
  intact: boolean;
  /** ascending, apart from each other */
  extents: ChangedExtent[];
}

/** Bytes from the start of the volume. */
export interface ChangedExtent {
  offset: number;
  length: number;
}

/**
 * What the control plane asks of the node it runs on. The node agent implements it; tests have a
 * fake. Everything is idempotent, because controllers look again and repeat.
 */
export interface AgentPort {
  disks(): Promise<AgentDisk[]>;
  /** FAILED_PRECONDITION, FOREIGN_DATA, IN_USE, INVALID_ARGUMENT, ALREADY_EXISTS */
  addDisk(order: DiskOrder): Promise<AgentDisk>;
  /**
   * Closes, forgets and unmounts a disk; one that is not known is done already. FAILED_PRECONDITION
   * while replicas lie on it; `lost`: it failed or cannot be found, and is forgotten all the same.
   */
  removeDisk(diskId: DiskId, lost: boolean): Promise<void>;
  /**
   * Durable when resolved. NO_SPACE, DISK_FAILED, NOT_FOUND (disk, or what it is a clone of),
   * FAILED_PRECONDITION: what it is a clone of is not ready yet.
   */
  createReplica(diskId: DiskId, replica: NewReplica): Promise<void>;
  deleteReplica(diskId: DiskId, replicaId: ReplicaId): Promise<void>;
  /** replicas that lie on the disks of this node */
  replicas(): Promise<LocalReplica[]>;
  /** Becomes primary under this grant; resolves when the volume serves. */
  attach(grant: AttachmentGrant): Promise<void>;
  /**
   * Durable when resolved; a snapshot that is not there is dropped already. Returns those that it keeps:
   * they were never to have become ready, and are. NOT_FOUND: the replica or its disk is not there
   * now, so nobody knows what it has.
   */
  dropSnapshots(diskId: DiskId, replicaId: ReplicaId, drops: SnapshotDrop[]): Promise<SnapshotId[]>;
  /** Of the replicas of these volumes that lie on this node. */
  replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]>;
  /** STALE_EPOCH when this node is not primary of (volume, epoch); else as the order says. */
  orderPrimary(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer>;
  /**
   * Stops being primary of (volume, epoch): refuses new connections, drains, confirms. `ifIdle`:
   * only when no client is connected, else `busy`. `gone` when it is not primary at that epoch.
   */
  detach(volumeId: VolumeId, epoch: number, ifIdle: boolean): Promise<'released' | 'busy' | 'gone'>;
  /** What its primaries say, of these volumes or of all: a copy of a thousand takes 10 ms and more. */
  liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]>;
  /**
   * Tells the primary of (volume, epoch) what its record says now: policy, replicas that came, go or
   * have gone. Nothing happens when it is not primary at that epoch, or knows a newer version.
   */
  updateVolume(settings: VolumeSettings): Promise<void>;
  /** How clients and background work share each lane of this node, from now on. */
  updateQosClasses(classes: QosClass[]): Promise<void>;
  /**
   * Gives the volume over to another node: requests are held, the primary drains and stops; resolves
   * `released` when the control plane may grant the next epoch. The connections that are open stay,
   * and go on through the new primary once `relayTo` is called or a connection finds it.
   * `gone` when it is not primary at that epoch.
   */
  handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'>;
  /**
   * Has the primary of (volume, epoch) scrub, and says how far it is; repeated every few seconds,
   * else it stops. Null when it is not primary at that epoch, or does not serve yet.
   */
  scrub(order: ScrubOrder): Promise<ScrubProgress | null>;
  /** Where every node's replication listeners are; called at start and when one changes. */
  peersChanged(peers: PeerLanes[]): void;
  /**
   * Devices and mounts of this host; absent: it makes none. Errors as StorApi has them for the calls that
   * carry these orders.
   */
  orderHost?(order: HostOrder, signal: AbortSignal): Promise<HostAnswer>;
  /** The node's lease is valid until this time on the monotonic clock of the process (ms). */
  nodeLeaseUntil(deadlineMonotonicMs: number): void;
}

/** A snapshot of a volume that is ready. */
export interface NamedSnapshot {
  id: SnapshotId;
  name: string;
  /** of the volume when it was taken */
  sizeBytes: number;
}

/** Facts about a volume that need no attachment. */
export interface VolumeInfo {
  name: string;
  volumeId: VolumeId;
  sizeBytes: number;
  shared: boolean;
  replicas: number;
  labels: Readonly<Record<string, string>>;
  /** of the record; what is older than what is known says nothing */
  resourceVersion: number;
  /** of the attachment that the record names; null: it is attached nowhere */
  attachedEpoch: number | null;
  /** who alone is served; absent: everybody */
  publications?: VolumeSettings['publications'];
}

/** Where the replicas of a volume are, as far as its record says. */
export interface VolumePlaces {
  volumeId: VolumeId;
  name: string;
  segments: {
    inSync: ReplicaId[];
    replicas: { id: ReplicaId; nodeId: NodeId; diskId: DiskId; leaving: boolean }[];
  }[];
}

/** What the node agent asks of the control plane. */
export interface ControlPlanePort {
  /**
   * Grants the attachment of a volume to this node. NOT_FOUND; ATTACHED_ELSEWHERE (details: holder,
   * since); UNAVAILABLE. An idle `auto` holder is asked to release first; a dead one is replaced
   * when its node lease has ended (waits for that up to `waitMs`).
   */
  acquire(
    name: string,
    mode: Attachment['mode'],
    options: { waitMs: number; signal?: AbortSignal },
  ): Promise<AttachmentGrant>;
  /**
   * Gives an attachment back. `clean`: this primary served and has drained, or it waited out the
   * leases of the one before it; only then may the next primary skip that wait (I6). Works twice.
   */
  release(volumeId: VolumeId, epoch: number, options: { clean: boolean }): Promise<void>;
  /** Facts for NBD INFO, without attaching. NOT_FOUND. */
  volumeInfo(name: string): Promise<VolumeInfo>;
  /** Where a volume's replicas are, without attaching. NOT_FOUND. */
  volumePlaces(name: string): Promise<VolumePlaces>;
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
  /**
   * Where a client of this node is to be served that this node may not be primary for: the NBD
   * address (host:port) of the primary of a `shared` volume, or of one that was handed over.
   */
  primaryAddress(volumeId: VolumeId): Promise<{ nodeId: NodeId; nbd: string } | null>;
  /** A replica failed for good (I7). */
  reportFailure(failure: {
    diskId: DiskId;
    replicaId: ReplicaId | null;
    reason: string;
  }): Promise<void>;
  /** Something happened that people may want to know; never waits and never fails. */
  noteEvent(note: EventNote): void;
  /** names for NBD LIST, at most `limit`: volumes, and behind them ready snapshots as `db@monday` */
  volumeNames(limit: number): Promise<string[]>;
  /** For an export of the snapshot. NOT_FOUND, also while it is being taken or deleted. */
  snapshotExport(name: SnapshotName): Promise<SnapshotExport>;
  /** The volume's ready snapshots, in the order in which they were taken. NOT_FOUND (the volume). */
  snapshotIds(volume: string): Promise<NamedSnapshot[]>;
}
