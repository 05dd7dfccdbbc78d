/** What was found on and around a block device before anything is written to it. */
export interface DeviceFindings {
  /** the path with links resolved: `/dev/sdb` */
  path: string;
  sizeBytes: number;
  readOnly: boolean;
  /** where it, or one of its partitions, is mounted */
  mounts: string[];
  /** device-mapper, RAID or LVM devices that are built on it or on one of its partitions */
  holders: string[];
  /** names of its partitions that the kernel knows */
  partitions: string[];
  /** somebody has it open for himself: opening it exclusively failed */
  isInUse: boolean;
  /** what tools recognise: `ext4 file system "data"`, `dos partition table` */
  signatures: string[];
  /** the first or the last MiB holds something else than zeros */
  hasData: boolean;
}

/**
 * The block devices of the host, and what formats and mounts them: the one place where Stor calls
 * programs that can destroy data. Every method throws StorError: FAILED_PRECONDITION names a
 * missing package or missing rights, INTERNAL what a program said.
 */
export interface BlockDevices {
  /** What lies at a path; `directory` also for one that does not exist yet. */
  kindOf(path: string): Promise<'directory' | 'block-device' | 'other'>;
  /** Type of the file system that a directory is, or would be made, on: `ext4`, `xfs`, `tmpfs`. */
  fileSystemOf(path: string): Promise<string>;
  inspect(path: string): Promise<DeviceFindings>;
  /** Makes an XFS of this UUID. `force`: over what is there, which is wiped before. */
  format(device: string, options: { fileSystemUuid: string; force: boolean }): Promise<void>;
  /** Mounts the XFS of this UUID on an empty directory, which is made. Done already when it is. */
  mount(fileSystemUuid: string, directory: string): Promise<void>;
  /** Done already when nothing is mounted there. `lazy`: also when the device is gone. */
  unmount(directory: string, options: { lazy: boolean }): Promise<void>;
  /** Directories below this one on which something is mounted. */
  mountsBelow(directory: string): Promise<string[]>;
}
