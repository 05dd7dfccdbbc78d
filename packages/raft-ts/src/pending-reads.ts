import { aborted, Pending } from './abortable.ts';
import { notLeader } from './core/not-leader.ts';
import type { RawNode } from './core/raw-node.ts';
import { RaftError } from './errors.ts';

type Read = Pending<number>;

/**
 * Reads of this node. Those of one turn share one round of heartbeats, which begins after all of
 * them; then they wait until what it confirmed is applied.
 */
export class PendingReads {
  readonly #maxReads: number;
  #queued = new Set<Read>();
  /** by context of their round */
  #confirming = new Map<number, Set<Read>>();
  #confirmed: { index: number; reads: Set<Read> }[] = [];
  #lastContext = 0;
  #count = 0;

  constructor(maxReads: number) {
    this.#maxReads = maxReads;
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

  #forget(read: Read): void {
    const sets = [
      this.#queued,
      ...this.#confirming.values(),
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
    this.#confirming.set(context, reads);
    raw.readIndex(context);
  }

  confirm(raw: RawNode): void {
    for (const { context, index } of raw.takeReads()) {
      const reads = this.#confirming.get(context);
      this.#confirming.delete(context);
      if (reads) this.#confirmed.push({ index, reads });
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
    for (const reads of [this.#queued, ...this.#confirming.values()]) this.#reject(reads, error);
    this.#queued = new Set();
    this.#confirming.clear();
  }

  #reject(reads: Set<Read>, error: RaftError): void {
    this.#count -= reads.size;
    for (const read of reads) read.reject(error);
  }
}
