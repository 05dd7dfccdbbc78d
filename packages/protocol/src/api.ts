import type { DeviceApi } from './device-api.ts';
import type { QosClass, QosClassChange, QosSpec } from './qos.ts';
import type {
  ClusterSettings,
  ClusterStatus,
  Disk,
  DiskInspection,
  EvacuationPlan,
  JoinAnswer,
  JoinToken,
  Member,
  MemberSettings,
  Node,
  LossSimulation,
  NodePlan,
  NodeVerb,
  PlacementExplanation,
  PlacementRules,
  PlacementViolation,
  Policy,
  Pool,
  Rebalance,
  RebalanceSettings,
  Rebuild,
  Snapshot,
  Scrub,
  ScrubSettings,
  SnapshotDiff,
  Tenant,
  TrashedVolume,
  StorEvent,
  UpgradePlan,
  Volume,
  VolumeExplanation,
  VolumePolicy,
} from './resources.ts';

export interface CallOptions {
  signal?: AbortSignal;
  /** ms; TIMEOUT when it runs out */
  timeoutMs?: number;
}

/** A change that is sent again with the same id, to whatever node, is made once. */
export interface RequestId {
  /**
   * Chosen by the client, 1 to 128 letters, digits and `_.:-`, another one for each change; '' or
   * absent: none. It is remembered for an hour (of the last 1,000): INVALID_ARGUMENT when it was
   * used for another request.
   */
  requestId?: string;
}

/** What every change to an object that exists may carry. */
export interface ChangeGuards extends RequestId {
  /**
   * The change is refused with CONFLICT (details: `resourceVersion`, as it is now) when the object's
   * `metadata.resourceVersion` is another one; 0 or absent: whatever it is. It is compared in the
   * transaction that makes the change, and for orders in which several nodes take part (attach, detach,
   * resize, rollback, fence, recover, move-primary, deletion of what is attached) when they begin.
   */
  resourceVersion?: number;
}

/**
 * The public API (service `stor.v1.Stor`, proto/stor.proto). Every node answers every call. Names may
 * be ids too. Errors are StorError with the codes named here and UNAVAILABLE (no quorum).
 */
