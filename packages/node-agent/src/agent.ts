import { join } from 'node:path';
import {
  ControlPlane,
  type ControlPlaneOptions,
  type EtcdPin,
  type MoveTls,
  EmbeddedClusterStore,
  type ClusterStore,
  type RpcServer,
} from '@stor/control-plane';
import { StorError } from '@stor/protocol';
import { MetricsPage, type Logger, type MetricSnapshot } from '@stor/runtime';
import { isEtcd, lanePorts, type AgentConfig } from './config.ts';
import { startCsiDriver } from './csi/start-csi-driver.ts';
import { storeIdentity } from './core/store-choice.ts';
import { DataFolder } from './data-folder.ts';
import { startDockerPlugin } from './docker/start-docker-plugin.ts';
import { checkFirstStart } from './formation/check-first-start.ts';
import { AgentHost } from './host/agent-host.ts';
import { metricFamilies } from './metric-families.ts';
import { metricSnapshot } from './metrics-snapshot.ts';
import { NodeDisks } from './node-disks.ts';
import type { NodeLanes } from './node-lanes.ts';
import { NodePort } from './node-port.ts';
import { enterStore, NextMember } from './next-member.ts';
import { NodeStore } from './node-store.ts';
import { systemEtcd, systemPlatform, type MeasuredStore, type Platform } from './platform.ts';
import { RaftMetrics } from './raft-metrics.ts';
import { nbdUnixPaths, startLanes } from './start-lanes.ts';
import { agentVersion } from './version.ts';

/** How long a stop waits for attachments to be given back before it takes the rest down (ms). */
const giveUpMs = 5_000;
/** At the start etcd is asked for so long whether it is the right one (ms). */
const verifyMs = 3_000;

interface OpenedStore {
  store: MeasuredStore;
  /** for all but a move to another store */
  guarded: ClusterStore;
  move: NonNullable<ControlPlaneOptions['moveStore']>;
}

/**
 * One node of Stor. Composes the data folder, the lanes, the cluster store, the control plane and
 * HTTP, in that order, and takes them down in the reverse one; before that the lanes give up their
 * attachments.
 */
export class Agent {
  readonly #config: AgentConfig;
  readonly #logger: Logger;
  readonly #platform: Platform;
  readonly #fatal: ((error: StorError) => void)[] = [];
  readonly #moved: (() => void)[] = [];
  /** what to close, last opened first */
  readonly #open: (() => Promise<void>)[] = [];
  #store: ClusterStore | null = null;
  #host: AgentHost | null = null;
  #failed: StorError | null = null;
  #closing: Promise<void> | null = null;

  private constructor(config: AgentConfig, logger: Logger, platform: Platform) {
    this.#config = config;
    this.#logger = logger;
    this.#platform = platform;
  }

  /** Starts everything; on an error closes what was open and rejects with what and why. */
  static async start(
    config: AgentConfig,
    logger: Logger,
    platform: Platform = systemPlatform,
  ): Promise<Agent> {
    const agent = new Agent(config, logger, platform);
    try {
      await agent.#start();
      return agent;
    } catch (error) {
      await agent.close().catch((closing: unknown) => {
        logger.warn({ error: StorError.from(closing).message }, 'closing after a failed start');
      });
      throw error;
    }
  }

  /** This node's member of the cluster store, for whoever watches it; null before it is open. */
  get store(): ClusterStore | null {
    return this.#store;
  }

