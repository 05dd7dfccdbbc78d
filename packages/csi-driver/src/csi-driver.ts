import { createHash } from 'node:crypto';
import type { HostVolumes } from '@stor/host-attach';
import { StorError } from '@stor/protocol';
import type { NodeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { defaultDriverName, defaultMaxVolumesPerNode, isDriverName } from './core/driver-info.ts';
import { PendingOperations } from './core/pending-operations.ts';
import { TopologyKeys } from './core/topology.ts';
import type { CsiApi } from './csi-api.ts';
import { CsiServer } from './csi-server.ts';
import type { ServedService } from './csi-server.ts';
import { loadCsiServices } from './csi-services.ts';
import type { HostBinds } from './host-binds.ts';
import { ServedCalls } from './served-calls.ts';
import type { ControllerContext } from './services/controller-context.ts';
import { ControllerService } from './services/controller-service.ts';
import { DeletionService } from './services/deletion-service.ts';
import { GroupService } from './services/group-service.ts';
import { IdentityService } from './services/identity-service.ts';
import { MetadataService } from './services/metadata-service.ts';
import type { NodeContext } from './services/node-context.ts';
import { NodePublishService } from './services/node-publish-service.ts';
import { NodeService } from './services/node-service.ts';
import { NodeStageService } from './services/node-stage-service.ts';
import { PublishService } from './services/publish-service.ts';
import { SnapshotService } from './services/snapshot-service.ts';

/** Paths of UNIX sockets: one for all services, or one for each side; a side without one is not served. */
export type CsiEndpoints =
  { endpoint: string } | { controllerEndpoint?: string; nodeEndpoint?: string };

export interface CsiDriverOptions {
  endpoints: CsiEndpoints;
  /** of this agent, and of the cluster */
  nodeId: NodeId;
  clusterId: string;
  version: string;
  api: CsiApi;
  /** null: this host can make no devices, so its side is not served */
  host: HostVolumes | null;
  binds: HostBinds;
  clock: Clock;
  logger: Logger;
  /** @default csi.stor.internal */
  driverName?: string | undefined;
  /** 0: as many as the orchestrator likes @default 128 */
  maxVolumesPerNode?: number | undefined;
  /** how long a deleted volume stays in the trash (ms) @default as for any other */
  trashKeepMs?: number | undefined;
}

/** CSI for this cluster (Controller) and this host (Node), on UNIX sockets. */
export class CsiDriver {
  readonly #calls: ServedCalls;
  readonly #servers: readonly CsiServer[];
  #closing: Promise<void> | null = null;

  private constructor(calls: ServedCalls, servers: readonly CsiServer[]) {
    this.#calls = calls;
    this.#servers = servers;
  }

  /** Resolves when it listens. INVALID_ARGUMENT, IN_USE, FOREIGN_DATA; nothing is left open then. */
  static async open(options: CsiDriverOptions): Promise<CsiDriver> {
    const { clock, logger } = options;
    const services = servicesOf(options);
    const definitions = await loadCsiServices();
    const calls = new ServedCalls({ clock, logger });
    const servers: CsiServer[] = [];
    try {
      for (const [path, served] of placesOf(options.endpoints, services)) {
        servers.push(await CsiServer.open({ path, definitions, services: served, calls, clock }));
        const names = served.map(({ name }) => name).join(', ');
        logger.info({ path, services: names }, 'CSI driver listens');
      }
    } catch (error) {
      await new CsiDriver(calls, servers).close();
      throw error;
    }
    return new CsiDriver(calls, servers);
  }

  /** Waits for calls that are under way; what is staged and published stays. Works twice. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#calls.close();
    await Promise.all(this.#servers.map((server) => server.close()));
  }
}

interface Sides {
  identity: ServedService;
  controller: ServedService[];
  node: ServedService | null;
}

function placesOf(endpoints: CsiEndpoints, sides: Sides): [string, ServedService[]][] {
  const { identity, controller, node } = sides;
  const wantsNode = 'endpoint' in endpoints || endpoints.nodeEndpoint !== undefined;
  if (wantsNode && !node) {
    throw new StorError('FAILED_PRECONDITION', 'this host can make no devices for CSI');
  }
  const own = node ? [node] : [];
  if ('endpoint' in endpoints) return [[endpoints.endpoint, [identity, ...controller, ...own]]];
  const { controllerEndpoint, nodeEndpoint } = endpoints;
  const places: [string, ServedService[]][] = [];
  if (controllerEndpoint !== undefined)
    places.push([controllerEndpoint, [identity, ...controller]]);
  if (nodeEndpoint !== undefined) places.push([nodeEndpoint, [identity, ...own]]);
  if (places.length === 0) throw new StorError('INVALID_ARGUMENT', 'no CSI endpoint is named');
  return places;
}

function servicesOf(options: CsiDriverOptions): Sides {
  const { api, host, binds, nodeId, clusterId, clock, logger, version } = options;
  const { driverName = defaultDriverName, trashKeepMs = null } = options;
  if (!isDriverName(driverName)) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `driver name ${JSON.stringify(driverName)} is not valid: use 1 to 63 letters, digits, "." or "-", with a letter or digit first and last`,
    );
  }
  const keys = new TopologyKeys(driverName);
  const maxVolumesPerNode = options.maxVolumesPerNode ?? defaultMaxVolumesPerNode;
  const digest = (text: string): string => createHash('sha256').update(text).digest('hex');
  const controller: ControllerContext = {
    ...{ api, clusterId, keys, digest, maxVolumesPerNode, trashKeepMs, clock, logger },
    pending: new PendingOperations(),
  };
  const node: NodeContext | null = host && {
    ...{ api, host, binds, nodeId, clusterId, keys, maxVolumesPerNode },
    pending: new PendingOperations(),
  };
  const problem = async (signal: AbortSignal): Promise<string> => {
    try {
      await api.getClusterStatus({}, { signal });
      return '';
    } catch (error) {
      return `the cluster does not answer: ${StorError.from(error).message}`;
    }
  };
  return {
    identity: identityService(new IdentityService({ driverName, version, problem })),
    controller: controllerServices(controller),
    node: node && nodeService(node),
  };
}

function identityService(identity: IdentityService): ServedService {
  return {
    name: 'Identity',
    methods: {
      getPluginInfo: () => identity.getPluginInfo(),
      getPluginCapabilities: () => identity.getPluginCapabilities(),
      probe: (request, signal) => identity.probe(request, signal),
    },
  };
}

function controllerServices(context: ControllerContext): ServedService[] {
  const volumes = new ControllerService(context);
  const deletion = new DeletionService(context);
  const publish = new PublishService(context);
  const snapshots = new SnapshotService(context);
  const groups = new GroupService(context);
  const metadata = new MetadataService(context);
  return [
    {
      name: 'Controller',
      methods: {
        controllerGetCapabilities: () => volumes.controllerGetCapabilities(),
        createVolume: (request, signal) => volumes.createVolume(request, signal),
        deleteVolume: (request, signal) => deletion.deleteVolume(request, signal),
        controllerPublishVolume: (request, signal) =>
          publish.controllerPublishVolume(request, signal),
        controllerUnpublishVolume: (request, signal) =>
          publish.controllerUnpublishVolume(request, signal),
        validateVolumeCapabilities: (request, signal) =>
          volumes.validateVolumeCapabilities(request, signal),
        listVolumes: (request, signal) => volumes.listVolumes(request, signal),
        getCapacity: (request, signal) => volumes.getCapacity(request, signal),
        createSnapshot: (request, signal) => snapshots.createSnapshot(request, signal),
        deleteSnapshot: (request, signal) => snapshots.deleteSnapshot(request, signal),
        listSnapshots: (request, signal) => snapshots.listSnapshots(request, signal),
        getSnapshot: (request, signal) => snapshots.getSnapshot(request, signal),
        controllerExpandVolume: (request, signal) =>
          volumes.controllerExpandVolume(request, signal),
        controllerGetVolume: (request, signal) => volumes.controllerGetVolume(request, signal),
        controllerModifyVolume: (request, signal) =>
          volumes.controllerModifyVolume(request, signal),
      },
    },
    {
      name: 'GroupController',
      methods: {
        groupControllerGetCapabilities: () => groups.groupControllerGetCapabilities(),
        createVolumeGroupSnapshot: (request, signal) =>
          groups.createVolumeGroupSnapshot(request, signal),
        deleteVolumeGroupSnapshot: (request, signal) =>
          groups.deleteVolumeGroupSnapshot(request, signal),
        getVolumeGroupSnapshot: (request, signal) => groups.getVolumeGroupSnapshot(request, signal),
      },
    },
    {
      name: 'SnapshotMetadata',
      methods: {},
      streams: {
        getMetadataAllocated: (request, send, signal) =>
          metadata.getMetadataAllocated(request, send, signal),
        getMetadataDelta: (request, send, signal) =>
          metadata.getMetadataDelta(request, send, signal),
      },
    },
  ];
}

function nodeService(context: NodeContext): ServedService {
  const node = new NodeService(context);
  const stage = new NodeStageService(context);
  const publish = new NodePublishService(context);
  return {
    name: 'Node',
    methods: {
      nodeStageVolume: (request, signal) => stage.nodeStageVolume(request, signal),
      nodeUnstageVolume: (request, signal) => stage.nodeUnstageVolume(request, signal),
      nodePublishVolume: (request, signal) => publish.nodePublishVolume(request, signal),
      nodeUnpublishVolume: (request, signal) => publish.nodeUnpublishVolume(request, signal),
      nodeGetVolumeStats: (request) => node.nodeGetVolumeStats(request),
      nodeExpandVolume: (request, signal) => node.nodeExpandVolume(request, signal),
      nodeGetCapabilities: () => node.nodeGetCapabilities(),
      nodeGetInfo: (request, signal) => node.nodeGetInfo(request, signal),
    },
  };
}
