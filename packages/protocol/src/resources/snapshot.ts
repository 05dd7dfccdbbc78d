import type { VolumeId } from '../ids.ts';
import type { Metadata } from './metadata.ts';

/**
 * creating: being taken, or left behind by one that failed; ready: durable and equal on all in-sync
 * replicas; deleting: its replicas still drop it, its name is free.
 */
export type SnapshotPhase = 'creating' | 'ready' | 'deleting';

/** A frozen point of a volume, as `snapshot ls` shows it. */
export interface Snapshot {
  /** `name` is `db@monday` */
  metadata: Metadata;
  spec: {
    volumeId: VolumeId;
    /** of the volume when it was taken */
    sizeBytes: number;
    /** the same for snapshots that were taken at one instant; '' for one of its own */
    groupId: string;
  };
  status: {
    /** name of the volume */
    volume: string;
    /** orphan: replicas have it ready, and no record knows it; its name is its id */
    state: SnapshotPhase | 'orphan';
    /** why it is being deleted, or empty */
    message: string;
    /** for how long clients were paused when it was taken (ms) */
    pausedMs: number;
    /** what deleting it would free on each replica; null when no replica could be asked */
    ownBytes: number | null;
  };
}

/** What differs between two images of a volume, or a part of that. */
export interface SnapshotDiff {
  /** of the later image */
  sizeBytes: number;
  /** ascending; whole chunks: surely all bytes that differ, and some that do not */
  extents: { offset: number; length: number }[];
  /** where the next part begins; null when this was the last */
  nextOffset: number | null;
}
