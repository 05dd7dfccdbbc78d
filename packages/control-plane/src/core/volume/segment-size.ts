import { segmentBytesOf, segmentSizeBytes } from '@stor/protocol';
import type { StoredVolume } from '../../resources/records.ts';

/** Bytes of each replica of segment `index`. */
export function segmentSizeOf({ spec }: Pick<StoredVolume, 'spec'>, index: number): number {
  return segmentSizeBytes(spec.sizeBytes, segmentBytesOf(spec), index);
}
