import type { DiskId, EvacuationPlan } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord, StoredVolume } from '../../resources/records.ts';
import { addReplica, staying } from '../controllers/replica-rules.ts';
import { isGoing, nodesOf, sitesOf } from '../controllers/replica-sites.ts';
import { PlacementBoard } from '../placement/placement-board.ts';
import { needOf, placeAnother } from '../placement/place-replicas.ts';
import { replicasOn, trashText } from './disk-replicas.ts';
import type { PlacedReplica } from './disk-replicas.ts';

/**
 * Where the replicas of a disk would go now, one after the other, so that each finds the room that
 * those before it have left. What leaves anyhow, or is replaced already, needs no place.
 */
export function planEvacuation(state: ClusterState, diskId: DiskId): Omit<EvacuationPlan, 'disk'> {
  const plan: Omit<EvacuationPlan, 'disk'> = { moves: [], blocked: [], bytes: 0 };
  const world = withEvacuated(state, diskId);
  const board = new PlacementBoard(world);
  for (const placed of replicasOn(state, diskId)) {
    const { volume, replica } = placed;
    if (world.trash.has(volume.metadata.id)) {
      const { name } = volume.metadata;
      const what = { volume: name, replicaId: replica.id, segment: placed.segment.index };
      const reason = `it is of ${trashText(state, volume)}`;
      plan.blocked.push({ ...what, reason });
      continue;
    }
    const now = world.volumes.get(placed.volume.metadata.id)?.value ?? placed.volume;
    const segment = now.status.segments.find(({ index }) => index === placed.segment.index);
    if (!segment || !needsPlace(world, { ...placed, volume: now, segment })) continue;
    const { name } = now.metadata;
    const what = { volume: name, replicaId: placed.replica.id, segment: segment.index };
    const need = needOf(world, now, segment, 'repair');
    const sites = sitesOf(segment, world, (each) => isGoing(world, each));
    sites.avoid.set(diskId, 'has only the disk itself');
    const { place, refusals } = placeAnother(board, sites, need, 'move');
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
    const grown = addReplica(segment, place, made);
    putVolume(world, withSegment(now, grown));
  }
  return plan;
}

/** More replicas must be placed, because without this one too few stay on disks that are kept. */
function needsPlace(state: ClusterState, { volume, segment, replica }: PlacedReplica): boolean {
  if (replica.leaving === true) return false;
  const kept = staying(segment).filter((other) => {
    const disk: DiskRecord | undefined = state.disks.get(other.diskId)?.value;
    return other.state !== 'failed' && disk?.evacuate !== true && disk?.trouble === undefined;
  });
  return nodesOf(kept) < volume.spec.replicas;
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
