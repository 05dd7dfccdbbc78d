import { StorError } from '@stor/protocol';
import type { NodeId, ReplicaId, SnapshotId, VolumeId } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import type { ReplicaSpace } from '../agent-port.ts';
import type { AgentPeers } from '../agent/agent-peers.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import type { StoredVolume } from '../resources/records.ts';

/** What one volume takes on each disk that has a full copy of it (bytes). */
export interface VolumeSpace {
  allocatedBytes: number;
  snapshotBytes: number;
  reclaimableBytes: number;
  /** what deleting each snapshot would free */
  ownBytes: Map<SnapshotId, number>;
}

/** Asks the nodes that have replicas what these take. */
export class ReplicaSpaces {
  readonly #peers: AgentPeers;
  readonly #logger: Logger;

  constructor(options: { peers: AgentPeers; logger: Logger }) {
    this.#peers = options.peers;
    this.#logger = options.logger;
  }

  /** By volume; one that no node said anything of is left out. Nodes that do not answer soon too. */
  async of(
    volumes: readonly StoredVolume[],
    state: ClusterState,
  ): Promise<Map<VolumeId, VolumeSpace>> {
    const byReplica = await this.said(volumes, state);
    const found = new Map<VolumeId, VolumeSpace>();
    for (const volume of volumes) {
      const space = spaceOf(volume, byReplica);
      if (space) found.set(volume.metadata.id, space);
    }
    return found;
  }

  /** What each replica says of itself; those of nodes that do not answer soon are left out. */
  async said(
    volumes: readonly StoredVolume[],
    state: ClusterState,
  ): Promise<Map<ReplicaId, ReplicaSpace>> {
    const wanted = new Map<NodeId, Set<VolumeId>>();
    for (const { metadata, status } of volumes) {
      for (const { nodeId } of status.segments.flatMap((segment) => segment.replicas)) {
        if (!state.leases.has(nodeId)) continue;
        const ids = wanted.get(nodeId) ?? new Set();
        wanted.set(nodeId, ids.add(metadata.id));
      }
    }
    const said = await Promise.all(
      [...wanted].map(async ([nodeId, ids]) => {
        try {
          return await this.#peers.at(nodeId).replicaSpace([...ids]);
        } catch (error) {
          const { message } = StorError.from(error);
          this.#logger.debug(
            { nodeId, error: message },
            'a node did not say what its replicas take',
          );
          return [];
        }
      }),
    );
    return new Map(said.flat().map((each) => [each.replicaId, each]));
  }
}

/**
 * Of each segment the replica that is in sync and takes most: others may have given back less or
 * more so far, or be filled only now. Null when no replica was asked.
 */
export function spaceOf(
  volume: StoredVolume,
  byReplica: ReadonlyMap<ReplicaId, ReplicaSpace>,
): VolumeSpace | null {
  const sum: VolumeSpace = {
    allocatedBytes: 0,
    snapshotBytes: 0,
    reclaimableBytes: 0,
    ownBytes: new Map(),
  };
  let isKnown = false;
  for (const { replicas, inSync } of volume.status.segments) {
    const said = replicas.flatMap(({ id }) => byReplica.get(id) ?? []);
    const inSyncOnes = said.filter(({ replicaId }) => inSync.includes(replicaId));
    const largest = (inSyncOnes.length > 0 ? inSyncOnes : said).reduce<ReplicaSpace | null>(
      (best, each) => (best && takes(best) >= takes(each) ? best : each),
      null,
    );
    if (!largest) continue;
    isKnown = true;
    sum.allocatedBytes += largest.allocatedBytes;
    sum.snapshotBytes += largest.snapshotBytes;
    sum.reclaimableBytes += largest.reclaimableBytes;
    for (const { id, ownBytes } of largest.snapshots)
      sum.ownBytes.set(id, (sum.ownBytes.get(id) ?? 0) + ownBytes);
  }
  return isKnown ? sum : null;
}

function takes({ allocatedBytes, snapshotBytes }: ReplicaSpace): number {
  return allocatedBytes + snapshotBytes;
}
