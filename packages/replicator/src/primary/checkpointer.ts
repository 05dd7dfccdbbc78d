import { checkpointMarks, checkpointMinMs, checkpointMs } from '../replication/limits.ts';
import type { Generation } from '../replica-store.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';
import { gather } from './settler.ts';

/**
 * Checkpoints: at one point of the stream every member cuts its marks and flushes; only when all
 * have, each records the generation and clears the marks not used since. One behind is always safe.
 * None completes while settling or while the set is changing (DESIGN "Checkpoint").
 */
export class Checkpointer {
  readonly #segment: Segment;
  readonly #mayRun: () => boolean;
  #lastMs: number;
  #n = 0;
  #running = false;

  constructor(segment: Segment, mayRun: () => boolean) {
    this.#segment = segment;
    this.#mayRun = mayRun;
    this.#lastMs = segment.options.clock.monotonicMs();
  }

  get running(): boolean {
    return this.#running;
  }

  tick(nowMs: number): void {
    if (this.#running) return;
    const marks = Math.max(0, ...this.#segment.sources().map((member) => member.markedCount));
    if (marks === 0) return;
    const waitMs = marks > checkpointMarks ? checkpointMinMs : checkpointMs;
    if (nowMs - this.#lastMs >= waitMs) this.run(() => {});
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
