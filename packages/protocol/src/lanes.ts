import type { DiskId, NodeId, ReplicaId } from './ids.ts';

/** Lanes of one node at most: each has a core to itself at best, and ports of its own. */
export const maxLanes = 16;

/** Where the lanes of a node listen for other lanes' primaries, and which of its disks are whose. */
export interface PeerLanes {
  nodeId: NodeId;
  /** by lane; a node of a version that knows one lane only has one */
  addresses: { host: string; port: number }[];
  /** lanes of the disks that are not lane 0's */
  lanes: Record<DiskId, number>;
}

/** The lane of a disk that a record names; one that the node does not listen for is lane 0. */
export function laneAddress<T>(addresses: readonly T[], lane: number | undefined): T | undefined {
  return addresses[lane ?? 0] ?? addresses[0];
}

interface LaneSegment {
  inSync: readonly ReplicaId[];
  replicas: readonly { id: ReplicaId; nodeId: NodeId; diskId: DiskId; leaving?: boolean }[];
}

/**
 * The lane of a node that should be primary of a volume: the one whose disks hold the node's replicas
 * of most segments, of equal ones the first. Null when the node has none of it.
 */
export function homeLane(
  segments: readonly LaneSegment[],
  nodeId: NodeId,
  laneOf: (diskId: DiskId) => number,
): number | null {
  const counts = new Map<number, number>();
  for (const { inSync, replicas } of segments) {
    const own = replicas.filter((replica) => replica.nodeId === nodeId);
    // while a replica moves from disk to disk there are two: reads go to the one that is in sync,
    // and later to the one that stays
    const readable = own.filter(({ id }) => inSync.includes(id));
    const candidates = readable.length > 0 ? readable : own;
    const chosen = candidates.find(({ leaving }) => leaving !== true) ?? candidates[0];
    if (!chosen) continue;
    const lane = laneOf(chosen.diskId);
    counts.set(lane, (counts.get(lane) ?? 0) + 1);
  }
  let best: number | null = null;
  for (const [lane, count] of [...counts].sort(([a], [b]) => a - b)) {
    if (best === null || count > (counts.get(best) ?? 0)) best = lane;
  }
  return best;
}
