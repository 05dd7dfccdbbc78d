import { aborted, Pending } from './abortable.ts';
import { notLeader } from './core/not-leader.ts';
import type { RawNode } from './core/raw-node.ts';
import { RaftError } from './errors.ts';

type Read = Pending<number>;

/** What a lease read needs to know of time. */
export interface LeaseTerms {
  monotonicMs: () => number;
  /** how long a lease holds from when its round of heartbeats began; 0: there is none */
  leaseMs: number;
}

/** A round of heartbeats: when it began, and among whom. */
interface Round {
  reads: Set<Read>;
  beganMs: number;
  term: number;
  membershipIndex: number;
}

/**
 * Reads of this node. Those of one turn share one round of heartbeats, which begins after all of
 * them; then they wait until what it confirmed is applied.
 */
export class PendingReads {
  readonly #maxReads: number;
  readonly #lease: LeaseTerms;
  #leaseRound: Round | null = null;
  #queued = new Set<Read>();
  /** by context of their round */
  #confirming = new Map<number, Round>();
  #confirmed: { index: number; reads: Set<Read> }[] = [];
  #lastContext = 0;
  #count = 0;

  constructor(maxReads: number, lease: LeaseTerms) {
    this.#maxReads = maxReads;
    this.#lease = lease;
  }

  add(raw: RawNode, signal: AbortSignal | undefined): Promise<number> {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    if (raw.status.role !== 'leader') return Promise.reject(notLeader(raw.status));
    if (this.#count >= this.#maxReads) {
      return Promise.reject(new RaftError('TOO_BUSY', `${this.#count} reads wait already`));
    }
    const read: Read = new Pending<number>(signal, (pending) => {
      this.#forget(pending);
      pending.reject(aborted(signal));
    });
    this.#queued.add(read);
    this.#count++;
    return read.promise;
  }

  /**
   * The commit index, if a round of heartbeats was confirmed so lately that no other leader can
   * have been elected since: who answered it gives no vote for `leaseMs` after it began. Else null.
   */
  leaseIndex(raw: RawNode): number | null {
    const round = this.#leaseRound;
    if (!round || !raw.leaseHolds || raw.status.term !== round.term) return null;
    // after two changes of members the majorities need not overlap any more
    if (raw.log.membershipIndex !== round.membershipIndex) return null;
    if (this.#lease.monotonicMs() - round.beganMs >= this.#lease.leaseMs) return null;
    return raw.status.commitIndex;
  }

  #forget(read: Read): void {
    const sets = [
      this.#queued,
      ...[...this.#confirming.values()].map(({ reads }) => reads),
      ...this.#confirmed.map(({ reads }) => reads),
    ];
    for (const set of sets) if (set.delete(read)) this.#count--;
  }

  /** One round for all that came since the last. */
  begin(raw: RawNode): void {
    if (this.#queued.size === 0) return;
    const reads = this.#queued;
    this.#queued = new Set();
    if (raw.status.role !== 'leader') {
      this.#reject(reads, notLeader(raw.status));
      return;
    }
    const context = ++this.#lastContext;
    this.#confirming.set(context, {
      reads,
      beganMs: this.#lease.monotonicMs(),
      term: raw.status.term,
      membershipIndex: raw.log.membershipIndex,
    });
    raw.readIndex(context);
  }

  confirm(raw: RawNode): void {
    for (const { context, index } of raw.takeReads()) {
      const round = this.#confirming.get(context);
      this.#confirming.delete(context);
      if (!round) continue;
      this.#leaseRound = round;
      this.#confirmed.push({ index, reads: round.reads });
    }
    const { appliedIndex } = raw.status;
    // indexes rise with contexts
    for (let first = this.#confirmed[0]; first; first = this.#confirmed[0]) {
      if (first.index > appliedIndex) return;
      this.#confirmed.shift();
      this.#count -= first.reads.size;
      for (const read of first.reads) read.resolve(first.index);
    }
  }

  /** Those already confirmed stay: what they saw as committed is committed. */
  leadershipLost(raw: RawNode): void {
    this.#rejectUnconfirmed(notLeader(raw.status));
  }

  stop(reason: RaftError): void {
    this.#rejectUnconfirmed(reason);
    for (const { reads } of this.#confirmed) this.#reject(reads, reason);
    this.#confirmed = [];
  }

  #rejectUnconfirmed(error: RaftError): void {
    this.#reject(this.#queued, error);
    for (const { reads } of this.#confirming.values()) this.#reject(reads, error);
    this.#queued = new Set();
    this.#confirming.clear();
  }

  #reject(reads: Set<Read>, error: RaftError): void {
    this.#count -= reads.size;
    for (const read of reads) read.reject(error);
  }
}
