import { hasCode, joinSnapshotName, StorError } from '@stor/protocol';
import type {
  AttachmentGrant,
  EventNote,
  NodeId,
  ReplicaId,
  SegmentStatus,
  SnapshotName,
  VolumeId,
} from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { AgentPort, ControlPlanePort, NamedSnapshot, VolumePlaces } from './agent-port.ts';
import { AgentPeers } from './agent/agent-peers.ts';
import type { NodeCalls } from './agent/agent-peers.ts';
import { agentService } from './agent/agent-service.ts';
import { Attachments } from './agent/attachments.ts';
import { coalesced } from './agent/coalesced.ts';
import { DiskReporter } from './agent/disk-reporter.ts';
import { EventLog } from './agent/event-log.ts';
import { ScrubDriver } from './agent/scrub-driver.ts';
import { nodeCalls } from './agent/node-calls.ts';
import { LeaderControllers } from './agent/leader-controllers.ts';
import { LocalReconciler } from './agent/local-reconciler.ts';
import { SnapshotReconciler } from './agent/snapshot-reconciler.ts';
import { SettingsPush } from './agent/settings-push.ts';
import { NodeSession, type NodeIdentity } from './agent/node-session.ts';
import { scopedStore } from './api/change-scope.ts';
import { withChangeGuards } from './api/guarded-methods.ts';
import { OpenCalls, servedMethods } from './api/serve-unary.ts';
import { DeviceService } from './api/device-service.ts';
import { DiskService } from './api/disk-service.ts';
import { memberServices } from './api/member-service.ts';
import { NodeService } from './api/node-service.ts';
import { storeRoles } from './api/store-roles.ts';
import { placingServices } from './api/placing-services.ts';
import { RebalanceService } from './api/rebalance-service.ts';
import { PrimaryOrders } from './api/primary-orders.ts';
import { ScrubService } from './api/scrub-service.ts';
import { ReplicaSpaces } from './api/replica-spaces.ts';
import { snapshotServices } from './api/snapshot-services.ts';
import type { SnapshotServiceParts } from './api/snapshot-services.ts';
import { TrashService } from './api/trash-service.ts';
import { storService, type StoreServiceMove } from './api/stor-service.ts';
import { VolumeChanges } from './api/volume-changes.ts';
import { VolumePublications } from './api/volume-publications.ts';
import { VolumeGrowthOrders } from './api/volume-growth.ts';
import { VolumeInsight } from './api/volume-insight.ts';
import { VolumeService } from './api/volume-service.ts';
import { watchStreams } from './api/watch-service.ts';
import type { ClusterStore, StoreCallOptions } from './cluster-store.ts';
import { holderLives } from './core/controllers/attachment-rules.ts';
import type { ClusterObservation } from './core/volume/describe-cluster.ts';
import { observeCluster } from './core/volume/observe-cluster.ts';
import { exportOf, readySnapshots } from './core/volume/export-snapshot.ts';
import type { SnapshotExport } from './core/volume/export-snapshot.ts';
import { mayMoveLanes, nbdAddress, peerLanes, placesOf } from './core/volume/lane-addresses.ts';
import { volumeInfoOf } from './core/volume/volume-info.ts';
import { nodeName } from './resources/cluster-state.ts';
import type { ClusterState, Versioned } from './resources/cluster-state.ts';
import { every } from './resources/every.ts';
import { findVolume, readSnapshots, readVolume } from './resources/find.ts';
import { volumeNamesPrefix } from './resources/keys.ts';
import type { StoredVolume } from './resources/records.ts';
import { grpcTransport } from './rpc/grpc-transport.ts';
import type { RpcServer, RpcTransport } from './rpc/rpc-transport.ts';
import { StateCache } from './resources/state-cache.ts';

/** How often disks and failures are reported, orphans and unserved attachments looked for (ms). */
const reportMs = 10_000;
/** Stores look at the free space of their file system about once a second, so it is asked again (ms). */
const spaceSettleMs = 1_500;
/** Facts that a client waits for are asked of the cluster store for so long (ms). */
const glanceMs = 1_000;
/** How often local work is looked at besides at each change (ms). */
const reconcileMs = 2_000;

