import { segmentBytesOf, segmentCount } from '@stor/protocol';
import type { NodeId, ReplicaId, SegmentStatus } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { PlacementBoard } from './placement-board.ts';
import { placeReplicas, volumeNeed } from './place-replicas.ts';

/**
 * The record with all segments that its size asks for: those that it lacks are placed one after
 * another, each by what the ones before it have taken, so they spread over the disks by what is free
 * and a volume may be larger than any of them. `local` gets a replica of each if it fits. Throws
 * when there is no place, see `placeReplicas`.
 */
export function withAllSegments(
  record: StoredVolume,
  state: ClusterState,
  newReplicaId: () => ReplicaId,
  local?: NodeId,
): StoredVolume {
  const count = segmentCount(record.spec.sizeBytes, segmentBytesOf(record.spec));
  let grown = record;
  const board = new PlacementBoard(state, record);
  for (let index = record.status.segments.length; index < count; index++) {
    const wanted = volumeNeed(record, index);
    const { subject } = wanted;
    const need =
      subject && local !== undefined ? { ...wanted, subject: { ...subject, local } } : wanted;
    const places = placeReplicas(board, record.spec.replicas, need);
    // what was placed so far counts as promised
    for (const place of places) board.note(place, need);
    const segment: SegmentStatus = {
      index,
      setRevision: 0,
      replicas: places.map(({ nodeId, diskId }) => {
        return { id: newReplicaId(), nodeId, diskId, state: 'creating' };
      }),
      inSync: [],
    };
    const segments = [...grown.status.segments, segment];
    grown = { ...grown, status: { ...grown.status, segments } };
  }
  return grown;
}
