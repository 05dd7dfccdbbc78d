import { segmentBytesOf, segmentSizeBytes } from '@stor/protocol';
import type { SegmentStatus } from '@stor/protocol';
import type { StoredVolume } from '../../resources/records.ts';

/** Bytes of each replica of segment `index`, which may be one that is being added. */
export function segmentSizeOf(
  { spec, status }: Pick<StoredVolume, 'spec' | 'status'>,
  index: number,
): number {
  const isNew = status.growth !== undefined && index >= status.segments.length;
  const sizeBytes = isNew ? (status.growth?.sizeBytes ?? 0) : spec.sizeBytes;
  return segmentSizeBytes(sizeBytes, segmentBytesOf(spec), index);
}

/** What each replica of segment `index` is promised: a growth that is under way counts already. */
export function promisedSizeOf(
  { spec, status }: Pick<StoredVolume, 'spec' | 'status'>,
  index: number,
): number {
  const sizeBytes = status.growth?.sizeBytes ?? spec.sizeBytes;
  return segmentSizeBytes(sizeBytes, segmentBytesOf(spec), index);
}

/** The segments of the volume, and those that are being added: all that have replicas on disks. */
export function placedSegments({ status }: Pick<StoredVolume, 'status'>): SegmentStatus[] {
  return status.growth ? [...status.segments, ...status.growth.segments] : status.segments;
}
