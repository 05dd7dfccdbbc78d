/** One more place at which a mounted folder, or the node of a block device, can be reached. */
export interface Bind {
  /** absolute, without symbolic links */
  target: string;
  readOnly: boolean;
}

export interface BindOrder {
  /** a folder that is a mount of ours, or the path of a block device */
  source: string;
  kind: 'folder' | 'device';
  /** made when it is not there: an empty folder, or an empty file */
  target: string;
  /** of a folder: nobody may write through it (the node of a device may be written either way) */
  readOnly: boolean;
}

/**
 * Bind mounts of this host. What is there is read from the kernel's table each time, so it is known after a
 * restart too.
 */
export interface HostBinds {
  /** The path without symbolic links, as far as it is there; the kernel's table names paths like that. */
  real(path: string): Promise<string>;
  /** All of a source but the source itself. */
  of(source: string, kind: BindOrder['kind']): Promise<Bind[]>;
  /**
   * The same one again is fine. ALREADY_EXISTS: something else is mounted there, or the other way;
   * FAILED_PRECONDITION: what is there is no empty folder, or no empty file.
   */
  bind(order: BindOrder, signal: AbortSignal): Promise<void>;
  /**
   * Ends what is mounted at a target and deletes the target; what is gone already is fine. IN_USE;
   * FAILED_PRECONDITION: what lies there is not ours, or the folder is not empty.
   */
  unbind(target: string, signal: AbortSignal): Promise<void>;
  /** Is anything mounted exactly there? */
  isMounted(target: string): Promise<boolean>;
  /**
   * Lets a group read and write everything below a folder, and what is made there later (setgid). Goes nowhere
   * but on that file system, and follows no link. Looks at the folder only when that is so already.
   */
  setGroup(folder: string, gid: number, signal: AbortSignal): Promise<void>;
}
