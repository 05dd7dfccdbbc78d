import { defaultSegmentBytes, maxSegmentBytes, maxSegments, regionBytes } from './limits.ts';

/** The segment size of a volume that does not ask for one: larger for the largest volumes (bytes). */
export function usualSegmentBytes(sizeBytes: number): number {
  let segmentBytes = defaultSegmentBytes;
  while (segmentBytes < maxSegmentBytes && segmentCount(sizeBytes, segmentBytes) > maxSegments) {
    segmentBytes *= 2;
  }
  return segmentBytes;
}

/**
 * Bytes of every segment of a volume but the last, which may be smaller. Volumes from before there
 * were several have one, whatever their size.
 */
export function segmentBytesOf(volume: { sizeBytes: number; segmentBytes?: number }): number {
  if (volume.segmentBytes !== undefined) return volume.segmentBytes;
  const wholeBytes = Math.ceil(volume.sizeBytes / regionBytes) * regionBytes;
  return Math.max(defaultSegmentBytes, wholeBytes);
}

export function segmentCount(sizeBytes: number, segmentBytes: number): number {
  return Math.max(1, Math.ceil(sizeBytes / segmentBytes));
}

/** Bytes of segment `index` of a volume of `sizeBytes`; 0 when it lies behind the end. */
export function segmentSizeBytes(sizeBytes: number, segmentBytes: number, index: number): number {
  return Math.max(0, Math.min(segmentBytes, sizeBytes - index * segmentBytes));
}
