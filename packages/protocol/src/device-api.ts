import type { CallOptions, ChangeGuards } from './api.ts';
import type { Device, HostFinding } from './resources.ts';

/**
 * Volumes as block devices and mounted file systems of hosts (part of `StorApi`). `node`: name or id of
 * the host. '': for what makes something the answering node; for what ends or changes something the host
 * that has the volume.
 */
export interface DeviceApi {
  /**
   * Publishes the volume to the host and makes a block device of it there; again, it answers with what
   * there is. NOT_FOUND, ATTACHED_ELSEWHERE (details: holder), ALREADY_EXISTS (it is there the other way:
   * `readOnly`), FAILED_PRECONDITION (the host can make no device: what is missing).
   */
  attachDevice(
    request: { name: string; node: string; readOnly?: boolean } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Device>;
  /**
   * Takes the block device away and ends the publication; what is gone already is fine.
   * FAILED_PRECONDITION while it is mounted or open (who), or used by another front-end, unless `force`:
   * then its requests fail, and what was not written to the volume is lost.
   */
  detachDevice(
    request: { name: string; node: string; force?: boolean } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Record<string, never>>;
  /**
   * Attaches, and mounts at `target`, which is made when it is not there. `fileSystem` '': the one that
   * there is, else ext4. One is made only on a volume that carries no signature and no data: FOREIGN_DATA
   * says what is there. `options`: of mount(8); `formatOptions`: arguments of mkfs(8). ALREADY_EXISTS: at
   * that target there is another mount. INVALID_ARGUMENT, and as `attachDevice`.
   */
  mountVolume(
    request: {
      name: string;
      node: string;
      target: string;
      fileSystem?: string;
      options?: string[];
      formatOptions?: string[];
      readOnly?: boolean;
    } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Device>;
  /**
   * Ends the mount at `target`, or, `target` '', all mounts of the volume that were made by `mountVolume`;
   * after the last one the device is taken away too. What is gone already is fine. IN_USE: who has files
   * open there; FAILED_PRECONDITION: another front-end has mounted it.
   */
  unmountVolume(
    request: { name: string; node: string; target: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Record<string, never>>;
  /** Makes the device and its file systems as large as the volume is, at once. NOT_FOUND. */
  growDevice(
    request: { name: string; node: string } & ChangeGuards,
    options?: CallOptions,
  ): Promise<Device>;
  /** Of one host. NOT_FOUND (node). */
  listDevices(request: { node: string }, options?: CallOptions): Promise<{ devices: Device[] }>;
  /** What the host has of what devices and mounts need. NOT_FOUND (node). */
  checkHost(
    request: { node: string },
    options?: CallOptions,
  ): Promise<{ node: string; checks: HostFinding[] }>;
}
