import type { NodeId } from '@stor/protocol';
import type { Clock, Files, Logger } from '@stor/runtime';
import type { DeviceProcesses } from './device/device-processes.ts';
import type { ChosenMeans } from './chosen-means.ts';
import type { HostTls } from './export-addresses.ts';
import type { HostStateFile } from './host-state-file.ts';
import type { AllocationProbe, HostTools } from './host-tools.ts';
import type { VolumePort } from './volume-port.ts';

/** What orders about devices and mounts of one host work with. */
export interface HostParts {
  volumes: VolumePort;
  processes: DeviceProcesses;
  tools: HostTools;
  allocation: AllocationProbe;
  file: HostStateFile;
  files: Files;
  /** where devices have their sockets and logs */
  folder: string;
  nodeId: NodeId;
  tls: HostTls | null;
  /** of devices that are made from now on */
  means: ChosenMeans;
  clock: Clock;
  logger: Logger;
  /** why devices do not work, by id; one that is not there works */
  failures: Map<string, string>;
}
