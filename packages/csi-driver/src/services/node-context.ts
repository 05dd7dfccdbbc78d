import type { HostVolumes } from '@stor/host-attach';
import type { NodeId } from '@stor/protocol';
import type { PendingOperations } from '../core/pending-operations.ts';
import type { TopologyKeys } from '../core/topology.ts';
import type { CsiApi } from '../csi-api.ts';
import type { HostBinds } from '../host-binds.ts';

/** What the services of one host share. */
export interface NodeContext {
  api: Pick<CsiApi, 'getVolume' | 'getNode'>;
  host: HostVolumes;
  binds: HostBinds;
  nodeId: NodeId;
  clusterId: string;
  keys: TopologyKeys;
  pending: PendingOperations;
  /** that the orchestrator may publish here; 0: it decides itself */
  maxVolumesPerNode: number;
}
