import { Inflights } from './inflights.ts';
import type { RaftLimits } from './limits.ts';
import { everyMember, type Membership } from './membership.ts';
import { Progress } from './progress.ts';
import { jointCommittedIndex, jointVoteResult, type VoteResult } from './quorum.ts';
import type { PeerId } from './types.ts';

/**
 * The members, what is known of each, and the votes of the election under way. The algorithm asks
 * it for majorities and never counts by itself, so that joint majorities are known only in here.
 */
export class Tracker {
  #membership: Membership;
  #progress = new Map<PeerId, Progress>();
  #votes = new Map<PeerId, boolean>();
  readonly #limits: RaftLimits;

  constructor(membership: Membership, limits: RaftLimits) {
    this.#limits = limits;
    this.#membership = membership;
    this.resetProgress(0);
  }

  get membership(): Membership {
    return this.#membership;
  }

  /** Everybody whose vote counts, in either half of a joint membership. */
  get voters(): ReadonlySet<PeerId> {
    return new Set([...this.#membership.voters, ...this.#membership.outgoing].sort());
  }

  /**
   * Another membership is in force. What is known of members that stay is kept, and who leaves is
   * still sent the log, until `dropLeft`, so that it learns of it. A new one counts as having just
   * answered: it has had no time yet to do so.
   */
  setMembership(membership: Membership, lastIndex: number): void {
    const known = this.#progress;
    this.#membership = membership;
    const ids = [...new Set([...everyMember(membership), ...known.keys()])].sort();
    this.#progress = new Map();
    for (const id of ids) {
      const progress = known.get(id) ?? this.#newProgress(lastIndex);
      if (!known.has(id)) progress.recentActive = true;
      this.#progress.set(id, progress);
    }
  }

  /** Nothing more is sent to who is no member. */
  dropLeft(): void {
    const members = everyMember(this.#membership);
    for (const id of [...this.#progress.keys()]) {
      if (!members.includes(id)) this.#progress.delete(id);
    }
  }

  /** Forgets all that was known of followers: a new term begins. */
  resetProgress(lastIndex: number): void {
    this.#votes.clear();
    this.#progress.clear();
    for (const id of everyMember(this.#membership)) {
      this.#progress.set(id, this.#newProgress(lastIndex));
    }
  }

  #newProgress(lastIndex: number): Progress {
    const inflights = new Inflights(this.#limits.inflightMessages, this.#limits.inflightBytes);
    return new Progress(0, lastIndex + 1, inflights);
  }

  progress(id: PeerId): Progress | undefined {
    return this.#progress.get(id);
  }

  entries(): IterableIterator<[PeerId, Progress]> {
    return this.#progress.entries();
  }

  committed(): number {
    return jointCommittedIndex(this.#membership, (id) => this.#progress.get(id)?.match ?? 0);
  }

  /** A voter's first answer counts; a repeated one changes nothing. */
  recordVote(id: PeerId, granted: boolean): VoteResult {
    if (!this.#votes.has(id)) this.#votes.set(id, granted);
    return jointVoteResult(this.#membership, this.#votes);
  }

  /** True when a majority, with `self`, has answered since this was last asked. */
  takeQuorumActive(self: PeerId): boolean {
    const active = new Map<PeerId, boolean>();
    for (const [id, progress] of this.#progress) {
      active.set(id, id === self || progress.recentActive);
      progress.recentActive = false;
    }
    return jointVoteResult(this.#membership, active) === 'won';
  }

  isQuorum(ids: ReadonlySet<PeerId>): boolean {
    const yes = new Map([...ids].map((id) => [id, true] as const));
    return jointVoteResult(this.#membership, yes) === 'won';
  }
}