  /** Called when the agent cannot go on (a lane ended, the Raft log cannot be written). */
  onFatal(listener: (error: StorError) => void): void {
    this.#fatal.push(listener);
    if (this.#failed) listener(this.#failed);
  }

  /** Called when the cluster has moved to another store: this agent must be closed and started anew. */
  onMoved(listener: () => void): void {
    this.#moved.push(listener);
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeAll();
    return this.#closing;
  }

  async #start(): Promise<void> {
    const { clusterId, nodeId, dataDir } = this.#config;
    const { clock, random, rpc } = this.#platform;
    const folder = DataFolder.open(dataDir, { clusterId, nodeId }, this.#platform.files);
    const agentInstance = Buffer.from(random.bytes(8)).toString('hex');
    const server = await rpc.createServer();
    const control: { plane?: ControlPlane } = {};
    const lanes = await this.#startLanes(folder, agentInstance, control);
    const disks = this.#disks(lanes, folder);
    await disks.open();
    const node = new NodePort(lanes, disks);
    const { store, guarded, move } = await this.#openStore(folder, server);
    const plane = await ControlPlane.open({
      store: guarded,
      moveStore: move,
      agent: node,
      node: await this.#describe(agentInstance, folder),
      clusterId,
      clusterName: this.#config.clusterName,
      clock,
      random,
      logger: this.#logger,
      server,
      rpc,
    });
    this.#open.push(() => plane.close());
    control.plane = plane;
    await this.#serve(server);
    this.#open.push(() => this.#giveUp(lanes, plane));
    await this.#openHost(folder, node);
    await this.#serveDocker(folder);
    await this.#serveHttp(lanes, plane, store, node);
    this.#writePidFile();
    this.#logger.info({ version: agentVersion, nodeId, agentInstance }, 'agent started');
  }

  /** Devices and mounts ask by the API, so they come after it, and end before it. */
  async #openHost(folder: DataFolder, node: NodePort): Promise<void> {
    const { host: parts, files, clock } = this.#platform;
    if (!parts) return;
    const bootId = this.#platform.bootId();
    const options = { ...parts, files, clock, bootId, logger: this.#logger };
    const host = await AgentHost.open({ ...options, config: this.#config, dataDir: folder.path });
    this.#open.push(() => host.close());
    node.setHost(host);
    this.#host = host;
    const csi = await startCsiDriver({ config: this.#config, host, clock, logger: this.#logger });
    if (csi) this.#open.push(() => csi.close());
  }

  /** Never fails: without the plug-in the node is of use all the same. */
  async #serveDocker(folder: DataFolder): Promise<void> {
    const { docker } = this.#config;
    const host = this.#host;
    if (!docker || !host) return;
    try {
      const plugin = await startDockerPlugin({
        ...{ docker, dataDir: folder.path, platform: this.#platform, logger: this.#logger },
        ...{ api: host.api, hosts: host.volumes },
      });
      this.#open.push(() => plugin.close());
    } catch (thrown) {
      const error = StorError.from(thrown).message;
      this.#logger.error({ error }, 'the Docker volume plug-in does not serve');
    }
  }

  #disks(lanes: NodeLanes, folder: DataFolder): NodeDisks {
    const { files, random, devices = null } = this.#platform;
    return new NodeDisks({
      lanes,
      folder,
      files,
      devices,
      random,
      logger: this.#logger,
      autoDisk: this.#config.autoDisk,
      poolThreads: this.#platform.poolThreads ?? null,
    });
  }

  #startLanes(
    folder: DataFolder,
    agentInstance: string,
    control: { plane?: ControlPlane },
  ): Promise<NodeLanes> {
    return startLanes({
      config: this.#config,
      platform: this.#platform,
      dataDir: folder.path,
      agentInstance,
      control,
      started: (lane) => {
        this.#open.push(() => lane.close());
        // the others go on until this process ends, which is at once: their volumes lose nothing
        lane.onDeath((error) => {
          this.#fail(error);
        });
      },
    });
  }

  /**
   * The first thing of a stop: attachments are given back while the control plane can still be told,
   * so that the next primary need not wait. What takes longer ends later, when the lane closes.
   */
  async #giveUp(lanes: NodeLanes, plane: ControlPlane): Promise<void> {
    plane.stopAttaching();
    let cancel = (): void => {};
    const tooLate = new Promise<void>((resolve) => {
      cancel = this.#platform.clock.after(giveUpMs, resolve);
    });
    try {
      await Promise.race([lanes.giveUp(), tooLate]);
    } finally {
      cancel();
    }
  }

  async #openStore(folder: DataFolder, server: RpcServer): Promise<OpenedStore> {
    const { clock, random } = this.#platform;
    const next = this.#nextMember(folder, server);
    const nodeStore = new NodeStore({
      ...{ config: this.#config, folder, clock, random, logger: this.#logger },
      next,
      openKeys: (this.#platform.etcd ?? systemEtcd).openKeys,
    });
    const { address, tls } = await nodeStore.choose();
    const store = isEtcd(address)
      ? await this.#openEtcd(folder, address, tls)
      : await this.#openEmbedded(folder, server);
    this.#open.push(() => store.close());
    this.#open.push(() => next.close());
    // an etcd that is refused ends the start; one that is away does not
    if ('verify' in store) await store.verify?.(verifyMs);
    this.#store = store;
    if (!isEtcd(address)) folder.noteRaft();
    const watch = nodeStore.watch(store, () => {
      for (const listener of this.#moved) listener();
    });
    this.#open.push(() => watch.close());
    return {
      store,
      guarded: nodeStore.guarded(store),
      move: (request) => nodeStore.move(store, address, request),
    };
  }

  #nextMember(folder: DataFolder, server: RpcServer): NextMember {
    const { clock, random, files, logs, rpc } = this.#platform;
    const { clusterId, nodeId: id, listen } = this.#config;
    const logger = this.#logger;
    const store = { clusterId, id, server, rpc, files, logs, clock, random, logger };
    return new NextMember({ folder, address: this.#address(listen.api), store });
  }

  #openEtcd(folder: DataFolder, address: string, tls: MoveTls | undefined): Promise<MeasuredStore> {
    const { clock, random, etcd = systemEtcd } = this.#platform;
    const { nodeId: id } = this.#config;
    const pin: EtcdPin = {
      known: folder.storeNote()?.seen ?? null,
      note: (seen) => {
        const note = folder.storeNote();
        // not of a store that the cluster has moved to meanwhile
        const isOfIt = note && storeIdentity(note.store) === storeIdentity(address);
        if (isOfIt) folder.noteStore({ ...note, seen });
      },
    };
    return etcd.openStore({ id, address, tls, pin, clock, random, logger: this.#logger });
  }

  async #openEmbedded(folder: DataFolder, server: RpcServer): Promise<EmbeddedClusterStore> {
    const { clock, random, files, logs, rpc } = this.#platform;
    const { nodeId, clusterId } = this.#config;
    enterStore(folder, files, { clusterId, id: nodeId }, clock.wallMs());
    folder.checkRaft(logs);
    const hasMoved = (folder.storeNote()?.movedFrom ?? []).length > 0;
    const { formation = hasMoved ? { voters: [], storeId: '', known: [] } : undefined } =
      this.#config;
    if (!formation && !folder.hasBegunRaft && !logs.exists(join(folder.raftPath, 'log'))) {
      const { nodeName: name, members } = this.#config;
      await checkFirstStart(rpc, { id: nodeId, name }, members);
    }
    const formed = formation && {
      // once it has begun, the log alone says who votes
      voters: folder.hasBegunRaft ? [] : formation.voters,
      // ... and its folder which store it is of
      ...(folder.hasBegunRaft ? {} : { storeId: formation.storeId }),
      known: formation.known,
    };
    const store = await EmbeddedClusterStore.open({
      id: nodeId,
      address: this.#address(this.#config.listen.api),
      ...formed,
      clusterId,
      members: this.#config.members.map(({ id, api }) => ({ id, address: api })),
      dataPath: folder.raftPath,
      server,
      rpc,
      files,
      logs,
      clock,
      random,
      logger: this.#logger,
      onFatal: (error) => {
        this.#fail(StorError.from(error));
      },
    });
    return store;
  }

  async #serve(server: RpcServer): Promise<void> {
    const { host, api } = this.#config.listen;
    await server.listen(host, api).catch((error: unknown) => {
      throw portError('API', `${host}:${api}`, error as Error);
    });
    this.#open.push(async () => {
      server.forceShutdown();
    });
  }

  async #serveHttp(
    lanes: NodeLanes,
    plane: ControlPlane,
    store: OpenedStore['store'],
    node: NodePort,
  ): Promise<void> {
    const { host, http } = this.#config.listen;
    const { listenHttp } = this.#platform;
    if (!listenHttp) return;
    const raft = new RaftMetrics(this.#config.nodeName, store);
    const metrics = new MetricsPage(metricFamilies, () => this.#snapshot(lanes, plane, raft, node));
    const server = await listenHttp({
      host,
      port: http,
      metrics,
      health: async () => this.#failed?.message ?? '',
      readiness: () => plane.readiness(),
    }).catch((error: unknown) => {
      throw portError('HTTP', `${host}:${http}`, error as Error);
    });
    this.#open.push(() => server.close());
  }

  async #snapshot(
    lanes: NodeLanes,
    plane: ControlPlane,
    raft: RaftMetrics,
    node: NodePort,
  ): Promise<MetricSnapshot> {
    const [counters, live, disks] = await Promise.all([
      lanes.counters(),
      lanes.liveVolumes(),
      node.disks(),
    ]);
    return metricSnapshot({
      node: this.#config.nodeName,
      lane: counters,
      live,
      spaces: await lanes.replicaSpace(live.map(({ volumeId }) => volumeId)),
      disks,
      devices: this.#host?.devices ?? [],
      raft: raft.read(),
      cluster: raft.isLeader ? await plane.observe() : null,
    });
  }

  async #describe(
    agentInstance: string,
    folder: DataFolder,
  ): Promise<Parameters<typeof ControlPlane.open>[0]['node']> {
    const { listen, nodeId, nodeName, labels } = this.#config;
    const ports = lanePorts(this.#config, 'config');
    const tlsMode = this.#config.nbd?.tls?.mode ?? 'off';
    return {
      id: nodeId,
      name: nodeName,
      agentInstance,
      bootId: this.#platform.bootId(),
      version: agentVersion,
      ...(labels ? { labels } : {}),
      computeOnly: folder.disks().length === 0,
      addresses: {
        api: this.#address(listen.api),
        http: this.#address(listen.http),
        peers: ports.map(({ peers }) => this.#address(peers)),
        nbd: ports.map(({ nbd }) => this.#address(nbd)),
        nbdUnix: nbdUnixPaths(this.#config),
        ...(tlsMode === 'off' ? {} : { nbdTls: tlsMode }),
      },
    };
  }

  /** Where others reach a port of this node. */
  #address(port: number): string {
    const { host, advertise = host } = this.#config.listen;
    return `${advertise}:${port}`;
  }

  #writePidFile(): void {
    const { pidFile } = this.#config;
    if (!pidFile) return;
    this.#open.push(this.#platform.writePidFile(pidFile));
  }

  #fail(error: StorError): void {
    if (this.#failed || this.#closing) return;
    this.#failed = error;
    for (const listener of this.#fatal) listener(error);
  }

  async #closeAll(): Promise<void> {
    const errors: unknown[] = [];
    for (const close of this.#open.reverse()) {
      try {
        await close();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new StorError('INTERNAL', 'closing failed', { cause: errors });
  }
}

function portError(what: string, address: string, cause: Error): StorError {
  const { code } = cause as NodeJS.ErrnoException;
  return code === 'EADDRINUSE' || /EADDRINUSE|address already in use/i.test(cause.message)
    ? new StorError(
        'IN_USE',
        `the ${what} port ${address} is in use by another process: stop it, or change the port in the config`,
        { cause },
      )
    : new StorError(
        'FAILED_PRECONDITION',
        `cannot listen for ${what} on ${address}: ${cause.message}`,
        { cause },
      );
}
