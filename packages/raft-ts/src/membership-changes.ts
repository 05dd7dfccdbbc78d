import { aborted, Pending } from './abortable.ts';
import {
  describeMembership,
  isJoint,
  isVoter,
  type MemberChange,
  type Membership,
} from './core/membership.ts';
import { notLeader } from './core/not-leader.ts';
import type { RawNode } from './core/raw-node.ts';
import { RaftError } from './errors.ts';

/**
 * - `learn`: the voters to be are added as learners;
 * - `catchUp`: they get the log; nothing is proposed;
 * - `change`: the change itself, to its end: also the joint membership is left.
 */
type Phase = 'learn' | 'catchUp' | 'change';

interface Operation {
  changes: MemberChange[];
  phase: Phase;
  /** index of the entry that the phase waits for */
  index: number;
  term: number;
  pending: Pending<Membership>;
}

/**
 * The change of members that was asked for here: one at a time. A new voter gets the log as a
 * learner first (thesis, section 4.2.1): as a voter that lacks it, it would hold up every commit
 * that needs it.
 */
export class MembershipChanges {
  #operation: Operation | null = null;

  change(
    raw: RawNode,
    changes: MemberChange[],
    signal: AbortSignal | undefined,
  ): Promise<Membership> {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    if (this.#operation) {
      const message = 'another change of members is under way';
      return Promise.reject(new RaftError('CHANGE_PENDING', message));
    }
    if (raw.status.role !== 'leader') return Promise.reject(notLeader(raw.status));
    const wanted = changes.filter((each) => !isDone(raw.membership, each));
    const unknown = wanted.filter(({ type, id }) => {
      return type === 'addVoter' && !isKnown(raw.membership, id);
    });
    if (wanted.length === 0 && isSettled(raw)) return Promise.resolve(raw.membership);
    try {
      const learners = unknown.map(({ id }) => ({ type: 'addLearner', id }) as const);
      this.#operation = begin(
        raw,
        wanted,
        learners,
        (pending) => {
          this.#abandon(pending, signal);
        },
        signal,
      );
    } catch (error) {
      if (!(error instanceof RaftError) || error.code === 'INTERNAL') throw error;
      return Promise.reject(error);
    }
    return this.#operation.pending.promise;
  }

  #abandon(pending: Pending<Membership>, signal: AbortSignal | undefined): void {
    if (this.#operation?.pending !== pending) return;
    const { phase } = this.#operation;
    this.#operation = null;
    if (phase === 'catchUp') pending.reject(aborted(signal));
    else
      pending.reject(outcomeUnknown('the caller gave up while the change was under way', signal));
  }

  /** Goes on as far as possible; called after any input. */
  proceed(raw: RawNode): void {
    const operation = this.#operation;
    if (!operation) return;
    const { role, term, appliedIndex } = raw.status;
    if (role !== 'leader' || term !== operation.term) return;
    if (operation.phase !== 'catchUp' && appliedIndex < operation.index) return;
    if (operation.phase === 'learn') operation.phase = 'catchUp';
    if (operation.phase === 'catchUp') this.#promoteWhenCaughtUp(raw, operation);
    else if (isSettled(raw)) this.#finish(raw.membership);
  }

  #promoteWhenCaughtUp(raw: RawNode, operation: Operation): void {
    const lagging = operation.changes.filter(({ type, id }) => {
      return type === 'addVoter' && !isVoter(raw.membership, id) && !raw.isCaughtUp(id);
    });
    if (lagging.length > 0) return;
    try {
      operation.index = raw.proposeChange(operation.changes);
      operation.phase = 'change';
    } catch (error) {
      if (!(error instanceof RaftError) || error.code === 'INTERNAL') throw error;
      if (error.code === 'CHANGE_PENDING') return;
      this.#operation = null;
      operation.pending.reject(error);
    }
  }

  #finish(membership: Membership): void {
    this.#operation?.pending.resolve(membership);
    this.#operation = null;
  }

  /** A leader that was removed by its own change has lost nothing: it is done. */
  leadershipLost(raw: RawNode): void {
    const operation = this.#operation;
    if (!operation) return;
    const isMade = operation.changes.every((each) => isDone(raw.membership, each));
    if (operation.phase === 'change' && isMade && isSettled(raw)) this.#finish(raw.membership);
    this.#fail(`leadership was lost during the change; now: ${describeMembership(raw.membership)}`);
  }

  stop(reason: RaftError): void {
    this.#fail(reason.message, reason);
  }

  #fail(message: string, cause?: unknown): void {
    const operation = this.#operation;
    this.#operation = null;
    operation?.pending.reject(outcomeUnknown(message, cause));
  }
}

function begin(
  raw: RawNode,
  changes: MemberChange[],
  learners: MemberChange[],
  onAbort: (pending: Pending<Membership>) => void,
  signal: AbortSignal | undefined,
): Operation {
  const { term, appliedIndex } = raw.status;
  // a change that cannot be is refused before its first half is made
  raw.checkChange(changes);
  const mustLearn = learners.length > 0;
  const index = mustLearn ? raw.proposeChange(learners) : appliedIndex;
  const phase = mustLearn ? 'learn' : 'catchUp';
  return { changes, phase, index, term, pending: new Pending(signal, onAbort) };
}

/** No change is under way. */
function isSettled(raw: RawNode): boolean {
  return raw.membershipCommitted && !isJoint(raw.membership);
}

function isKnown({ voters, outgoing, learners }: Membership, id: string): boolean {
  return [...voters, ...outgoing, ...learners].includes(id);
}

function isDone(membership: Membership, { type, id }: MemberChange): boolean {
  const { voters, learners, outgoing } = membership;
  switch (type) {
    case 'addVoter':
      return voters.includes(id);
    case 'addLearner':
      return learners.includes(id);
    case 'remove':
      return !voters.includes(id) && !learners.includes(id) && !outgoing.includes(id);
  }
}

function outcomeUnknown(message: string, cause?: unknown): RaftError {
  return new RaftError('OUTCOME_UNKNOWN', message, { cause });
}
