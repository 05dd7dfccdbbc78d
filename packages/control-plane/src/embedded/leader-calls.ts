import { StorError, type ErrorCode } from '@stor/protocol';
import type { RpcChannel } from '../rpc/rpc-transport.ts';
import { CallEnded, type CallDeadline } from './call-deadline.ts';

/**
 * A try at a leader that does not answer is given up after this (ms), because another member may
 * lead by now. The same request is sent again; it is done once.
 */
const attemptTimeoutMs = 1_000;
/** For a connection to the leader (ms). */
const attemptConnectMs = 500;
/** First and longest wait between two tries (ms). */
const minPauseMs = 5;
const maxPauseMs = 100;

/** Something that only the leader can do. */
export interface LeaderCall<T> {
  /** Does it change anything? Then a lost answer leaves its outcome unknown. */
  writes: boolean;
  method: string;
  request: Uint8Array;
  /** on this member, when it leads */
  local(): Promise<T>;
  decode(response: Uint8Array): T;
}

export interface LeaderAnswer<T> {
  value: T;
  /** an earlier try may have been done too */
  repeated: boolean;
}

export interface Leadership {
  readonly id: string;
  leaderId(): string | null;
  /** null for a leader that is not among the members */
  endpoint(id: string): Pick<RpcChannel, 'address' | 'call'> | null;
  metadata(to: string): Record<string, string>;
  /** while nobody leads: what others have against this member, as far as it is known */
  refusal(): Error | null;
}

type Fate = 'final' | 'nothing happened' | 'unknown';

/** What an error of a try means for the next. */
function fateOf(code: ErrorCode): Fate {
  switch (code) {
    case 'UNAVAILABLE':
    // a member that is just starting does not know the call yet
    case 'FAILED_PRECONDITION':
      return 'nothing happened';
    case 'NOT_FOUND':
    case 'INVALID_ARGUMENT':
    case 'PROTOCOL':
    case 'PERMISSION_DENIED':
      return 'final';
    default:
      return 'unknown';
  }
}

/**
 * Carries a call to whoever leads, and on to the next leader, until it has an answer or its time
 * is over. Errors: those of the call itself; UNAVAILABLE when certainly nothing has happened,
 * OUTCOME_UNKNOWN, ABORTED.
 */
export class LeaderCalls {
  readonly #leadership: Leadership;

  constructor(leadership: Leadership) {
    this.#leadership = leadership;
  }

  async run<T>(call: LeaderCall<T>, deadline: CallDeadline): Promise<LeaderAnswer<T>> {
    let unknown = false;
    let cause: unknown = null;
    for (let pauseMs = minPauseMs; ; pauseMs = Math.min(pauseMs * 2, maxPauseMs)) {
      const leaderId = this.#leadership.leaderId();
      if (leaderId !== null && deadline.end === null) {
        try {
          return { value: await this.#attempt(call, leaderId, deadline), repeated: unknown };
        } catch (error) {
          const fate = error instanceof CallEnded ? 'unknown' : fateOf(StorError.from(error).code);
          if (fate === 'final') throw unknown ? refusedLater(error) : error;
          if (fate === 'unknown') unknown = call.writes;
          if (!(error instanceof CallEnded)) cause = error;
        }
      }
      if (leaderId === null) cause = this.#leadership.refusal() ?? cause;
      if (deadline.end === null) await deadline.pause(pauseMs);
      if (deadline.end !== null) throw deadline.error(unknown, cause);
    }
  }

  async #attempt<T>(call: LeaderCall<T>, leaderId: string, deadline: CallDeadline): Promise<T> {
    if (leaderId === this.#leadership.id) return deadline.race(call.local());
    const endpoint = this.#leadership.endpoint(leaderId);
    if (!endpoint)
      throw new StorError('UNAVAILABLE', `the leader ${leaderId} has no known address`);
    const outcome = await endpoint.call({
      method: call.method,
      request: call.request,
      timeoutMs: Math.min(attemptTimeoutMs, deadline.remainingMs()),
      connectTimeoutMs: Math.min(attemptConnectMs, deadline.remainingMs()),
      metadata: this.#leadership.metadata(leaderId),
      signal: deadline.signal,
    });
    const leader = `the leader ${leaderId} (${endpoint.address})`;
    switch (outcome.type) {
      case 'answered':
        return call.decode(outcome.response as Uint8Array);
      case 'refused':
        throw outcome.error;
      case 'not-sent':
        throw new StorError('UNAVAILABLE', `no connection to ${leader}`);
      case 'lost':
        throw new StorError('OUTCOME_UNKNOWN', `the connection to ${leader} broke`, {
          cause: outcome.cause,
        });
      case 'timeout':
        throw new StorError('OUTCOME_UNKNOWN', `${leader} did not answer in time`);
      case 'aborted':
        throw new CallEnded();
    }
  }
}

/** A refusal says nothing of an earlier try, which may have been done: a member that was removed since. */
function refusedLater(cause: unknown): StorError {
  const reason = StorError.from(cause).message;
  const message = `an earlier try may have changed something; the last one was refused: ${reason}`;
  return new StorError('OUTCOME_UNKNOWN', message, { cause, details: { outcome: 'unknown' } });
}
