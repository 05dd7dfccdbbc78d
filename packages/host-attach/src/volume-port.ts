import type { StorApi } from '@stor/protocol';

/** What devices and mounts ask of the control plane: the public API, and no more of it. */
export type VolumePort = Pick<
  StorApi,
  'publishVolume' | 'unpublishVolume' | 'getVolume' | 'listVolumes' | 'listNodes'
>;
