import { segmentBytesOf, segmentCount } from '@stor/protocol';
import type { ReplicaId, SegmentStatus } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { segmentSizeOf } from '../volume/segment-size.ts';
import type { Place } from './place-replicas.ts';

/**
 * The record with all segments that its size asks for: those that it lacks are placed one after
 * another, each by what the ones before it have taken, so they spread over the disks by what is free
 * and a volume may be larger than any of them. `place` chooses the disks of one segment; it throws
 * when there is no place.
 */
export function withAllSegments(
  record: StoredVolume,
  state: ClusterState,
  place: (state: ClusterState, sizeBytes: number) => Place[],
  newReplicaId: () => ReplicaId,
): StoredVolume {
  const { id } = record.metadata;
  const wanted = segmentCount(record.spec.sizeBytes, segmentBytesOf(record.spec));
  let grown = record;
  for (let index = record.status.segments.length; index < wanted; index++) {
    // what was placed so far counts as promised
    const volumes = new Map(state.volumes).set(id, { value: grown, modRevision: 0 });
    const sizeBytes = segmentSizeOf(record, index);
    const places = place({ ...state, volumes }, sizeBytes);
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