type StoreReadOptions = StoreCallOptions & { local?: boolean };

export interface ControlPlaneOptions {
  store: ClusterStore;
  agent: AgentPort;
  node: NodeIdentity;
  clusterId: string;
  clusterName: string;
  clock: Clock;
  random: Random;
  logger: Logger;
  /** the services are added to it */
  server: RpcServer;
  /** to the other nodes @default gRPC */
  rpc?: RpcTransport;
  moveStore?: StoreServiceMove;
}

/**
 * The control plane's part of one node: keeps the node's lease, makes its disks hold what the
 * records say, grants attachments, answers the API, and runs the controllers while this node's
 * member of the store leads. It owns neither the store nor the server.
 */
export class ControlPlane implements ControlPlanePort {
  readonly #options: ControlPlaneOptions;
  readonly #calls = new OpenCalls();
  readonly #cache: StateCache;
  readonly #peers: AgentPeers;
  readonly #attachments: Attachments;
  readonly #volumes: VolumeService;
  readonly #disks: DiskReporter;
  readonly #reportDisks = coalesced(() => this.#disks.report());
  readonly #reconciler: LocalReconciler;
  readonly #spaces: ReplicaSpaces;
  readonly #snapshots: SnapshotReconciler;
  readonly #settings: SettingsPush;
  readonly #controllers: LeaderControllers;
  readonly #primaries: PrimaryOrders;
  readonly #session: NodeSession;
  readonly #events: EventLog;
  readonly #scrubs: ScrubDriver;
  readonly #undo: (() => void)[] = [];
  readonly #work = new Set<Promise<void>>();
  #hasReported = false;
  /** the node's disks are in the cluster store as they are since this start */
  #disksAreKnown = false;
  #peersTold = '';
  #cancelSettle: () => void = () => {};
  #closing: Promise<void> | null = null;

