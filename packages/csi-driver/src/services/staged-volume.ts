import type { HostDevice, HostMount } from '@stor/host-attach';
import type { Bind, BindOrder } from '../host-binds.ts';
import type { NodeContext } from './node-context.ts';

/** A volume that the driver has made a device of, or has mounted, on this host. */
export interface StagedVolume {
  device: HostDevice;
  /** where it is staged as a file system; null: it is a block device */
  mount: HostMount | null;
  /** what targets are bound to */
  source: Pick<BindOrder, 'source' | 'kind'>;
}

/** Null: the driver has nothing of the volume here. */
export function stagedVolume(
  { host }: Pick<NodeContext, 'host'>,
  volumeId: string,
): StagedVolume | null {
  const device = host.list().find((each) => each.volumeId === volumeId);
  if (!device?.users.includes('csi')) return null;
  const mount = device.mounts.find(({ user }) => user === 'csi') ?? null;
  const source = mount
    ? ({ source: mount.target, kind: 'folder' } as const)
    : ({ source: device.path, kind: 'device' } as const);
  return { device, mount, source };
}

/** Where the volume is published on this host. */
export function bindsOf(
  { binds }: Pick<NodeContext, 'binds'>,
  { source }: StagedVolume,
): Promise<Bind[]> {
  return binds.of(source.source, source.kind);
}
