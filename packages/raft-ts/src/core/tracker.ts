import { Inflights } from './inflights.ts';
import type { RaftLimits } from './limits.ts';
import { Progress } from './progress.ts';
import { committedIndex, voteResult, type VoteResult } from './quorum.ts';
import type { PeerId } from './types.ts';

/**
 * The voters, what is known of each, and the votes of the election under way. The algorithm asks it
 * for majorities and never counts by itself, so that membership change stays in here.
 */
export class Tracker {
  #voters: ReadonlySet<PeerId> = new Set();
  #progress = new Map<PeerId, Progress>();
  #votes = new Map<PeerId, boolean>();
  readonly #limits: RaftLimits;

  constructor(voters: readonly PeerId[], limits: RaftLimits) {
    this.#limits = limits;
    this.setVoters(voters, 0);
  }

  get voters(): ReadonlySet<PeerId> {
    return this.#voters;
  }

  setVoters(voters: readonly PeerId[], lastIndex: number): void {
    this.#voters = new Set([...voters].sort());
    this.resetProgress(lastIndex);
  }

  /** Forgets all that was known of followers: a new term begins. */
  resetProgress(lastIndex: number): void {
    this.#votes.clear();
    this.#progress.clear();
    for (const id of this.#voters) {
      const inflights = new Inflights(this.#limits.inflightMessages, this.#limits.inflightBytes);
      this.#progress.set(id, new Progress(0, lastIndex + 1, inflights));
    }
  }

  progress(id: PeerId): Progress | undefined {
    return this.#progress.get(id);
  }

  entries(): IterableIterator<[PeerId, Progress]> {
    return this.#progress.entries();
  }

  committed(): number {
    return committedIndex(this.#voters, (id) => this.#progress.get(id)?.match ?? 0);
  }

  /** A voter's first answer counts; a repeated one changes nothing. */
  recordVote(id: PeerId, granted: boolean): VoteResult {
    if (!this.#votes.has(id)) this.#votes.set(id, granted);
    return voteResult(this.#voters, this.#votes);
  }

  /** True when a majority, with `self`, has answered since this was last asked. */
  takeQuorumActive(self: PeerId): boolean {
    const active = new Map<PeerId, boolean>();
    for (const [id, progress] of this.#progress) {
      active.set(id, id === self || progress.recentActive);
      progress.recentActive = false;
    }
    return voteResult(this.#voters, active) === 'won';
  }

  isQuorum(ids: ReadonlySet<PeerId>): boolean {
    const yes = new Map([...ids].map((id) => [id, true] as const));
    return voteResult(this.#voters, yes) === 'won';
  }
}
