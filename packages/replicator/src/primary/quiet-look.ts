import { LookPace } from '../core/replication/look-pace.ts';
import { quietLookMs } from '../replication/limits.ts';
import type { Segment } from './segment.ts';
import type { VolumeIo } from './volume-io.ts';

/** Whether an engine is to look after itself at this tick: see `LookPace`. */
export class QuietLook {
  readonly #pace = new LookPace(quietLookMs);
  readonly #segment: Segment;
  readonly #io: VolumeIo;

  constructor(segment: Segment, io: VolumeIo) {
    this.#segment = segment;
    this.#io = io;
  }

  /** `hasWork`: a scrub of it is under way. */
  isDue(nowMs: number, hasWork: boolean): boolean {
    return this.#pace.isDue(nowMs, !hasWork && this.#isQuiet(nowMs));
  }

  /** Every replica is in the set, nothing is under way, and no client has asked for anything lately. */
  #isQuiet(nowMs: number): boolean {
    const { membership, members } = this.#segment;
    return (
      membership?.stable === true &&
      membership.committed.length === members.length &&
      this.#io.inFlight === 0 &&
      !this.#io.settler.active &&
      this.#io.probe?.isQuiet(nowMs) !== false
    );
  }
}
