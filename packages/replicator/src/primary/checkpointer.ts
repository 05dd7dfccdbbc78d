import { checkpointMarks, type CheckpointPace } from '../replication/limits.ts';
import type { Generation } from '../replica-store.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';
import { gather } from './settler.ts';

/**
 * Checkpoints: at one point of the stream every member flushes; only when all have, each records the
 * generation and clears the marks not used since the checkpoint before. Counting from the one before
 * leaves the marks of regions in use alone, so that no write waits for a mark to be set again. One
 * behind is always safe. None completes while settling or while the set is changing.
 */
export class Checkpointer {
  readonly #segment: Segment;
  readonly #pace: CheckpointPace;
  readonly #mayRun: () => boolean;
  readonly #startMs: number;
  #lastMs: number;
  #lookedMs: number;
  #n = 0;
  #running = false;

  constructor(segment: Segment, pace: CheckpointPace, mayRun: () => boolean) {
    this.#pace = pace;
    this.#segment = segment;
    this.#mayRun = mayRun;
    this.#startMs = segment.options.clock.monotonicMs();
    this.#lastMs = this.#startMs;
    this.#lookedMs = this.#startMs;
  }

  get running(): boolean {
    return this.#running;
  }

  tick(nowMs: number): void {
    const { regionUse } = this.#segment;
    regionUse.tick((nowMs - this.#startMs) / 1000 + 1);
    if (this.#running || nowMs - this.#lookedMs < this.#pace.minMs) return;
    this.#lookedMs = nowMs;
    const marks = Math.max(0, ...this.#segment.sources().map((member) => member.markedCount));
    if (marks === 0) return;
    const isFull = marks > checkpointMarks;
    const isDue = nowMs - this.#lastMs >= this.#pace.everyMs;
    if (isFull || (isDue && marks > regionUse.countSince(this.#pace.restSeconds)))
      this.run(() => {});
  }

  /** Two in a row clear every mark, when nothing is written meanwhile. */
  runTwice(done: () => void): void {
    this.run((complete) => {
      if (complete) this.run(done);
      else done();
    });
  }

  /** Calls back with whether the checkpoint completed. */
  run(done: (complete: boolean) => void): void {
    const members = this.#memberList();
    if (this.#running || !members) {
      done(false);
      return;
    }
    this.#running = true;
    this.#lastMs = this.#segment.options.clock.monotonicMs();
    const revision = this.#segment.membership?.setRevision;
    const finish = (complete: boolean): void => {
      this.#running = false;
      done(complete);
    };
    gather<Member>(members, (member, _index, next) => {
      member.checkpoint((error) => {
        if (error) member.drop(error);
        next(error);
      });
    })((error) => {
      const unchanged = this.#segment.membership?.setRevision === revision;
      if (error || !unchanged || !this.#memberList()) finish(false);
      else this.#retire(members, finish);
    });
  }

  #retire(members: Member[], finish: (complete: boolean) => void): void {
    this.#n += 1;
    const generation: Generation = { epoch: this.#segment.options.epoch, n: this.#n };
    gather<Member>(members, (member, _index, next) => {
      member.retire(generation, (error) => {
        if (error) member.drop(error);
        else member.generation = generation;
        next(error);
      });
    })((error) => {
      const { logger } = this.#segment.options;
      if (!error) logger.debug({ generation }, 'checkpoint: marks at rest are cleared');
      finish(error === null);
    });
  }

  /** All members of the set, or null when one is missing or the set is changing. */
  #memberList(): Member[] | null {
    const { membership, stopped } = this.#segment;
    if (stopped || !membership?.stable || !this.#mayRun()) return null;
    const members = this.#segment.sources();
    return members.length === membership.committed.length ? members : null;
  }
}
