import type { ExportAddress, NbdTlsOptions } from 'nbd-client-js';
import type { DeviceMeans } from '../host-volumes.ts';

/** What a device process is started with; it is handed over as a file, never as arguments. */
export interface DeviceSpec {
  /** of the device, `[a-z0-9-]{1,32}`; its control socket and log are named after it */
  id: string;
  exportName: string;
  /** tried in this order; the local node's UNIX socket first */
  addresses: readonly ExportAddress[];
  tls?: NbdTlsOptions;
  readOnly: boolean;
  sizeBytes: number;
  means: DeviceMeans;
  /** folder for control socket, mount point of FUSE, log; made by the process, 0700 */
  dir: string;
}

/** What a running device process says of itself. */
export interface DeviceState {
  id: string;
  pid: number;
  /** `/dev/loop3`, `/dev/nbd0` */
  path: string;
  means: DeviceMeans;
  sizeBytes: number;
  readOnly: boolean;
  /** address of the agent that has the connection; null while there is none */
  address: string | null;
  /** null: it works, or waits for a node to come back; else why its requests fail */
  failure: string | null;
}

/** Starts processes that outlive the agent, and finds them again. */
export interface DeviceProcesses {
  /** Resolves when the block device is there; after an error nothing is left behind. */
  start(spec: DeviceSpec, signal: AbortSignal): Promise<DeviceState>;
  /**
   * Of one that runs; null: there is none with this id in `dir`. What it left stays until `stop` or the next
   * `start`: a loop device without its process fails, and nobody else's volume gets its name while somebody still
   * uses that.
   */
  find(id: string, dir: string, signal: AbortSignal): Promise<DeviceState | null>;
  setAddresses(
    id: string,
    dir: string,
    addresses: readonly ExportAddress[],
    signal: AbortSignal,
  ): Promise<void>;
  /** The block device has this size when it resolves. */
  grow(id: string, dir: string, sizeBytes: number, signal: AbortSignal): Promise<DeviceState>;
  /**
   * Writes back, flushes, takes the block device away and ends the process. IN_USE while the block device is open or mounted,
   * unless `force`: then its requests fail. Works twice.
   */
  stop(id: string, dir: string, options: { force?: boolean }, signal: AbortSignal): Promise<void>;
}