export interface StorApi extends DeviceApi {
  getClusterStatus(request: Record<string, never>, options?: CallOptions): Promise<ClusterStatus>;
  listNodes(request: Record<string, never>, options?: CallOptions): Promise<{ nodes: Node[] }>;
  /** NOT_FOUND */
  getNode(request: { name: string }, options?: CallOptions): Promise<Node>;
  /** NOT_FOUND, INVALID_ARGUMENT (bad label) */
  labelNode(
    request: { name: string; set: Record<string, string>; remove: string[] } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Node>;
  /**
   * Records what an operator wants of a node, which controllers then carry out; returns at once with
   * what that means now. `plan`: only says it. `force`: also when the plan is not safe. `cancel`: the
   * verb is taken back, what it has done stays. `forMs`: how long a maintenance lasts.
   * `resourceVersion`: of the node, when it must not have changed since; 0 or absent: whatever it is.
   * NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION, CONFLICT, UNSAFE_PLAN.
   */
  orderNode(
    request: {
      name: string;
      verb: NodeVerb;
      plan?: boolean;
      force?: boolean;
      cancel?: boolean;
      forMs?: number;
      /** of a cordon, for people */
      reason?: string;
      resourceVersion?: number;
    } & RequestId,
    options?: CallOptions,
  ): Promise<NodePlan>;
  /**
   * What the loss of these would mean, each `node=NAME`, `disk=DISK` or `LABEL=VALUE` of nodes; changes
   * nothing. NOT_FOUND, INVALID_ARGUMENT.
   */
  simulateLoss(request: { down: string[] }, options?: CallOptions): Promise<LossSimulation>;
  /** The order in which agents may be restarted one by one, and what is in the way. */
  planUpgrade(request: Record<string, never>, options?: CallOptions): Promise<UpgradePlan>;
  listDisks(request: Record<string, never>, options?: CallOptions): Promise<{ disks: Disk[] }>;
  /**
   * Gives a directory, or a raw block device, of a node to the cluster. `reserve`: `10%` or `20GiB`
   * that replicas may not use ('' or absent: the default). `forceFormat`: a device that is not empty
   * loses what is on it. NOT_FOUND (node), INVALID_ARGUMENT, FAILED_PRECONDITION, FOREIGN_DATA (it is
   * not empty), IN_USE, ALREADY_EXISTS.
   */
  addDisk(
    request: {
      node: string;
      path: string;
      tag: string;
      labels?: Record<string, string>;
      reserve?: string;
      forceFormat?: boolean;
    } & RequestId,
    options?: CallOptions,
  ): Promise<Disk>;
  /** `disk`: its id, NODE:PATH, or a path that only one node has. NOT_FOUND */
  inspectDisk(request: { disk: string }, options?: CallOptions): Promise<DiskInspection>;
  /**
   * Marks the disk so that it takes no replica and those that it has move elsewhere; returns at once
   * with where they go now. `plan`: only says it. `cancel`: the disk takes replicas again. `force`:
   * also when some can go nowhere now, which stay until they can.
   * NOT_FOUND, FAILED_PRECONDITION, NO_SPACE (some of them can go nowhere; nothing is changed).
   */
  evacuateDisk(
    request: { disk: string; plan?: boolean; cancel?: boolean; force?: boolean } & ChangeGuards,
    options?: CallOptions,
  ): Promise<EvacuationPlan>;
  /**
   * Says how many requests and bytes per second may be guaranteed to volumes on a disk (0: no bound any
   * more; absent: as it is). What is guaranteed already stays so. NOT_FOUND, INVALID_ARGUMENT.
   */
  setDisk(
    request: { disk: string; iopsCapacity?: number; bpsCapacity?: number } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Disk>;
  /**
   * Takes an empty disk out of the cluster: its node closes and unmounts it. `lost`: one that failed
   * or is gone, once its replicas are replaced. NOT_FOUND, FAILED_PRECONDITION (what lies on it).
   */
  removeDisk(
    request: { disk: string; lost?: boolean } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Record<string, never>>;
  listPools(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ pools: Pool[]; settings: ClusterSettings }>;
  /** Changes what is given. INVALID_ARGUMENT */
  setPool(
    request: Partial<ClusterSettings> & RequestId,
    options?: CallOptions,
  ): Promise<ClusterSettings>;
  /**
   * Returns when every replica is on its disk. `replicas` 0 means min(3, nodes).
   * ALREADY_EXISTS, INVALID_ARGUMENT (name, size), FAILED_PRECONDITION (more replicas than nodes
   * that are up and have a disk), NO_SPACE; after an error nothing is left behind.
   */
  createVolume(
    request: {
      name: string;
      sizeBytes: number;
      replicas: number;
      labels: Record<string, string>;
      /**
       * Bytes of each part that is placed on its own, a multiple of 4 MiB; 0 or absent: 64 GiB, more
       * for volumes that would have more than `maxSegments` of them. Never changes.
       */
      segmentBytes?: number;
      /** kept in the record: the same request sent again finds its own volume; '' or absent: none */
      requestId?: string;
      /** what is left out has its default (limits.ts) */
      policy?: Partial<VolumePolicy>;
      /** only disks of this tag take its replicas; '' or absent: any */
      diskTag?: string;
      /** where they may lie beyond that; see docs/operating/placement.md */
      placement?: PlacementRules;
      /** name or id of a node that gets a replica if it fits; '' or absent: none */
      onNode?: string;
      /** its own wishes of quality of service */
      qos?: QosSpec;
      /** name or id of a policy; '' or absent: none. NOT_FOUND */
      policyName?: string;
    },
    options?: CallOptions,
  ): Promise<Volume>;
  /**
   * Changes what is given, live. `replicas`: more are placed and filled; fewer leave when enough
   * others are in sync. Returns at once: `getVolume` shows how far it is. NOT_FOUND,
   * INVALID_ARGUMENT, FAILED_PRECONDITION (not enough nodes or room; the volume is not ready).
   */
  updateVolume(
    request: {
      name: string;
      replicas?: number;
      policy?: Partial<VolumePolicy>;
      /** all rules, in place of those that hold; what lies elsewhere moves. Absent: they stay */
      placement?: PlacementRules;
      /** fields to set; what is absent stays */
      qos?: QosSpec;
      /** names of fields to take back: what the policy says holds again; they go before `qos` */
      clearQos?: string[];
      /** name or id of a policy; '': none any more; absent: as it is. NOT_FOUND */
      policyName?: string;
    } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /**
   * Makes a volume larger, in use or not: within its last segment and by others that are placed as at
   * a creation. Returns when whoever connects sees the new size; connections that are open keep the
   * old one. After an error the volume has one size or the other: the same request again ends what
   * was begun. NOT_FOUND, INVALID_ARGUMENT (smaller, or too large), FAILED_PRECONDITION (another size
   * is under way), NO_SPACE, UNAVAILABLE, TIMEOUT.
   */
  resizeVolume(
    request: { name: string; sizeBytes: number } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /**
   * Moves a replica (its id, or the name or id of its node) to another node (`disk` '': the best one
   * there): a new one is filled first. Returns at once. NOT_FOUND, INVALID_ARGUMENT (the node has
   * replicas of several segments: name one by its id), FAILED_PRECONDITION, NO_SPACE.
   */
  moveReplica(
    request: { name: string; replica: string; node: string; disk: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /**
   * Hands the volume over to `node`: the old primary holds requests, drains and confirms, the new
   * one begins; connections stay and are relayed. FAILED_PRECONDITION when it is attached nowhere.
   */
  movePrimary(
    request: { name: string; node: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /**
   * Ends the attachment without asking its holder: the replicas are fenced at a new epoch, so that
   * nothing the old primary writes counts any more (I2). Works when nobody is attached too.
   * UNAVAILABLE when no in-sync replica can be reached.
   */
  fenceVolume(request: { name: string } & ChangeGuards, options?: CallOptions): Promise<Volume>;
  /**
   * Tries to bring a volume back that is not served. `acceptUnflushedLoss`: when no reachable
   * in-sync replica kept its memory, begin with the best of those reached although others are
   * missing. UNAVAILABLE says who is missing and what was tried.
   */
  recoverVolume(
    request: { name: string; acceptUnflushedLoss: boolean } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /** NOT_FOUND */
  explainVolume(request: { name: string }, options?: CallOptions): Promise<VolumeExplanation>;
  /** Replicas that are being made equal, of all volumes or of one (`name`). */
  listRebuilds(request: { name: string }, options?: CallOptions): Promise<{ rebuilds: Rebuild[] }>;
  /**
   * Events in the order of their last change. `volume` '': all; else a name or id, also of a volume
   * that is gone. `afterRevision`: only those that changed after it, for whoever follows; 0: all.
   * `limit`: the last so many; 0: all that are kept. `revision` is what to ask after next time.
   */
  listEvents(
    request: { volume: string; afterRevision: number; limit: number },
    options?: CallOptions,
  ): Promise<{ events: StorEvent[]; revision: number }>;
  /**
   * Moves the cluster's state to another store (`etcd://…`, or
   * `embedded`: the nodes themselves), or gives a move up that is under way
   * (`abort`). `ca`, `cert`, `key`, `passwordFile`: paths of files that every node has, '' for none. `keys`: how
   * many were copied. All agents begin anew with the other store. FAILED_PRECONDITION; repeat it after
   * any other error.
   */
  moveStore(
    request: {
      to: string;
      ca: string;
      cert: string;
      key: string;
      passwordFile?: string;
      abort: boolean;
    },
    options?: CallOptions,
  ): Promise<{ keys: number }>;
  /**
   * Where replicas of a volume could lie: every disk with its score, or why it takes none. `volume` '':
   * of one that does not exist, with `sizeBytes`, `labels`, `diskTag` and `placement`. `replicas` 0: as
   * many as it has, of a new one 1. NOT_FOUND, INVALID_ARGUMENT.
   */
  explainPlacement(
    request: {
      volume: string;
      segment?: number;
      replicas: number;
      sizeBytes: number;
      labels: Record<string, string>;
      diskTag: string;
      placement?: PlacementRules;
      onNode?: string;
      /** of one that does not exist: what it is to be guaranteed */
      qos?: QosSpec;
      policyName?: string;
    },
    options?: CallOptions,
  ): Promise<PlacementExplanation>;
  /** Rules that replicas break now, of one volume or of all (`volume` ''). NOT_FOUND. */
  listPlacementViolations(
    request: { volume: string },
    options?: CallOptions,
  ): Promise<{ violations: PlacementViolation[] }>;
  /**
   * Begins to move replicas so that the disks of each tag are about equally full; one that is paused
   * goes on, one that runs takes the settings that are given. What is not given has its default, or
   * stays as it is. `dryRun` changes nothing. INVALID_ARGUMENT.
   */
  startRebalance(
    request: Partial<RebalanceSettings> & { dryRun?: boolean },
    options?: CallOptions,
  ): Promise<Rebalance>;
  /**
   * Replicas that are moving end their move in any case. FAILED_PRECONDITION when none is under way;
   * one that is paused, goes on or has ended already stays so.
   */
  orderRebalance(
    request: { order: 'pause' | 'resume' | 'stop' },
    options?: CallOptions,
  ): Promise<Rebalance>;
  getRebalance(request: Record<string, never>, options?: CallOptions): Promise<Rebalance>;
  /**
   * Begins a scrub of a volume, or of all (`volume` ''), at once; one that is paused goes on, one
   * that runs is left alone. It may take days: `listScrubs` shows how far it is. NOT_FOUND.
   */
  startScrub(
    request: { volume: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<{ scrubs: Scrub[] }>;
  /** Lets runs stand still where they are, or go on (`paused` false). '' : all. NOT_FOUND. */
  pauseScrub(
    request: { volume: string; paused: boolean } & ChangeGuards,
    options?: CallOptions,
  ): Promise<{ scrubs: Scrub[] }>;
  /** Ends a run where it is; it stays in the history as not complete. '' : all. NOT_FOUND. */
  stopScrub(
    request: { volume: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<{ scrubs: Scrub[] }>;
  /** Of one volume, or of all (`volume` ''). NOT_FOUND. */
  listScrubs(
    request: { volume: string },
    options?: CallOptions,
  ): Promise<{ scrubs: Scrub[]; settings: ScrubSettings }>;
  /** Changes what is given. INVALID_ARGUMENT. */
  setScrub(
    request: { everyMs?: number; rateBytesPerSecond?: number } & RequestId,
    options?: CallOptions,
  ): Promise<ScrubSettings>;
  listVolumes(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ volumes: Volume[] }>;
  /** NOT_FOUND */
  getVolume(request: { name: string }, options?: CallOptions): Promise<Volume>;
  /**
   * Moves a volume with its snapshots to the trash, where it stays for `keepMs` (absent: 24 h); its
   * name is free at once. 0: it is deleted for good. `keptUntilMs` is 0 then. NOT_FOUND;
   * FAILED_PRECONDITION while it is attached (the message names the holder).
   */
  deleteVolume(
    request: { name: string; keepMs?: number } & ChangeGuards,
    options?: CallOptions,
  ): Promise<{ keptUntilMs: number }>;
  /**
   * Brings a deleted volume (name or id) back as it was, under `newName` ('': the name it had).
   * NOT_FOUND, ALREADY_EXISTS; FAILED_PRECONDITION when several deleted ones had that name.
   */
  undeleteVolume(
    request: { name: string; newName: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /** Newest first. */
  listTrash(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ volumes: TrashedVolume[] }>;
  /** Deletes one volume (name or id) in the trash for good, or all (''); returns those. NOT_FOUND */
  emptyTrash(
    request: { name: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<{ volumes: TrashedVolume[] }>;
  /**
   * Takes a snapshot of one volume, of those in `volumes`, or of all that have every label of
   * `selector`, at one instant. Returns when it is durable on every in-sync replica. TIMEOUT when clients would have
   * been paused for more than 100 ms, several times; NOT_FOUND, ALREADY_EXISTS, UNAVAILABLE,
   * FAILED_PRECONDITION (limits). After an error nothing is left behind.
   */
  createSnapshot(
    request: {
      /** name or id; '' with a selector or `volumes` */
      volume: string;
      /** names or ids; an older version takes none */
      volumes?: string[];
      selector: Record<string, string>;
      name: string;
      labels: Record<string, string>;
      /** kept in the records: the same request sent again finds its own snapshots */
      requestId?: string;
    },
    options?: CallOptions,
  ): Promise<{ snapshots: Snapshot[] }>;
  /**
   * Returns at once: `name` (`db@monday`, or the id) is free, and replicas give the space back in the
   * background. What was cloned from it lives on. NOT_FOUND
   */
  deleteSnapshot(
    request: { name: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Record<string, never>>;
  /**
   * What differs between two snapshots of a volume (names or ids); `from` '': an empty image, `to`
   * '': the live volume. Begins at `offset`. NOT_FOUND, FAILED_PRECONDITION, UNAVAILABLE.
   */
  diffSnapshots(
    request: { volume: string; from: string; to: string; offset?: number },
    options?: CallOptions,
  ): Promise<SnapshotDiff>;
  /**
   * Makes the volume what it was; its other snapshots stay. `safetySnapshot`: what it is now is kept
   * first, under the name that is returned. FAILED_PRECONDITION while clients are connected, unless
   * `force`: they would see other bytes under a mounted file system.
   */
  rollbackVolume(
    request: {
      name: string;
      snapshot: string;
      force: boolean;
      safetySnapshot: boolean;
    } & ChangeGuards,
    options?: CallOptions,
  ): Promise<{ volume: Volume; safetySnapshot: string }>;
  /**
   * A new volume that begins as a snapshot of another one (name or id; '': as the live volume is
   * now), at once and without a copy: both share their chunks on each disk. It may be larger than the
   * source, which may be deleted first. `sizeBytes` 0: as the source; what `policy` leaves
   * out is as the source has it. ALREADY_EXISTS, INVALID_ARGUMENT (smaller), NOT_FOUND, UNAVAILABLE.
   */
  cloneVolume(
    request: {
      source: string;
      snapshot: string;
      name: string;
      sizeBytes: number;
      labels: Record<string, string>;
      policy?: Partial<VolumePolicy>;
      /** as for createVolume */
      requestId?: string;
    },
    options?: CallOptions,
  ): Promise<Volume>;
  /** Of one volume (name or id), or of all (`volume` ''); oldest first. NOT_FOUND. */
  listSnapshots(
    /** `orphans`: only those that replicas have and no record knows */
    request: { volume: string; orphans?: boolean },
    options?: CallOptions,
  ): Promise<{ snapshots: Snapshot[] }>;
  /**
   * Takes over an orphan (`name`: VOLUME@ID) under a name. FAILED_PRECONDITION unless every in-sync
   * replica says that it has it; ALREADY_EXISTS, NOT_FOUND.
   */
  adoptSnapshot(
    request: { name: string; newName: string },
    options?: CallOptions,
  ): Promise<Snapshot>;
  /** `name`: `db@monday`, or the id. NOT_FOUND */
  getSnapshot(request: { name: string }, options?: CallOptions): Promise<Snapshot>;
  /** Attaches until detach on `node` ('' = the answering node). NOT_FOUND, ATTACHED_ELSEWHERE. */
  attachVolume(
    request: { name: string; node: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /** Drains and gives the attachment back; connections are closed. NOT_FOUND. Works twice. */
  detachVolume(request: { name: string } & ChangeGuards, options?: CallOptions): Promise<Volume>;
  /**
   * Gives one host (`node`; '' = the answering node) the right to use the volume as a device, and takes
   * it from everybody else (ADR 19); again, for the same host, it answers with what there is. A host
   * that is down loses it, unless `keepDead`. `owner`: who uses it there, for people.
   * NOT_FOUND, ALREADY_EXISTS (the host has it the other way: `readOnly`), ATTACHED_ELSEWHERE (another
   * host has it), FAILED_PRECONDITION (a client without a publication is connected).
   */
  publishVolume(
    request: {
      name: string;
      node: string;
      readOnly?: boolean;
      owner?: string;
      keepDead?: boolean;
    } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /**
   * Ends it (`node` '': of all hosts; `publication`: only that one); what is gone already is fine.
   * FAILED_PRECONDITION while the device is connected, unless `force`: then its requests fail.
   */
  unpublishVolume(
    request: {
      name: string;
      node: string;
      publication?: string;
      force?: boolean;
    } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Volume>;
  /**
   * Of the embedded cluster store. Without a leader the answer is what this node's own log says.
   * FAILED_PRECONDITION when the cluster store is another one.
   */
  listMembers(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ members: Member[]; settings: MemberSettings }>;
  /**
   * Gives a member a vote (`vote` true) or takes it away; returns when that is so. NOT_FOUND, UNSAFE
   * (the voters that are left would have no majority that is up), UNAVAILABLE.
   */
  setMemberVote(
    request: { node: string; vote: boolean },
    options?: CallOptions,
  ): Promise<{ members: Member[] }>;
  /** Changes what is given. INVALID_ARGUMENT */
  setMembers(request: Partial<MemberSettings>, options?: CallOptions): Promise<MemberSettings>;
  /** `token` is what a node gives when it joins; it is kept nowhere. INVALID_ARGUMENT */
  createToken(
    request: { ttlMs: number; uses: number },
    options?: CallOptions,
  ): Promise<{ token: string; info: JoinToken }>;
  listTokens(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ tokens: JoinToken[] }>;
  /** NOT_FOUND */
  removeToken(request: { id: string }, options?: CallOptions): Promise<Record<string, never>>;
  /**
   * The state of the control plane at one moment, as lines of JSON for a file. It holds no replica's
   * bytes, no tokens and no members. UNAVAILABLE.
   */
  backupCluster(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ backup: string; items: number; revision: number }>;
  /** By name. */
  listPolicies(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ policies: Policy[] }>;
  /** NOT_FOUND */
  getPolicy(request: { name: string }, options?: CallOptions): Promise<Policy>;
  /** ALREADY_EXISTS, INVALID_ARGUMENT, FAILED_PRECONDITION (too many) */
  createPolicy(
    request: { name: string; description?: string; qos?: QosSpec } & RequestId,
    options?: CallOptions,
  ): Promise<Policy>;
  /**
   * Changes what is given; all its volumes that are in use are told. `clearQos`: names of fields to take
   * back, before `qos` is set. NOT_FOUND, INVALID_ARGUMENT.
   */
  updatePolicy(
    request: {
      name: string;
      description?: string;
      qos?: QosSpec;
      clearQos?: string[];
    } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Policy>;
  /** NOT_FOUND; IN_USE while volumes name it, those in the trash too (the message names them). */
  removePolicy(
    request: { name: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Record<string, never>>;
  /** By name. */
  listTenants(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ tenants: Tenant[] }>;
  /** NOT_FOUND */
  getTenant(request: { name: string }, options?: CallOptions): Promise<Tenant>;
  /**
   * Limits that all volumes whose label `tenant` has this value share; makes the tenant when there is
   * none. `clearQos`: names of fields to take back, before `qos` is set. INVALID_ARGUMENT,
   * FAILED_PRECONDITION (too many).
   */
  setTenant(
    request: { name: string; qos?: QosSpec; clearQos?: string[] } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Tenant>;
  /** Its volumes stay, and share nothing any more. NOT_FOUND */
  removeTenant(
    request: { name: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Record<string, never>>;
  /** How clients and background work share the lanes of all nodes. */
  listQosClasses(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ classes: QosClass[] }>;
  /** Changes what is given; all nodes follow within a moment. INVALID_ARGUMENT. */
  setQosClasses(
    request: { classes: QosClassChange[] } & RequestId,
    options?: CallOptions,
  ): Promise<{ classes: QosClass[] }>;
  /**
   * Asked by an agent that joins, with an id that it has made; asking again is the same. UNAUTHENTICATED
   * (the token), ALREADY_EXISTS (the name), FOREIGN_DATA (its folder is of another cluster),
   * FAILED_PRECONDITION (it was a member before).
   */
  joinCluster(
    request: {
      token: string;
      nodeId: string;
      nonce: string;
      name: string;
      address: string;
      replace: boolean;
      neverVotes: boolean;
      /** of its data folder; '': it is new */
      clusterId: string;
    },
    options?: CallOptions,
  ): Promise<JoinAnswer>;
}
