import type { ClusterId, DiskId, NodeId, ReplicaId, SnapshotId, VolumeId } from './ids.ts';

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
  /** when `inSync` last changed, by the wall clock; absent in older records */
  changedAtMs?: number;
  /**
   * Replicas that are not part of the segment any more and still lie on a disk: their nodes delete
   * them and report it, then they are forgotten.
   */
  removed?: RemovedReplica[];
}

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
    /** an operator wants the volume attached on this node until `detach`; absent: on none */
    attachTo?: NodeId;
    policy: VolumePolicy;
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

/**
 * creating: being taken, or left behind by one that failed; ready: durable and equal on all in-sync
 * replicas; deleting: its replicas still drop it, its name is free.
 */
export type SnapshotPhase = 'creating' | 'ready' | 'deleting';

/** A frozen point of a volume, as `snapshot ls` shows it. */
export interface Snapshot {
  /** `name` is `db@monday` */
  metadata: Metadata;
  spec: {
    volumeId: VolumeId;
    /** of the volume when it was taken */
    sizeBytes: number;
    /** the same for snapshots that were taken at one instant; '' for one of its own */
    groupId: string;
  };
  status: {
    /** name of the volume */
    volume: string;
    /** orphan: replicas have it ready, and no record knows it; its name is its id */
    state: SnapshotPhase | 'orphan';
    /** why it is being deleted, or empty */
    message: string;
    /** for how long clients were paused when it was taken (ms) */
    pausedMs: number;
    /** what deleting it would free on each replica; null when no replica could be asked */
    ownBytes: number | null;
  };
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

/** What differs between two images of a volume, or a part of that. */
export interface SnapshotDiff {
  /** of the later image */
  sizeBytes: number;
  /** ascending; whole chunks: surely all bytes that differ, and some that do not */
  extents: { offset: number; length: number }[];
  /** where the next part begins; null when this was the last */
  nextOffset: number | null;
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
  volumes: {
    total: number;
    healthy: number;
    degraded: number;
    suspended: number;
    unavailable: number;
  };
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
    /** those that are on their disks: ready ones and failed ones */
    replicas: GrantedReplica[];
  }[];
}

/**
 * Why an event was written. Names are an interface: people filter by them. A newer node may write
 * others.
 */
export type EventReason =
  | 'bad-block-found'
  | 'bad-block-repaired'
  | 'bad-block-kept'
  | 'replicas-differ'
  | 'replica-failed'
  | 'replica-rebuilt'
  | 'disk-failed'
  | 'disk-nearly-full'
  | 'disk-full'
  | 'volume-no-space'
  | 'snapshot-created'
  | 'snapshot-deleted'
  | 'snapshot-failed'
  | 'scrub-finished'
  | 'scrub-stopped'
  | 'events-dropped';

export type EventObjectKind = 'cluster' | 'node' | 'disk' | 'volume' | 'replica' | 'snapshot';

/** What a part of the system tells of: `EventLog.note` makes an event of it. */
export interface EventNote {
  /** warning: somebody should look */
  type: 'normal' | 'warning';
  reason: EventReason;
  /** `name`: for people; absent: as the record of that id says */
  object: { kind: EventObjectKind; id: string; name?: string };
  /** the volume that it is about, if it is about one; absent: the object itself, or none */
  volumeId?: VolumeId;
  /** one sentence for people; of a repeated event the last one is kept */
  message: string;
  /** how many of them this note stands for @default 1 */
  count?: number;
}

/** Something that happened: `storctl events`. */
export interface StorEvent {
  /** in the order in which they began */
  id: string;
  type: EventNote['type'];
  /** an `EventReason`, or one of a newer version */
  reason: string;
  object: { kind: string; id: string; name: string };
  /** id and name of the volume that it is about; '' when it is about none */
  volumeId: VolumeId;
  volume: string;
  /** name of the node that wrote it last */
  node: string;
  message: string;
  /** the same reason and object again, within ten minutes of the first */
  count: number;
  /** by the wall clock of the node that wrote it */
  firstMs: number;
  lastMs: number;
  /** store revision of its last change */
  resourceVersion: number;
}

/** What a scrub has seen so far: it reads every allocated chunk of every in-sync replica. */
export interface ScrubCounts {
  /** of the volume; each of them was read at every in-sync replica */
  bytes: number;
  /** blocks of a replica that did not match their checksum, or could not be read */
  found: number;
  /** of those, and of outvoted ones, what was written again and verified */
  repaired: number;
  /** blocks of a replica that did not verify and that no other in-sync replica has */
  kept: number;
  /** blocks that verify at every replica and differ, without a majority: left as they are */
  diverged: number;
}

/** Where a scrub goes on: chunks of a segment come in order, and so do segments. */
export interface ScrubPosition {
  segment: number;
  chunk: number;
}

/** What the primary is to do: given again and again, it is also how it is asked how far it is. */
export interface ScrubOrder {
  volumeId: VolumeId;
  epoch: number;
  runId: string;
  /** where it begins, and what was counted before, when the primary does not know the run */
  position: ScrubPosition;
  counts: ScrubCounts;
  paused: boolean;
  /** of the volume per second, for all scrubs of this primary's lane together (bytes) */
  rateBytesPerSecond: number;
}

export interface ScrubProgress {
  runId: string;
  /** waiting: for a resync, a settle or a replica */
  state: 'running' | 'paused' | 'waiting' | 'finished';
  /** why it waits; '' else */
  message: string;
  position: ScrubPosition;
  counts: ScrubCounts;
  /** allocated and not read yet */
  bytesRemaining: number;
  bytesPerSecond: number;
}

/** A scrub that has ended. */
export interface ScrubResult {
  runId: string;
  reason: 'schedule' | 'order';
  startedAtMs: number;
  endedAtMs: number;
  /** false: it was called off before its end */
  complete: boolean;
  counts: ScrubCounts;
}

/** What is known of the scrubs of one volume: `storctl scrub status`. */
export interface Scrub {
  volume: string;
  volumeId: VolumeId;
  /** waiting: due or ordered, and something is in its way */
  state: 'idle' | 'running' | 'paused' | 'waiting';
  /** why it waits; '' else */
  message: string;
  /** of the run under way; zeros when there is none */
  counts: ScrubCounts;
  bytesRemaining: number;
  bytesPerSecond: number;
  /** null when it cannot be said, or none is under way */
  etaMs: number | null;
  startedAtMs: number | null;
  /** when the next one begins by itself; null: never, or one is under way */
  nextDueMs: number | null;
  /** the last ones, oldest first */
  history: ScrubResult[];
}

/** How scrubs of a cluster are done. */
export interface ScrubSettings {
  /** each volume is scrubbed once in such a time (ms); 0: only when it is ordered */
  everyMs: number;
  /** of volumes, by the primaries of one node together */
  rateBytesPerSecond: number;
}
