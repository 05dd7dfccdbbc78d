import type { DiskId, NodeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord } from '../../resources/records.ts';
import { cordonOf } from '../node/node-intent.ts';
import { isDraining } from '../placement/disk-room.ts';
import type { BegunMove } from './rebalance-record.ts';

/** Disks are looked at every 10 s; one that says nothing for so long has nothing more to say (ms). */
const reportPatienceMs = 60_000;
/** Of a copy, what may be missing in the last report. */
const untoldShare = 1 / 16;

/** A disk as a rebalance counts with it. */
export interface DiskLoad {
  diskId: DiskId;
  nodeId: NodeId;
  tag: string;
  capacityBytes: number;
  /** of volumes: as it reported, and as it must be after the moves that it has not reported yet */
  usedBytes: number;
}

/**
 * Disks that give and take: online, of a node that is up, and nobody wants anything else of them or
 * their node. What a disk reported is some seconds old; a move that is not in it is counted in, or the
 * same disk would be chosen again and again until it is too full.
 */
export function diskLoads(state: ClusterState, moves: readonly BegunMove[]): Map<DiskId, DiskLoad> {
  const loads = new Map<DiskId, DiskLoad>();
  for (const [diskId, { value }] of state.disks) {
    if (!takesPart(state, value)) continue;
    const { nodeId, tag, capacityBytes, usedBytes } = value;
    loads.set(diskId, { diskId, nodeId, tag, capacityBytes, usedBytes });
  }
  for (const move of moves) {
    const from = loads.get(move.fromDiskId);
    if (from) from.usedBytes -= listedBytes(state, move.fromDiskId, move.fromReplicaId);
    const to = loads.get(move.toDiskId);
    if (to && !hasReported(state, move.toDiskId, move)) {
      to.usedBytes += Math.max(0, move.bytes - listedBytes(state, move.toDiskId, move.toReplicaId));
    }
  }
  for (const load of loads.values()) load.usedBytes = Math.max(0, load.usedBytes);
  return loads;
}

function takesPart(state: ClusterState, disk: DiskRecord): boolean {
  if (disk.state !== 'online' || isDraining(disk) || disk.capacityBytes <= 0) return false;
  const node = state.nodes.get(disk.nodeId)?.value;
  return node !== undefined && isUp(state, disk.nodeId) && cordonOf(node) === null;
}

function listedBytes(state: ClusterState, diskId: DiskId, replicaId: string): number {
  return state.disks.get(diskId)?.value.replicaBytes?.[replicaId] ?? 0;
}

/** The disk has reported after the move was over: what it says has the replica in it. */
function hasReported(state: ClusterState, diskId: DiskId, { doneRevision }: BegunMove): boolean {
  const { modRevision = 0 } = state.disks.get(diskId) ?? {};
  return doneRevision !== undefined && modRevision > doneRevision;
}

/**
 * Both disks say what they hold now, or have had time enough for it: the move needs no correction any
 * more. A disk writes only notable changes, so the last little part of a copy may never be told.
 */
export function isReported(state: ClusterState, move: BegunMove, nowWallMs: number): boolean {
  const { fromDiskId, fromReplicaId, toDiskId, toReplicaId, doneAtMs = nowWallMs } = move;
  if (Math.abs(nowWallMs - doneAtMs) > reportPatienceMs) return true;
  if (listedBytes(state, fromDiskId, fromReplicaId) > 0) return false;
  if (!state.disks.has(toDiskId) || hasReported(state, toDiskId, move)) return true;
  return listedBytes(state, toDiskId, toReplicaId) >= move.bytes * (1 - untoldShare);
}

export function fullness({ usedBytes, capacityBytes }: DiskLoad): number {
  return usedBytes / capacityBytes;
}

/** Loads by tag; a replica never changes the tag of its disk, so each tag is evened out on its own. */
export function byTag(loads: Iterable<DiskLoad>): Map<string, DiskLoad[]> {
  const pools = new Map<string, DiskLoad[]>();
  for (const load of loads) {
    const pool = pools.get(load.tag);
    if (pool) pool.push(load);
    else pools.set(load.tag, [load]);
  }
  return pools;
}

/** Lowest and highest share that is used (0 to 1, or above); of no disk at all 0. */
export function spreadOf(pool: readonly DiskLoad[]): { lowest: number; highest: number } {
  if (pool.length === 0) return { lowest: 0, highest: 0 };
  let lowest = Infinity;
  let highest = -Infinity;
  for (const load of pool) {
    const share = fullness(load);
    lowest = Math.min(lowest, share);
    highest = Math.max(highest, share);
  }
  return { lowest, highest };
}
