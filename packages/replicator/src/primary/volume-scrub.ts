import type { ScrubCounts, ScrubOrder, ScrubProgress } from '@stor/protocol';

import { noCounts, type SegmentScrubOrder, type SegmentScrubProgress } from './scrubber.ts';

/** A segment as a scrub of the volume drives it. */
export type ScrubSegment = (order: SegmentScrubOrder) => SegmentScrubProgress;

/** The scrub of one volume: its segments one after the other, and what they found together. */
export class VolumeScrub {
  readonly #segments: (index: number) => ScrubSegment | undefined;
  #runId = '';
  #segment = 0;
  /** where the segment begins, when it does not know the run */
  #chunk = 0;
  #counts: ScrubCounts = { ...noCounts };

  /** `segments` by index: there may be more of them later */
  constructor(segments: (index: number) => ScrubSegment | undefined) {
    this.#segments = segments;
  }

  order(order: ScrubOrder): ScrubProgress {
    const { runId, position, counts, paused, rateBytesPerSecond } = order;
    if (runId !== this.#runId) {
      this.#runId = runId;
      this.#segment = position.segment;
      this.#chunk = position.chunk;
      this.#counts = { ...counts };
    }
    for (;;) {
      const segment = this.#segments(this.#segment);
      if (!segment) return this.#finished();
      const chunk = this.#chunk;
      const seen = segment({ runId, chunk, paused, rateBytesPerSecond });
      if (seen.state !== 'finished') {
        return {
          ...seen,
          runId,
          position: { segment: this.#segment, chunk: seen.chunk },
          counts: sum(this.#counts, seen.counts),
        };
      }
      this.#counts = sum(this.#counts, seen.counts);
      this.#segment += 1;
      this.#chunk = 0;
    }
  }

  #finished(): ScrubProgress {
    return {
      runId: this.#runId,
      state: 'finished',
      message: '',
      position: { segment: this.#segment, chunk: 0 },
      counts: { ...this.#counts },
      bytesRemaining: 0,
      bytesPerSecond: 0,
    };
  }
}

function sum(a: ScrubCounts, b: ScrubCounts): ScrubCounts {
  return {
    bytes: a.bytes + b.bytes,
    found: a.found + b.found,
    repaired: a.repaired + b.repaired,
    kept: a.kept + b.kept,
    diverged: a.diverged + b.diverged,
  };
}
