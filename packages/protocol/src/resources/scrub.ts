import type { VolumeId } from '../ids.ts';

/** What a scrub has seen so far: it reads every allocated chunk of every in-sync replica. */
export interface ScrubCounts {
  /** of the volume; each of them was read at every in-sync replica */
  bytes: number;
  /** blocks of a replica that did not match their checksum, or could not be read */
  found: number;
  /** of those, and of outvoted ones, what was written again and verified */
  repaired: number;
  /** blocks of a replica that did not verify and that no other in-sync replica has */
  kept: number;
  /** blocks that verify at every replica and differ, without a majority: left as they are */
  diverged: number;
}

/** Where a scrub goes on: chunks of a segment come in order, and so do segments. */
export interface ScrubPosition {
  segment: number;
  chunk: number;
}

/** What the primary is to do: given again and again, it is also how it is asked how far it is. */
export interface ScrubOrder {
  volumeId: VolumeId;
  epoch: number;
  runId: string;
  /** where it begins, and what was counted before, when the primary does not know the run */
  position: ScrubPosition;
  counts: ScrubCounts;
  paused: boolean;
  /** of the volume per second, for all scrubs of this primary's lane together (bytes) */
  rateBytesPerSecond: number;
}

export interface ScrubProgress {
  runId: string;
  /** waiting: for a resync, a settle or a replica */
  state: 'running' | 'paused' | 'waiting' | 'finished';
  /** why it waits; '' else */
  message: string;
  position: ScrubPosition;
  counts: ScrubCounts;
  /** allocated and not read yet */
  bytesRemaining: number;
  bytesPerSecond: number;
}

/** A scrub that has ended. */
export interface ScrubResult {
  runId: string;
  reason: 'schedule' | 'order';
  startedAtMs: number;
  endedAtMs: number;
  /** false: it was called off before its end */
  complete: boolean;
  counts: ScrubCounts;
}

/** What is known of the scrubs of one volume: `storctl scrub status`. */
export interface Scrub {
  volume: string;
  volumeId: VolumeId;
  /** waiting: due or ordered, and something is in its way */
  state: 'idle' | 'running' | 'paused' | 'waiting';
  /** why it waits; '' else */
  message: string;
  /** of the run under way; zeros when there is none */
  counts: ScrubCounts;
  bytesRemaining: number;
  bytesPerSecond: number;
  /** null when it cannot be said, or none is under way */
  etaMs: number | null;
  startedAtMs: number | null;
  /** when the next one begins by itself; null: never, or one is under way */
  nextDueMs: number | null;
  /** the last ones, oldest first */
  history: ScrubResult[];
}

/** How scrubs of a cluster are done. */
export interface ScrubSettings {
  /** each volume is scrubbed once in such a time (ms); 0: only when it is ordered */
  everyMs: number;
  /** of volumes, by the primaries of one node together */
  rateBytesPerSecond: number;
}
