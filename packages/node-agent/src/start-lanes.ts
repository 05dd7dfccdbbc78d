import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { ControlPlane } from '@stor/control-plane';
import { StorError, autoDetachMs } from '@stor/protocol';
import type { SocketTarget } from '@stor/runtime';
import { lanePorts, type AgentConfig } from './config.ts';
import type { LaneHost } from './lane/lane-host.ts';
import type { LaneOptions, MainMethods } from './lane/lane-protocol.ts';
import { ThreadLock } from './lane/thread-lock.ts';
import { NodeLanes, type NodeLane } from './node-lanes.ts';
import type { Platform } from './platform.ts';

/** A client that opens a volume whose holder has died waits for the node lease to end (ms). */
const acquireWaitMs = 15_000;

export interface StartLanesOptions {
  config: AgentConfig;
  platform: Platform;
  dataDir: string;
  agentInstance: string;
  /** the control plane, once it is there */
  control: { plane?: ControlPlane };
  /** Called for each lane before it listens; closing it ends the lane. */
  started: (lane: LaneHost) => void;
}

/** Starts the lanes of a node; they listen when this resolves. IN_USE names the port that is taken. */
export async function startLanes(options: StartLanesOptions): Promise<NodeLanes> {
  const { config, platform, control } = options;
  if (config.nbdUnixDir) platform.files.makeDirectory(config.nbdUnixDir);
  const lanes: NodeLane[] = [];
  const nodeLanes: { all?: NodeLanes } = {};
  const all = laneOptions(options);
  const hosts = all.map((lane) =>
    platform.startLane(lane, laneControl(control, nodeLanes, lane.lane)),
  );
  for (const host of hosts) options.started(host);
  // one after the other, so that the first port that is taken is the one that is named
  for (const [index, { methods }] of hosts.entries()) {
    const { nbdPort } = await methods.listen();
    const { host = '', nbdUnixPath } = all[index] ?? {};
    const address: SocketTarget = nbdUnixPath
      ? { path: nbdUnixPath }
      : { host: withinHost(host), port: nbdPort };
    lanes.push({ methods, address });
  }
  nodeLanes.all = new NodeLanes({ nodeId: config.nodeId, lanes, clock: platform.clock });
  return nodeLanes.all;
}

/** Where each lane serves NBD on a UNIX socket; empty when it does on none. */
export function nbdUnixPaths({ nbdUnixDir, lanes = 1 }: AgentConfig): string[] {
  if (nbdUnixDir === undefined) return [];
  return Array.from({ length: lanes }, (_, lane) => join(nbdUnixDir, `nbd-${lane}.sock`));
}

function laneOptions(options: StartLanesOptions): LaneOptions[] {
  const { config, platform, dataDir, agentInstance } = options;
  const { listen } = config;
  const ports = lanePorts(config, 'config');
  const sockets = nbdUnixPaths(config);
  const failureLock = ThreadLock.newMemory();
  return ports.map(({ peers, nbd }, lane) => ({
    lane,
    lanes: ports.length,
    clusterId: config.clusterId,
    nodeId: config.nodeId,
    nodeName: config.nodeName,
    agentInstance,
    bootId: platform.bootId(),
    dataDir,
    failureLock,
    host: listen.host,
    peersPort: peers,
    nbdPort: nbd,
    nbdUnixPath: sockets[lane] ?? null,
    diskReserveBytes: config.diskReserveBytes ?? null,
    autoDetachMs: config.autoDetachMs ?? autoDetachMs,
    logLevel: config.logLevel,
    // a lane that waits awake leaves a core for everybody else
    busyPoll: (config.nbd?.busyPoll ?? true) && availableParallelism() > ports.length,
    ...tlsOf(config),
  }));
}

function tlsOf({ nbd }: AgentConfig): Pick<LaneOptions, 'nbdTls'> {
  const tls = nbd?.tls;
  if (!tls) return {};
  const { clientCertificates, ...files } = tls;
  const demands = clientCertificates ?? (tls.ca === undefined ? 'none' : 'required');
  return { nbdTls: { ...files, demandsCertificate: demands === 'required' } };
}

/** A host that listens on all its addresses reaches itself by loopback. */
function withinHost(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  return host === '::' ? '::1' : host;
}

/** What a lane may call; until the control plane is there, it is told to come again. */
function laneControl(
  control: { plane?: ControlPlane },
  lanes: { all?: NodeLanes },
  lane: number,
): MainMethods {
  const plane = (): ControlPlane => {
    if (control.plane) return control.plane;
    throw starting();
  };
  const all = (): NodeLanes => {
    if (lanes.all) return lanes.all;
    throw starting();
  };
  return {
    route: async (name) => all().route(name, () => plane().volumePlaces(name)),
    acquire: async (name) =>
      await all().granted(lane, await plane().acquire(name, 'auto', { waitMs: acquireWaitMs })),
    release: async (volumeId, epoch, options) => {
      lanes.all?.released(volumeId, epoch);
      await plane().release(volumeId, epoch, options);
    },
    proposeSet: async (proposal) => plane().proposeSet(proposal),
    reportFailure: async (failure) => plane().reportFailure(failure),
    volumeNames: async (limit) => plane().volumeNames(limit),
    volumeInfo: async (name) => plane().volumeInfo(name),
    snapshotExport: async (name) => plane().snapshotExport(name),
    snapshotIds: async (volume) => plane().snapshotIds(volume),
    primaryAddress: async (volumeId) => plane().primaryAddress(volumeId),
    noteEvent: async (note) => {
      control.plane?.noteEvent(note);
    },
  };
}

function starting(): StorError {
  return new StorError('UNAVAILABLE', 'the agent is starting');
}
