import { formatByteSize, type Volume } from '@stor/protocol';
import { fileSystemOptionsOf } from './file-system-labels.ts';

/** A volume as `docker volume ls` and `docker volume inspect` show it. */
export interface DockerVolume {
  Name: string;
  /** '' while it is not mounted on this host */
  Mountpoint: string;
  /** RFC 3339; absent: not known */
  CreatedAt?: string;
  Status: Record<string, unknown>;
}

/** Whether Docker may use it: one that is just made may yet be undone, one that is deleted is gone. */
export function isThere({ status }: Volume): boolean {
  return status.health !== 'creating' && status.health !== 'deleting';
}

export function dockerVolume(volume: Volume, mountpoint: string, createdAt: string): DockerVolume {
  const { metadata, spec, status } = volume;
  return {
    Name: metadata.name,
    Mountpoint: mountpoint,
    CreatedAt: createdAt,
    Status: {
      id: metadata.id,
      size: formatByteSize(spec.sizeBytes),
      sizeBytes: spec.sizeBytes,
      replicas: spec.replicas,
      health: status.health,
      ...(status.message === '' ? {} : { message: status.message }),
      nodes: holders(volume),
      fs: fileSystemOptionsOf(metadata.labels).fileSystem ?? '',
      failureMode: spec.policy.failureMode,
      ...(spec.policyName === undefined ? {} : { policy: spec.policyName }),
    },
  };
}

/** Names of the nodes that use it: as a device, or else by NBD. */
export function holders({ status }: Volume): string[] {
  const nodes = status.publications.map(({ node }) => node);
  if (nodes.length > 0) return nodes;
  return status.primary && status.primary.mode !== 'repair' ? [status.primary.node] : [];
}
