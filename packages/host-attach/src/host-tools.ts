import type { DeviceContent } from './core/judge-content.ts';
import type { MountEntry } from './core/mount-info.ts';
import type { DeviceMeans, FileSystem, HostCheck, MountStats, UsedMeans } from './host-volumes.ts';

/** Where a file system on a device is mounted. */
export interface MountPlace {
  device: string;
  target: string;
  fileSystem: FileSystem;
}

/**
 * What is asked of the host: its mounts and file systems. Errors are StorError; a tool that is missing is
 * FAILED_PRECONDITION with the Debian package that has it.
 */
export interface HostTools {
  /** What a block device carries, as blkid and wipefs tell it. */
  probe(device: string, signal: AbortSignal): Promise<DeviceContent>;
  /**
   * Keeps a block device open, until what is returned is called: so long its name is no other device's, whoever
   * takes it away.
   */
  hold(device: string): Promise<() => Promise<void>>;
  /**
   * Makes a file system: the caller has seen that there is nothing. IN_USE: somebody else has mounted the device, or
   * has made one, and nothing was changed.
   */
  makeFileSystem(
    device: string,
    fileSystem: FileSystem,
    options: readonly string[],
    signal: AbortSignal,
  ): Promise<void>;
  /** Makes the whole device read as zeros again; not one that is mounted anywhere. */
  discard(device: string, signal: AbortSignal): Promise<void>;
  /**
   * Before it is mounted for writing. FAILED_PRECONDITION when it has faults that nobody can mend without
   * a person.
   */
  check(device: string, fileSystem: FileSystem, signal: AbortSignal): Promise<void>;
  mount(
    order: MountPlace & { options: readonly string[]; readOnly: boolean },
    signal: AbortSignal,
  ): Promise<void>;
  /** Shows what is mounted at `from` at `target` too, for reading only. */
  mountAgain(order: { from: string; target: string }, signal: AbortSignal): Promise<void>;
  /** Fine when nothing is mounted there. IN_USE while files are open, unless `lazy`. */
  unmount(target: string, options: { lazy: boolean }, signal: AbortSignal): Promise<void>;
  /** Makes a mounted file system as large as its device. */
  grow(place: MountPlace, signal: AbortSignal): Promise<void>;
  /** As /proc/self/mountinfo tells them. */
  mounts(): Promise<MountEntry[]>;
  /** `7:3`; null: there is no such block device. */
  deviceNumber(device: string): Promise<string | null>;
  /** The path without symbolic links, of which the end need not exist. */
  realTarget(target: string): Promise<string>;
  /** Makes the directory; FAILED_PRECONDITION when something else is there. */
  makeTarget(target: string): Promise<void>;
  /** Who has files open below a target, or a device itself: `postgres (4711)`; the first of them. */
  openers(path: string): Promise<string[]>;
  stats(target: string): Promise<MountStats>;
  /** The kernel has an NBD with which a device can be found again. Whether this process may use it, an attempt tells. */
  hasKernelNbd(): Promise<boolean>;
  /** What this host has of what devices by these means, and mounts, need. */
  checks(used: UsedMeans, signal: AbortSignal): Promise<HostCheck[]>;
}

/** Without these no device can be made: names of checks. */
export const neededForDevices: Readonly<Record<DeviceMeans, readonly string[]>> = {
  'fuse-loop': ['root', 'fuse', 'loop'],
  'nbd-kernel': ['root', 'nbd-kernel'],
};

/** Whether anything was ever written to a volume and not discarded since. */
export interface AllocationProbe {
  hasData(exportName: string, signal: AbortSignal): Promise<boolean>;
}
