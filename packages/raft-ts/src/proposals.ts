import { aborted, Pending } from './abortable.ts';
import { entryOverheadBytes, maxProposalBytes, type RaftLimits } from './core/limits.ts';
import { notLeader } from './core/not-leader.ts';
import type { RawNode } from './core/raw-node.ts';
import type { Entry } from './core/types.ts';
import { RaftError } from './errors.ts';

export interface Proposed {
  index: number;
  /** what the state machine returned for it */
  result: unknown;
}

interface Proposal {
  data: Uint8Array;
  pending: Pending<Proposed>;
}

/**
 * Proposals of this node: first queued, so that those of one turn (or of one save) form a group,
 * then appended, then applied. Up to the append an end means that nothing happened; after it the
 * outcome is unknown until the entry is applied.
 */
export class Proposals {
  readonly #limits: RaftLimits;
  #queued: Proposal[] = [];
  #queuedBytes = 0;
  #appended = new Map<number, { term: number; pending: Pending<Proposed> }>();

  constructor(limits: RaftLimits) {
    this.#limits = limits;
  }

  add(data: Uint8Array, raw: RawNode, signal: AbortSignal | undefined): Promise<Proposed> {
    const refusal = this.#refusal(data, raw, signal);
    if (refusal) return Promise.reject(refusal);
    const proposal: Proposal = {
      data,
      pending: new Pending<Proposed>(signal, (pending) => {
        this.#abort(pending, signal);
      }),
    };
    this.#queued.push(proposal);
    this.#queuedBytes += data.length + entryOverheadBytes;
    return proposal.pending.promise;
  }

  #refusal(data: Uint8Array, raw: RawNode, signal: AbortSignal | undefined): RaftError | null {
    if (signal?.aborted) return aborted(signal);
    if (raw.status.role !== 'leader') return notLeader(raw.status);
    if (data.length > maxProposalBytes) {
      return new RaftError('INVALID_ARGUMENT', `a proposal is over ${maxProposalBytes} bytes`);
    }
    const waiting = this.#queuedBytes + raw.uncommittedBytes;
    if (waiting > 0 && waiting + data.length + entryOverheadBytes > this.#limits.uncommittedBytes) {
      return new RaftError('TOO_BUSY', `${waiting} bytes of proposals wait for a quorum already`);
    }
    return null;
  }

  #abort(pending: Pending<Proposed>, signal: AbortSignal | undefined): void {
    const at = this.#queued.findIndex((proposal) => proposal.pending === pending);
    const [taken] = at < 0 ? [] : this.#queued.splice(at, 1);
    if (taken) {
      this.#queuedBytes -= taken.data.length + entryOverheadBytes;
      pending.reject(aborted(signal));
      return;
    }
    // The entry is in the log; its slot in the map stays until it is applied, and settles nothing.
    pending.reject(unknown('the caller gave up after the entry was appended', signal?.reason));
  }

  /** Appends what is queued as one group. */
  append(raw: RawNode): void {
    if (this.#queued.length === 0) return;
    const group = this.#queued;
    this.#queued = [];
    this.#queuedBytes = 0;
    const { role, term } = raw.status;
    if (role !== 'leader') {
      for (const { pending } of group) pending.reject(notLeader(raw.status));
      return;
    }
    let index: number;
    try {
      index = raw.propose(group.map(({ data }) => data));
    } catch (error) {
      if (!(error instanceof RaftError) || error.code === 'INTERNAL') throw error;
      for (const { pending } of group) pending.reject(error);
      return;
    }
    for (const { pending } of group) this.#appended.set(index++, { term, pending });
  }

  /** An entry was applied; if it was proposed here, that one is done. */
  applied(entry: Entry, result: unknown): void {
    const appended = this.#appended.get(entry.index);
    if (!appended) return;
    this.#appended.delete(entry.index);
    if (appended.term === entry.term) {
      appended.pending.resolve({ index: entry.index, result });
    } else {
      appended.pending.reject(unknown('another leader wrote over the entry'));
    }
  }

  leadershipLost(raw: RawNode): void {
    const queued = this.#queued;
    this.#queued = [];
    this.#queuedBytes = 0;
    for (const { pending } of queued) pending.reject(notLeader(raw.status));
    this.#failAppended('leadership was lost before the entry was committed');
  }

  stop(reason: RaftError): void {
    const queued = this.#queued;
    this.#queued = [];
    this.#queuedBytes = 0;
    for (const { pending } of queued) pending.reject(reason);
    this.#failAppended(reason.message, reason);
  }

  #failAppended(message: string, cause?: unknown): void {
    const appended = this.#appended;
    this.#appended = new Map();
    for (const { pending } of appended.values()) pending.reject(unknown(message, cause));
  }
}

function unknown(message: string, cause?: unknown): RaftError {
  return new RaftError('OUTCOME_UNKNOWN', message, { cause });
}
