import type { NodeId } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import type { ClusterStore } from '../cluster-store.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { CloneService } from './clone-service.ts';
import { PrimaryAccess } from './primary-access.ts';
import type { ReplicaSpaces } from './replica-spaces.ts';
import { SnapshotOrders } from './snapshot-orders.ts';
import { SnapshotOrphans } from './snapshot-orphans.ts';
import { SnapshotService } from './snapshot-service.ts';
import { SnapshotTaker } from './snapshot-taker.ts';
import { VolumeRollbacks } from './volume-rollbacks.ts';
import type { VolumeService } from './volume-service.ts';

export interface SnapshotServiceParts {
  store: ClusterStore;
  cache: StateCache;
  peers: AgentPeers;
  spaces: ReplicaSpaces;
  volumes: VolumeService;
  nodeId: NodeId;
  clock: Clock;
  random: Random;
  logger: Logger;
}

/** Composes what answers the calls about snapshots. */
export function snapshotServices(parts: SnapshotServiceParts): {
  snapshots: SnapshotService;
  snapshotOrders: SnapshotOrders;
  orphans: SnapshotOrphans;
  clones: CloneService;
  access: PrimaryAccess;
} {
  const access = new PrimaryAccess(parts);
  const taker = new SnapshotTaker({ ...parts, access });
  const snapshots = new SnapshotService(parts);
  const orphans = new SnapshotOrphans(parts);
  const rollbacks = new VolumeRollbacks({ ...parts, access });
  const snapshotOrders = new SnapshotOrders({ ...parts, access, taker, rollbacks, snapshots });
  const clones = new CloneService({ ...parts, access, taker, snapshots });
  return { snapshots, snapshotOrders, orphans, clones, access };
}
