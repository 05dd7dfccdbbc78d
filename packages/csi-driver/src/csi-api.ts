import type { StorApi } from '@stor/protocol';

/** What the driver asks of the control plane: the public API, and no more of it. */
export type CsiApi = Pick<
  StorApi,
  | 'getClusterStatus'
  | 'listNodes'
  | 'getNode'
  | 'listDisks'
  | 'listPools'
  | 'listVolumes'
  | 'getVolume'
  | 'createVolume'
  | 'cloneVolume'
  | 'updateVolume'
  | 'resizeVolume'
  | 'deleteVolume'
  | 'publishVolume'
  | 'unpublishVolume'
  | 'listSnapshots'
  | 'getSnapshot'
  | 'createSnapshot'
  | 'deleteSnapshot'
  | 'diffSnapshots'
>;