  /** Returns before the node is registered: that needs a quorum of nodes that start like this one. */
  static async open(given: ControlPlaneOptions): Promise<ControlPlane> {
    const options = { ...given, store: scopedStore(given.store) };
    const controlPlane = new ControlPlane(options);
    const { server, logger, node, clusterId: id, clusterName: name, store } = options;
    const parts = controlPlane.#orderParts();
    const { volumes, peers, cache } = parts;
    const changes = new VolumeChanges({ ...options, cache, volumes });
    const publications = new VolumePublications({ ...parts, nodeId: node.id });
    const primaries = controlPlane.#primaries;
    const insight = new VolumeInsight({ ...options, nodeId: node.id, peers });
    const disks = new DiskService({ store, peers, logger });
    const devices = new DeviceService({ store, peers, nodeId: node.id });
    const trash = new TrashService({ ...options, volumes, spaces: controlPlane.#spaces });
    const more = { ...snapshotServices(parts), trash };
    const growth = new VolumeGrowthOrders({ ...parts, access: more.access });
    const nodes = new NodeService({ ...options, insight, events: controlPlane.#events });
    const who = { nodes, moveStore: options.moveStore, ...memberServices(options) };
    const some = { volumes, changes, publications, growth, primaries, insight, disks, devices };
    const events = controlPlane.#events;
    const rebalance = new RebalanceService({ ...options, events });
    const all = { ...some, ...who, ...more, rebalance, ...placingServices(options) };
    const scrubs = new ScrubService({ ...options, events });
    const plain = storService({ store, events, scrubs, ...all, node, cluster: { id, name } });
    const stor = withChangeGuards(plain, { ...parts, ...more }, controlPlane.#undo);
    const agent = agentService(controlPlane.#nodeCalls(), { clusterId: id, nodeId: node.id });
    const common = { calls: controlPlane.#calls, logger };
    const trouble = (): string | null => controlPlane.#session.trouble;
    const watches = watchStreams({ ...parts, trouble }, common, controlPlane.#undo);
    server.addService('stor', servedMethods(stor, common), watches);
    server.addService('agent', servedMethods(agent, common));
    return controlPlane;
  }

  private constructor(options: ControlPlaneOptions) {
    this.#options = options;
    const { store, agent, node, clock, logger, random } = options;
    const { id: nodeId, agentInstance } = node;
    const cache = new StateCache(store, clock, logger);
    this.#cache = cache;
    this.#peers = new AgentPeers({
      clusterId: options.clusterId,
      selfId: nodeId,
      rpc: options.rpc ?? grpcTransport(),
      cache,
      self: () => this.#nodeCalls(),
    });
    this.#events = new EventLog({
      store,
      cache,
      nodeId,
      nodeName: node.name,
      clock,
      random,
      logger,
    });
    const common = { store, cache, clock, logger, agent, nodeId, peers: this.#peers };
    this.#attachments = new Attachments({
      ...common,
      agentInstance,
      closing: this.#calls.signal,
    });
    this.#spaces = new ReplicaSpaces(common);
    this.#volumes = new VolumeService({
      ...common,
      spaces: this.#spaces,
      attachments: this.#attachments,
      random,
    });
    this.#disks = new DiskReporter({ ...common, note: this.noteEvent.bind(this) });
    this.#reconciler = new LocalReconciler({
      ...common,
      // no record is new by that alone
      changed: () => {
        this.#look([]);
      },
      replicasChanged: () => {
        this.#reportSpace();
        this.#cancelSettle();
        this.#cancelSettle = clock.after(spaceSettleMs, () => {
          this.#reportSpace();
        });
      },
    });
    this.#scrubs = new ScrubDriver({ ...common, agentInstance, events: this.#events });
    this.#snapshots = new SnapshotReconciler({
      ...common,
      // no record is new by that alone
      changed: () => {
        this.#look([]);
      },
    });
    const trouble = (): string | null => this.#session.trouble;
    this.#settings = new SettingsPush({ ...common, agentInstance, trouble });
    this.#primaries = new PrimaryOrders({ ...common, volumes: this.#volumes });
    const [primaries, events] = [this.#primaries, this.#events];
    this.#controllers = new LeaderControllers({ ...common, primaries, random, events });
    const cluster = { id: options.clusterId, name: options.clusterName };
    const registered = (): void => {
      this.#look();
    };
    this.#session = new NodeSession({ store, agent, node, cluster, clock, logger, registered });
    this.#undo.push(
      cache.onChange((keys) => {
        this.#look(keys);
        if (mayMoveLanes(keys)) this.#tellPeers();
      }),
      every(clock, reconcileMs, () => {
        this.#look();
      }),
      every(clock, reportMs, () => {
        this.#report();
      }),
    );
  }

  acquire(
    name: string,
    mode: AttachmentGrant['mode'],
    options: { waitMs: number; signal?: AbortSignal },
  ): Promise<AttachmentGrant> {
    return this.#attachments.acquire(name, mode, options);
  }

  release(volumeId: VolumeId, epoch: number, options: { clean: boolean }): Promise<void> {
    return this.#attachments.release(volumeId, epoch, options.clean);
  }

  async volumeInfo(name: string): ReturnType<ControlPlanePort['volumeInfo']> {
    const { store } = this.#options;
    // what is asked for here changes nothing, so without a quorum an older answer will do
    return volumeInfoOf(await this.#orLocal((options) => findVolume(store, name, options)));
  }

  async volumePlaces(name: string): Promise<VolumePlaces> {
    const { store } = this.#options;
    return placesOf((await this.#orLocal((options) => findVolume(store, name, options))).value);
  }

  async primaryAddress(volumeId: VolumeId): Promise<{ nodeId: NodeId; nbd: string } | null> {
    const { store } = this.#options;
    // an old answer harms nobody: a node that is not primary any more refuses
    const volume = await this.#orLocal((options) => readVolume(store, volumeId, options));
    const holder = volume?.value.status.attachment;
    const { state } = this.#cache;
    if (!holder || !holderLives(holder, state.leases.get(holder.nodeId)?.value ?? null))
      return null;
    const nbd = nbdAddress(state, holder.nodeId, volume.value);
    return nbd === undefined ? null : { nodeId: holder.nodeId, nbd };
  }

  /** Reads as of now, or, while the cluster store cannot be asked, what this member knew last. */
  async #orLocal<T>(read: (options: StoreReadOptions) => Promise<T>): Promise<T> {
    try {
      return await read({ timeoutMs: glanceMs });
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) throw error;
      return read({ local: true });
    }
  }

  async proposeSet(
    proposal: Parameters<ControlPlanePort['proposeSet']>[0],
  ): ReturnType<ControlPlanePort['proposeSet']> {
    const before = this.#segmentOf(proposal);
    const answer = await this.#attachments.proposeSet(proposal);
    if (answer.outcome === 'committed' && before) this.#noteRebuilt(before, proposal);
    return answer;
  }

  #segmentOf({ volumeId, segment }: { volumeId: VolumeId; segment: number }) {
    const volume = this.#cache.state.volumes.get(volumeId)?.value;
    return volume?.status.segments.find(({ index }) => index === segment);
  }

  /** A replica that was out of the set is in it again, and equal. */
  #noteRebuilt(
    before: SegmentStatus,
    { volumeId, inSync }: { volumeId: VolumeId; inSync: ReplicaId[] },
  ): void {
    const { state } = this.#cache;
    const name = state.volumes.get(volumeId)?.value.metadata.name ?? volumeId;
    for (const replica of before.replicas) {
      if (!inSync.includes(replica.id) || before.inSync.includes(replica.id)) continue;
      this.#events.note({
        type: 'normal',
        reason: 'replica-rebuilt',
        object: { kind: 'replica', id: replica.id },
        volumeId,
        message: `the replica of volume ${name} on node ${nodeName(state, replica.nodeId)} is in sync again`,
      });
    }
  }

  async reportFailure(failure: {
    diskId: string;
    replicaId: ReplicaId | null;
    reason: string;
  }): Promise<void> {
    try {
      await this.#reconciler.reportFailure(failure);
    } finally {
      // also when another node has just reported the replica: the disk is this one's to report
      await this.#disks.report();
    }
  }

  noteEvent(note: EventNote): void {
    this.#events.note(note);
  }

  async volumeNames(limit: number): Promise<string[]> {
    const { items } = await this.#options.store.list(volumeNamesPrefix, { local: true });
    const names = items.map((item) => item.key.slice(volumeNamesPrefix.length));
    for (const volume of items) {
      if (names.length >= limit) break;
      const name = volume.key.slice(volumeNamesPrefix.length);
      const id = new TextDecoder().decode(volume.value);
      for (const snapshot of readySnapshots(this.#cache.state, id)) {
        names.push(joinSnapshotName(name, snapshot.name));
      }
    }
    return names.slice(0, limit);
  }

  async snapshotExport(name: SnapshotName): Promise<SnapshotExport> {
    const { volume, state } = await this.#withSnapshots(name.volume);
    return exportOf(volume, name, state);
  }

  async snapshotIds(name: string): Promise<NamedSnapshot[]> {
    const { volume, state } = await this.#withSnapshots(name);
    const ready = readySnapshots(state, volume.value.metadata.id);
    return ready.map((record) => ({
      id: record.id,
      name: record.name,
      sizeBytes: record.sizeBytes,
    }));
  }

  /** What is asked of a snapshot changes nothing, so without a quorum an older answer will do. */
  #withSnapshots(name: string): Promise<{ volume: Versioned<StoredVolume>; state: ClusterState }> {
    const { store } = this.#options;
    return this.#orLocal(async (options) => {
      const volume = await findVolume(store, name, options);
      const { id } = volume.value.metadata;
      // the read before waited until this member had all that was committed: local is enough
      const snapshots = await readSnapshots(store, id, { local: true });
      return { volume, state: { ...this.#cache.state, snapshots: new Map([[id, snapshots]]) } };
    });
  }

  /**
   * For `/readyz`: the node holds its lease, the store has a leader, and the node's disks are recorded,
   * so that who waits for all nodes may place replicas on all of them.
   */
  readiness(): { ready: boolean; reason: string } {
    if (this.#closing) return { ready: false, reason: 'the node is stopping' };
    if (this.#options.store.status().leaderId === null) {
      return {
        ready: false,
        reason: 'the cluster store has no leader: too few of its members are up or can be reached',
      };
    }
    const trouble = this.#session.trouble;
    if (trouble !== null) return { ready: false, reason: trouble };
    if (this.#disksAreKnown) return { ready: true, reason: '' };
    return { ready: false, reason: "the node's disks are not recorded in the cluster yet" };
  }

  /** Nodes and volumes as this member sees them, for the metrics that only the leader shows. */
  async observe(): Promise<ClusterObservation> {
    const { state } = this.#cache;
    const roles = storeRoles(this.#options.store);
    const volumes = await this.#volumes.describe([...state.volumes.values()], state);
    return observeCluster(state, roles, volumes);
  }

  /** Replicas on this node that no volume knows (a metric). */
  get orphanReplicas(): number {
    return this.#reconciler.orphanCount;
  }

  /**
   * The node is about to stop: no volume is attached here by order any more. The agent says so
   * before it gives up its attachments, which a controller would else ask it to take again.
   */
  stopAttaching(): void {
    this.#attachments.stopAttaching();
  }

  /**
   * Stops the controllers, finishes what is being answered and ends the node's lease. The agent
   * gives up its attachments before. Works twice.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const undo of this.#undo) undo();
    this.#peers.close();
    await this.#calls.close();
    await this.#controllers.close();
    await this.#reconciler.close();
    await this.#snapshots.close();
    await this.#settings.close();
    await this.#scrubs.close();
    this.#cancelSettle();
    await Promise.allSettled(this.#work);
    await this.#events.close();
    await this.#session.close();
    await this.#cache.close();
  }

  #nodeCalls(): NodeCalls {
    const { agent } = this.#options;
    return nodeCalls({ agent, attachments: this.#attachments, disks: this.#disks });
  }

  #orderParts(): SnapshotServiceParts {
    const { store, clock, random, logger, node } = this.#options;
    const common = { store, clock, random, logger, nodeId: node.id };
    return {
      ...common,
      cache: this.#cache,
      peers: this.#peers,
      spaces: this.#spaces,
      volumes: this.#volumes,
    };
  }

  /** False without a lease: others may already act for this node. */
  get #mayAct(): boolean {
    return !this.#closing && this.#cache.loaded && this.#session.trouble === null;
  }

  /** `keys`: what has changed since the last look; null: that is not known. */
  #look(keys: readonly string[] | null = null): void {
    if (!this.#mayAct) return;
    this.#reconciler.reconcile();
    this.#snapshots.reconcile();
    this.#settings.push(keys);
    this.#scrubs.look();
    if (!this.#hasReported) this.#report();
  }

  #report(): void {
    if (!this.#mayAct) return;
    this.#hasReported = true;
    this.#settings.repeat();
    const reporting = this.#disks
      .report()
      .then(() => {
        this.#disksAreKnown = true;
      })
      .then(() => this.#reconciler.lookForOrphans())
      .then(() => this.#reconciler.reportKnownFailures())
      .then(() => this.#attachments.releaseUnserved());
    this.#track(reporting, 'disks, replicas or attachments not reported', () => {
      this.#hasReported = false;
    });
  }

  /** What replicas have taken or freed is known at once: the next volume may need it. */
  #reportSpace(): void {
    if (this.#mayAct) this.#track(this.#reportDisks(), 'disks not reported', () => {});
  }

  #track(run: Promise<void>, failure: string, failed: () => void): void {
    const work = run
      .catch((error: unknown) => {
        this.#options.logger.warn({ error: StorError.from(error).message }, failure);
        failed();
      })
      .then(() => {
        this.#work.delete(work);
      });
    this.#work.add(work);
  }

  /** Tells the data path where replication listeners are, when that changed. */
  #tellPeers(): void {
    const peers = peerLanes(this.#cache.state);
    const told = JSON.stringify(peers);
    if (told === this.#peersTold || peers.length === 0) return;
    this.#peersTold = told;
    this.#options.agent.peersChanged(peers);
  }
}
