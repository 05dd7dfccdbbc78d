import type { Clock, Logger } from '@stor/runtime';
import type { ReconnectLimits } from 'nbd-client-js';
import type { DeviceFiles } from './device-files.ts';
import type { DeviceSpec } from './device-processes.ts';
import type { KernelNbd } from './kernel-nbd.ts';
import type { VolumeConnection } from './volume-connection.ts';

/** What a device process has around it. */
export interface DeviceHost {
  clock: Clock;
  logger: Logger;
  limits?: Partial<ReconnectLimits>;
  /** Null: this host has none. That of the system unless given. */
  openKernelNbd?: (signal: AbortSignal) => Promise<KernelNbd | null>;
}

/** What a block device is made of. */
export interface DeviceParts {
  spec: DeviceSpec;
  files: DeviceFiles;
  volume: VolumeConnection;
  host: DeviceHost;
}
