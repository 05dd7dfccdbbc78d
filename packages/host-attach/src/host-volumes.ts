import type { VolumeId, PublicationId } from '@stor/protocol';

/**
 * Who uses a device. It ends with its last user, so that `storctl volume detach` does not take a
 * container's volume away.
 */
export type DeviceUser = 'storctl' | 'docker' | 'csi';

/** How a volume becomes a block device of this host (ADR 20). */
export type DeviceMeans = 'nbd-kernel' | 'fuse-loop';
/** `auto`: by the kernel's NBD where that can be used. */
export type WantedMeans = DeviceMeans | 'auto';

export interface UsedMeans {
  /** as configured */
  wanted: WantedMeans;
  means: DeviceMeans;
  /** why the kernel's NBD did not do when it was tried; null: it was not tried, or it did */
  refusal: string | null;
}

export const fileSystems = ['ext4', 'xfs'] as const;
export type FileSystem = (typeof fileSystems)[number];

/** A volume that is a block device of this host. */
export interface HostDevice {
  volumeId: VolumeId;
  volume: string;
  publication: PublicationId;
  means: DeviceMeans;
  /** of the block device, `/dev/loop3` or `/dev/nbd0` */
  path: string;
  sizeBytes: number;
  readOnly: boolean;
  users: readonly DeviceUser[];
  mounts: readonly HostMount[];
  /** null: it works; else why its requests fail now, for people */
  failure: string | null;
}

/** One mount of a device; the same one is never made twice. */
export interface HostMount {
  /** absolute, without symbolic links */
  target: string;
  fileSystem: FileSystem;
  readOnly: boolean;
  /** of mount(8), without `ro` and `rw` */
  options: readonly string[];
  user: DeviceUser;
}

export interface AttachOrder {
  /** name or id */
  volume: string;
  user: DeviceUser;
  readOnly?: boolean;
}

export interface DetachOrder {
  volume: string;
  user: DeviceUser;
  /** its requests fail at once; what was not written to the volume is lost */
  force?: boolean;
  /** somebody else ends the publication, as CSI's controller does */
  keepPublication?: boolean;
}

export interface MountOrder {
  volume: string;
  user: DeviceUser;
  /** absolute; made when it is not there */
  target: string;
  /** of a device without one; another one that is there is refused. Default: ext4 */
  fileSystem?: FileSystem;
  /** arguments for mkfs, when one is made */
  formatOptions?: readonly string[];
  /** of mount(8) */
  options?: readonly string[];
  readOnly?: boolean;
}

export interface MountStats {
  totalBytes: number;
  usedBytes: number;
  availableBytes: number;
  totalInodes: number;
  usedInodes: number;
  availableInodes: number;
}

/** One line of `storctl doctor`. */
export interface HostCheck {
  /** stable, for programs: `nbd-kernel`, `fuse`, `loop`, `mkfs.ext4` … */
  name: string;
  state: 'ok' | 'warning' | 'failed';
  /** what was found, why it matters and what to do */
  text: string;
}

/**
 * Volumes as devices and mounts of this host. All orders are idempotent: what is there already is
 * answered, what is gone already is fine. Orders for one volume go one after another. What is there
 * outlives the agent, and the next one finds it again; nothing of before a reboot is believed.
 */
export interface HostVolumes {
  /**
   * Publishes the volume to this host and makes a device of it.
   * NOT_FOUND, ATTACHED_ELSEWHERE (details `holder`: name of the node), ALREADY_EXISTS (it is there
   * the other way: `readOnly`), FAILED_PRECONDITION (this host can make no device: what is missing).
   */
  attach(order: AttachOrder, signal: AbortSignal): Promise<HostDevice>;
  /** FAILED_PRECONDITION while it is mounted or open (who), unless `force`. */
  detach(order: DetachOrder, signal: AbortSignal): Promise<void>;
  /**
   * Attaches, and mounts. A file system is made only on a device that carries no signature and
   * nothing else: FOREIGN_DATA says what is there. ALREADY_EXISTS: mounted at the target otherwise.
   */
  mount(order: MountOrder, signal: AbortSignal): Promise<HostMount>;
  /**
   * Ends the mount at a target of ours, and detaches after the last of this user. IN_USE says who has
   * files open there.
   */
  unmount(
    order: { target: string; user: DeviceUser; keepAttached?: boolean },
    signal: AbortSignal,
  ): Promise<void>;
  /** Makes device and file systems as large as the volume is; online. */
  grow(volume: string, signal: AbortSignal): Promise<HostDevice>;
  /** Of the file system at a target of ours. NOT_FOUND. */
  stats(target: string): Promise<MountStats>;
  list(): readonly HostDevice[];
  checks(signal: AbortSignal): Promise<HostCheck[]>;
  /** Waits for orders that are under way; devices and mounts stay. Works twice. */
  close(): Promise<void>;
}
