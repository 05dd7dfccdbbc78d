import type { DiskId, NodeId, SegmentStatus, VolumeReplica } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { isEvacuated } from '../node/node-intent.ts';
import { isDraining } from '../placement/disk-room.ts';

/** Where one more replica of a segment may go. */
export interface Sites {
  /** nodes that are out of the question, and why */
  taken: Map<NodeId, string>;
  /**
   * nodes where it would take the place of one on another disk that failed or is to be emptied: a node
   * is one failure domain, so two replicas on it count as one and are there for the change only
   */
  beside: Set<NodeId>;
  /** disks that take none, and what to say of a node that has no other */
  avoid: Map<DiskId, string>;
  /** nodes of the replicas that are to stay: required domains are kept from them */
  fixed: NodeId[];
}

/** Its disk does not work, or is to be emptied, or its node is: another one may take its place. */
export function isGoing(
  state: ClusterState,
  { diskId, nodeId }: Pick<VolumeReplica, 'diskId' | 'nodeId'>,
): boolean {
  const disk = state.disks.get(diskId)?.value;
  if (isEvacuated(state.nodes.get(nodeId)?.value)) return true;
  return isDraining(disk) || (disk !== undefined && disk.state !== 'online');
}

/**
 * Sites for one more replica. A node has at most one that is to stay; it may take another beside those
 * that failed, and beside others when `mayReplace` says so of each that it has. @default of none
 */
export function sitesOf(
  segment: SegmentStatus,
  state: ClusterState,
  mayReplace: (replica: VolumeReplica) => boolean = () => false,
): Sites {
  const stays = (r: VolumeReplica): boolean =>
    r.leaving !== true && r.state !== 'failed' && !mayReplace(r);
  const sites: Sites = {
    taken: new Map(),
    beside: new Set(),
    avoid: usedDisks(segment, state),
    fixed: segment.replicas.filter(stays).map(({ nodeId }) => nodeId),
  };
  for (const { nodeId } of segment.replicas) {
    const there = segment.replicas.filter((r) => r.nodeId === nodeId && r.state !== 'failed');
    const staying = there.filter((replica) => replica.leaving !== true);
    const isReplaced = staying.length > 0 ? staying.every(mayReplace) : there.length === 0;
    if (isReplaced) sites.beside.add(nodeId);
    else sites.taken.set(nodeId, 'has one already');
  }
  return sites;
}

/** Disks that hold something of the segment, also what they are still to delete, and why not. */
function usedDisks(segment: SegmentStatus, state: ClusterState): Map<DiskId, string> {
  const used = new Map<DiskId, string>();
  for (const { diskId } of segment.removed ?? []) {
    // on a disk that is gone it stays for good
    if (state.disks.get(diskId)?.value.state !== 'online') continue;
    used.set(diskId, 'is still deleting an older one');
  }
  for (const { diskId, state: at } of segment.replicas) {
    if (at === 'failed') used.set(diskId, 'has only the disk on which one failed');
    else used.set(diskId, `has only disk ${diskPath(state, diskId)}, where one lies`);
  }
  return used;
}

function diskPath(state: ClusterState, diskId: DiskId): string {
  return state.disks.get(diskId)?.value.path ?? diskId;
}

/** On how many nodes these lie: what a node takes with it when it dies counts once. */
export function nodesOf(replicas: readonly Pick<VolumeReplica, 'nodeId'>[]): number {
  return new Set(replicas.map(({ nodeId }) => nodeId)).size;
}
