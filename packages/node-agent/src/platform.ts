import { readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import {
  EtcdClusterStore,
  grpcTransport,
  levelLogs,
  openEtcdKeys,
  type ClusterStore,
  type EtcdStoreOptions,
  type RaftLogs,
  type RpcTransport,
} from '@stor/control-plane';
import { SystemDeviceProcesses, systemHostTools } from '@stor/host-attach';
import {
  systemClock,
  systemFiles,
  systemRandom,
  type Clock,
  type Files,
  type Random,
} from '@stor/runtime';
import type { BlockDevices } from './devices/block-devices.ts';
import { systemBlockDevices } from './devices/system-block-devices.ts';
import type { HostPlatform } from './host/agent-host.ts';
import { HttpServer } from './http-server.ts';
import { startLane, type LaneHost } from './lane/lane-host.ts';
import type { LaneOptions, MainMethods } from './lane/lane-protocol.ts';

/**
 * Everything of the host that an agent touches. An agent that is started on another platform than
 * `systemPlatform` uses no real time, chance, files, sockets, threads or process: a simulator runs
 * many of them in one thread, on fakes.
 */
export interface Platform {
  readonly clock: Clock;
  readonly random: Random;
  /** for the data folder and the disks */
  readonly files: Files;
  /** the Raft log */
  readonly logs: RaftLogs;
  /** calls between nodes, and the API */
  readonly rpc: RpcTransport;
  /** stores in etcd: as a member, and their keys alone @default real ones */
  readonly etcd?: EtcdAccess;
  /** what formats and mounts block devices; absent: there are only directories */
  readonly devices?: BlockDevices;
  /** what makes devices of volumes and mounts them; absent: this agent does neither */
  readonly host?: HostPlatform;
  /** changes with each boot of the host */
  bootId(): string;
  /**
   * Starts a lane; it serves NBD and talks to other lanes. `startLaneInThread` (node-agent/testing)
   * is the form without a thread, and takes files, network and clock of its own.
   */
  startLane(options: LaneOptions, control: MainMethods): LaneHost;
  /** null: metrics and health are not served */
  readonly listenHttp: typeof HttpServer.listen | null;
  /** threads that calls of files run in; absent: not known, and no disk is held back */
  readonly poolThreads?: number;
  /** Returns its removal. */
  writePidFile(path: string): () => Promise<void>;
}

export interface EtcdAccess {
  openStore(options: EtcdStoreOptions): Promise<MeasuredStore>;
  openKeys: typeof openEtcdKeys;
}

/** A store that tells how long its commits take. */
export type MeasuredStore = ClusterStore &
  Pick<EtcdClusterStore, 'commitLatency'> &
  Partial<Pick<EtcdClusterStore, 'verify'>>;

/** Over the host's network. */
export const systemEtcd: EtcdAccess = {
  openStore: (options) => EtcdClusterStore.open(options),
  openKeys: openEtcdKeys,
};

/** The host itself. */
export const systemPlatform: Platform = {
  clock: systemClock,
  random: systemRandom,
  files: systemFiles,
  logs: levelLogs,
  rpc: grpcTransport(),
  devices: systemBlockDevices,
  host: { processes: new SystemDeviceProcesses(), tools: systemHostTools },
  bootId: () => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
  startLane,
  listenHttp: (options) => HttpServer.listen(options),
  // as libuv reads it
  poolThreads: Number(process.env['UV_THREADPOOL_SIZE'] ?? 4) || 4,
  writePidFile: (path) => {
    writeFileSync(path, `${process.pid}\n`);
    return () => rm(path, { force: true });
  },
};
