import type { DiskId, EvacuationPlan, NodeId, VolumeId } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord, StoredVolume } from '../../resources/records.ts';
import { addReplica, staying } from '../controllers/replica-rules.ts';
import { isGoing, nodesOf, sitesOf } from '../controllers/replica-sites.ts';
import { isEvacuated } from '../node/node-intent.ts';
import { isDraining } from '../placement/disk-room.ts';
import { PlacementBoard } from '../placement/placement-board.ts';
import { needOf, placeAnother } from '../placement/place-replicas.ts';
import { placedSegments } from '../volume/segment-size.ts';
import { replicasOn, trashText } from './disk-replicas.ts';
import type { PlacedReplica } from './disk-replicas.ts';

/** Where replicas go, and which can go nowhere. */
export interface ReplicaMoves {
  moves: (EvacuationPlan['moves'][number] & { volumeId: VolumeId })[];
  blocked: (EvacuationPlan['blocked'][number] & { volumeId: VolumeId })[];
  bytes: number;
}

/** Where the replicas of a disk would go now. */
export function planEvacuation(state: ClusterState, diskId: DiskId): Omit<EvacuationPlan, 'disk'> {
  const world = withEvacuated(state, diskId);
  const avoid = { diskId, reason: 'has only the disk itself' };
  return planMoves(world, replicasOn(state, diskId), { avoid });
}

interface MoveOptions {
  avoid?: { diskId: DiskId; reason: string };
  /** they are replaced, not moved: none of them stays until another is in sync @default false */
  areLost?: boolean;
}

/**
 * Where these replicas would go, one after the other, so that each finds the room that those before it
 * have left. What leaves anyhow, or is replaced already, needs no place. In `world`, whose table of
 * volumes is written to, their disks or their node are to be emptied already.
 */
export function planMoves(
  world: ClusterState,
  leaving: readonly PlacedReplica[],
  { avoid, areLost = false }: MoveOptions = {},
): ReplicaMoves {
  const plan: ReplicaMoves = { moves: [], blocked: [], bytes: 0 };
  const board = new PlacementBoard(world);
  for (const placed of leaving) {
    const { id: volumeId, name: volume } = placed.volume.metadata;
    const now = world.volumes.get(volumeId)?.value ?? placed.volume;
    const segment = placed.segment.index;
    const known = placedSegments(now).find(({ index }) => index === segment);
    const what = { volume, volumeId, replicaId: placed.replica.id, segment };
    const here = { ...placed, volume: now, segment: known ?? placed.segment };
    const stuck = whyStuck(world, here, areLost);
    if (stuck !== null) {
      plan.blocked.push({ ...what, reason: stuck });
      continue;
    }
    if (!known || !needsPlace(world, here)) continue;
    const need = needOf(world, now, known, 'repair');
    const sites = sitesOf(known, world, (each) => isGoing(world, each));
    if (avoid) sites.avoid.set(avoid.diskId, avoid.reason);
    const { place, refusals } = placeAnother(board, sites, need, areLost ? 'replacement' : 'move');
    if (!place) {
      plan.blocked.push({ ...what, reason: refusals.join('; ') });
      continue;
    }
    const toDisk = world.disks.get(place.diskId)?.value.path ?? place.diskId;
    const toNode = nodeName(world, place.nodeId);
    plan.moves.push({ ...what, toNode, toDisk, bytes: need.fillBytes });
    plan.bytes += need.fillBytes;
    board.note(place, need);
    const made = { id: `planned-${placed.replica.id}`, purpose: 'move' as const, placedAtMs: 0 };
    putVolume(world, withSegment(now, addReplica(known, place, made)));
  }
  return plan;
}

/** Why no controller moves it although a disk may have room; null when nothing is in the way. */
function whyStuck(
  state: ClusterState,
  { volume, segment, replica }: PlacedReplica,
  isLost: boolean,
): string | null {
  if (state.trash.has(volume.metadata.id)) return `it is of ${trashText(state, volume)}`;
  if (replica.leaving === true || volume.status.phase !== 'ready') return null;
  if (volume.spec.policy.rebuildPaused) {
    return `its rebuilds are paused: "storctl rebuild resume ${volume.metadata.name}" lets them go on`;
  }
  const good = segment.replicas.filter(
    (each) =>
      each.state === 'ready' && segment.inSync.includes(each.id) && isUp(state, each.nodeId),
  );
  if (good.length === 0) return 'no node that is up has an in-sync replica to fill another from';
  if (isLost) return null;
  const { replicas: wanted } = volume.spec;
  // the rule of what leaves (`shedSurplus`): with the new one, enough must be in sync without it
  const others = nodesOf(good.filter(({ nodeId }) => nodeId !== replica.nodeId));
  if (others >= wanted - 1) return null;
  return `only ${others} of the ${wanted - 1} other replicas ${wanted === 2 ? 'is' : 'are'} in sync: it stays until they are back or replaced`;
}

/** More replicas must be placed, because without this one too few stay on disks that are kept. */
function needsPlace(state: ClusterState, { volume, segment, replica }: PlacedReplica): boolean {
  if (replica.leaving === true) return false;
  const kept = staying(segment).filter((other) => {
    const disk: DiskRecord | undefined = state.disks.get(other.diskId)?.value;
    return other.state !== 'failed' && !isDraining(disk) && !isLeft(state, other.nodeId);
  });
  return nodesOf(kept) < volume.spec.replicas;
}

function isLeft(state: ClusterState, nodeId: NodeId): boolean {
  return isEvacuated(state.nodes.get(nodeId)?.value);
}

/** A copy of the state in which the disk is being evacuated; volumes may be replaced in it. */
function withEvacuated(state: ClusterState, diskId: DiskId): ClusterState {
  const disks = new Map(state.disks);
  const disk = disks.get(diskId);
  if (disk) disks.set(diskId, { ...disk, value: { ...disk.value, evacuate: true } });
  return { ...state, disks, volumes: new Map(state.volumes) };
}

function withSegment(volume: StoredVolume, segment: PlacedReplica['segment']): StoredVolume {
  const segments = volume.status.segments.map((each) =>
    each.index === segment.index ? segment : each,
  );
  return { ...volume, status: { ...volume.status, segments } };
}

function putVolume(state: ClusterState, volume: StoredVolume): void {
  const { id } = volume.metadata;
  const modRevision = state.volumes.get(id)?.modRevision ?? 0;
  state.volumes.set(id, { value: volume, modRevision });
}
