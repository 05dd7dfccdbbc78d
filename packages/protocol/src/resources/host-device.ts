import type { NodeId, PublicationId, VolumeId } from '../ids.ts';

/** A volume that is a block device of a host. */
export interface Device {
  nodeId: NodeId;
  node: string;
  volumeId: VolumeId;
  volume: string;
  publication: PublicationId;
  /** how it is made: nbd-kernel, fuse-loop */
  means: string;
  /** of the block device on that host, `/dev/loop3` */
  path: string;
  sizeBytes: number;
  readOnly: boolean;
  /** who uses it: storctl, docker, csi; it ends with the last of them */
  users: string[];
  mounts: DeviceMount[];
  /** why its requests fail; '': it works */
  failure: string;
}

export interface DeviceMount {
  /** absolute, on that host */
  target: string;
  /** ext4, xfs */
  fileSystem: string;
  readOnly: boolean;
  /** of mount(8), without `ro` and `rw` */
  options: string[];
  user: string;
}

/** One thing that a host needs to make devices and mounts, as it is there. */
export interface HostFinding {
  /** stable, for programs: `fuse`, `mkfs.ext4` */
  name: string;
  state: 'ok' | 'warning' | 'failed';
  /** what was found, why it matters and what to do */
  text: string;
}
