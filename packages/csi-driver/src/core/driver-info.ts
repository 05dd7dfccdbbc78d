/** What orchestrators know the driver by. `.internal` is a domain that nobody can own. */
export const defaultDriverName = 'csi.stor.internal';
const driverNamePattern = /^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?$/;

export function isDriverName(name: string): boolean {
  return driverNamePattern.test(name);
}

/** Publications of one host at a time, unless the configuration says otherwise: each is a process there. */
export const defaultMaxVolumesPerNode = 128;

/** Size of a volume for which nobody names one (bytes). */
export const defaultVolumeBytes = 2 ** 30;

/** What the plug-in as a whole offers; the same on every endpoint of every node. */
export const pluginCapabilities = [
  { service: { type: 'CONTROLLER_SERVICE' } },
  { service: { type: 'VOLUME_ACCESSIBILITY_CONSTRAINTS' } },
  { service: { type: 'GROUP_CONTROLLER_SERVICE' } },
  { service: { type: 'SNAPSHOT_METADATA_SERVICE' } },
  { volumeExpansion: { type: 'ONLINE' } },
] as const;

export const controllerCapabilities = [
  'CREATE_DELETE_VOLUME',
  'PUBLISH_UNPUBLISH_VOLUME',
  'LIST_VOLUMES',
  'GET_CAPACITY',
  'CREATE_DELETE_SNAPSHOT',
  'LIST_SNAPSHOTS',
  'CLONE_VOLUME',
  'PUBLISH_READONLY',
  'EXPAND_VOLUME',
  'LIST_VOLUMES_PUBLISHED_NODES',
  'VOLUME_CONDITION',
  'GET_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
  'MODIFY_VOLUME',
  'GET_SNAPSHOT',
] as const;

export const groupCapabilities = ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'] as const;

export const nodeCapabilities = [
  'STAGE_UNSTAGE_VOLUME',
  'GET_VOLUME_STATS',
  'EXPAND_VOLUME',
  'VOLUME_CONDITION',
  'SINGLE_NODE_MULTI_WRITER',
  'VOLUME_MOUNT_GROUP',
] as const;

/** Capabilities as the wire has them. */
export function asRpcs(types: readonly string[]): { rpc: { type: string } }[] {
  return types.map((type) => ({ rpc: { type } }));
}
