import type { Device, HostFinding } from '@stor/protocol';

/**
 * What a host is asked about block devices and mounts by `storctl`; see StorApi. What an order does not
 * need is empty.
 * - unmount: at `target`, or all mounts of `volume`
 * - check: what the host has of what devices need
 */
export interface HostOrder {
  type: 'attach' | 'detach' | 'mount' | 'unmount' | 'grow' | 'list' | 'check';
  /** name or id */
  volume: string;
  target: string;
  fileSystem: string;
  options: string[];
  formatOptions: string[];
  readOnly: boolean;
  force: boolean;
}

/** A device as its own host shows it. */
export type HostedDevice = Omit<Device, 'nodeId' | 'node'>;

export interface HostAnswer {
  /** attach, mount, grow: the one; list: all */
  devices: HostedDevice[];
  checks: HostFinding[];
}
