import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { judgeEtcdError } from '../core/etcd/etcd-errors.ts';
import type { EtcdHeader, EtcdRangeResponse } from '../core/etcd/etcd-messages.ts';
import { keyBytes } from '../core/etcd/etcd-values.ts';
import { judgeHistory } from '../core/etcd/judge-history.ts';
import type { CallDeadline } from '../embedded/call-deadline.ts';
import type { EtcdCall, EtcdEndpoint, EtcdOutcome } from './etcd-endpoint.ts';
import type { EtcdHistory } from './etcd-history.ts';

/** A try of what may be asked again is given up after this: another server may answer (ms). */
const attemptTimeoutMs = 1_000;
/** For a connection (ms). */
const attemptConnectMs = 500;
/** First and longest wait between two tries (ms). */
const minPauseMs = 5;
const maxPauseMs = 200;

export interface EtcdRequest<T> {
  service: EtcdCall['service'];
  method: string;
  request: object;
  /** Must not be sent twice: a lost answer leaves its outcome unknown. */
  once?: boolean;
  /**
   * May be answered from what a server knows by itself; it need not have a leader. Each server is
   * asked once.
   */
  local?: boolean;
  /** Takes the answer, or null: ask the next server. Throws what the caller is told. */
  decode(response: never): T | null;
}

/** Of one question. */
export type TrustLimits = Pick<EtcdCall, 'signal' | 'timeoutMs'>;

type Step = 'again' | { unknown: unknown };

/**
 * Calls to an etcd cluster over one server at a time. A server that does not answer is left for
 * the next one in the list; streams follow (`onMove`). Errors: those that etcd gives for good,
 * UNAVAILABLE when certainly nothing has happened, OUTCOME_UNKNOWN, ABORTED.
 */
export class EtcdCalls {
  readonly #endpoints: readonly EtcdEndpoint[];
  readonly #clock: Clock;
  readonly #listeners = new Set<() => void>();
  readonly #logger: Logger;
  /** why etcd could not be reached, as it was logged last */
  #told = '';
  #at = 0;
  readonly #history: EtcdHistory | null;
  /** the server in use is known to have the past that this node knows */
  #isTrusted = false;
  #clusterId: string | null;
  #revision: number;
  #answeredMs = -Infinity;

  constructor(
    endpoints: readonly EtcdEndpoint[],
    {
      clock,
      logger,
      history = null,
    }: { clock: Clock; logger: Logger; history?: EtcdHistory | null },
    startAt: number,
  ) {
    this.#history = history;
    this.#clusterId = history?.seen?.clusterId ?? null;
    this.#revision = history?.seen?.revision ?? 0;
    this.#logger = logger;
    this.#endpoints = endpoints;
    this.#clock = clock;
    this.#at = startAt % endpoints.length;
  }

  get current(): EtcdEndpoint {
    return this.#endpoints[this.#at] as EtcdEndpoint;
  }

  get size(): number {
    return this.#endpoints.length;
  }

  /** The newest revision that any answer told of. */
  get revision(): number {
    return this.#revision;
  }

  /** When a server last answered (monotonic ms). */
  get answeredMs(): number {
    return this.#answeredMs;
  }

  /** Called when another server is used from now on; returns the undo. */
  onMove(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** The server is in trouble: if it is still the one in use, the next one is from now on. */
  leave(endpoint: EtcdEndpoint): void {
    this.#isTrusted = false;
    if (endpoint !== this.current || this.#endpoints.length === 1) return;
    this.#at = (this.#at + 1) % this.#endpoints.length;
    for (const listener of [...this.#listeners]) listener();
  }

  /**
   * Takes note of an answer. FOREIGN_DATA when it is of another etcd cluster than the ones before:
   * what was committed in one must not be looked for in the other.
   */
  observe(header: EtcdHeader, endpoint: EtcdEndpoint): void {
    this.#clusterId ??= header.clusterId;
    if (header.clusterId !== this.#clusterId) {
      const seen = { clusterId: this.#clusterId, revision: this.#revision };
      const { clusterId, revision } = header;
      const now = { address: endpoint.address, clusterId, revision: Number(revision) };
      const refusal = judgeHistory(seen, now);
      if (refusal) throw refusal;
    }
    this.#answeredMs = this.#clock.monotonicMs();
    this.#told = '';
    this.#revision = Math.max(this.#revision, Number(header.revision));
  }

  /**
   * Before anything is asked of a server after a connection broke, it must show that it has the past
   * that this node knows. Null when it does; FOREIGN_DATA when it does not.
   */
  async trust(endpoint: EtcdEndpoint, limits: TrustLimits): Promise<EtcdOutcome | null> {
    const history = this.#history;
    if (!history || this.#isTrusted) return null;
    const put = history.seen?.put;
    const ask = async (revision: number): Promise<EtcdOutcome> =>
      endpoint.call({
        service: 'KV',
        method: 'Range',
        request: { key: keyBytes(put?.key ?? history.anyKey), revision },
        local: false,
        connectTimeoutMs: attemptConnectMs,
        ...limits,
      });
    let outcome = await ask(put?.revision ?? 0);
    const then = outcome.type === 'refused' ? outcome.message : '';
    // what it keeps begins later, or ends earlier: then only its revision tells
    if (/compacted|future revision/.test(then)) outcome = await ask(0);
    if (outcome.type !== 'answered') return outcome;
    const { header, kvs } = outcome.response as EtcdRangeResponse;
    history.check({
      address: endpoint.address,
      clusterId: header.clusterId,
      revision: Number(header.revision),
      ...(put && then === '' ? { putRevision: kvs[0] ? Number(kvs[0].modRevision) : null } : {}),
    });
    this.observe(header, endpoint);
    this.#isTrusted = true;
    return null;
  }

  async run<T>(request: EtcdRequest<T>, deadline: CallDeadline): Promise<T> {
    let cause: unknown = null;
    let tries = 0;
    for (let pauseMs = minPauseMs; ; pauseMs = Math.min(pauseMs * 2, maxPauseMs)) {
      if (deadline.end !== null) throw deadline.error(false, cause);
      const endpoint = this.current;
      const limits = { signal: deadline.signal, timeoutMs: limitOf(attemptTimeoutMs, deadline) };
      const untrusted = request.local ? null : await this.trust(endpoint, limits);
      const least = this.#revision;
      const asked: EtcdCall = {
        service: request.service,
        method: request.method,
        request: request.request,
        timeoutMs: limitOf(request.once ? Infinity : attemptTimeoutMs, deadline),
        connectTimeoutMs: limitOf(attemptConnectMs, deadline),
        local: request.local ?? false,
        signal: deadline.signal,
      };
      // a question of ours: the call itself was not sent
      const outcome = untrusted ? asNotSent(untrusted) : await endpoint.call(asked);
      if (outcome.type === 'answered') {
        const { response } = outcome;
        const { header } = response as { header: EtcdHeader };
        const isNewest = request.service === 'KV' && !request.local;
        if (isNewest && Number(header.revision) < least) this.#goneBack(header, endpoint);
        this.observe(header, endpoint);
        const value = request.decode(response as never);
        if (value !== null) return value;
        cause = new Error(`${endpoint.address} is behind`);
      } else {
        this.#isTrusted = false;
        const step = this.#judge(outcome, endpoint);
        if (step !== 'again' && request.once) throw this.#unknown(step.unknown, deadline);
        cause = this.#why(outcome, endpoint);
      }
      tries += 1;
      if (request.local && tries >= this.size) throw noneAnswered(cause);
      if (deadline.end !== null) continue;
      this.leave(endpoint);
      await deadline.pause(pauseMs);
    }
  }

  close(): void {
    this.#listeners.clear();
    for (const endpoint of this.#endpoints) endpoint.close();
  }

  /** No server that has all that was committed answers with less than was heard of before. */
  #goneBack({ clusterId, revision }: EtcdHeader, { address }: EtcdEndpoint): void {
    this.#isTrusted = false;
    const now = { address, clusterId, revision: Number(revision) };
    const seen = { clusterId: this.#clusterId ?? clusterId, revision: this.#revision };
    const refusal = judgeHistory(seen, now);
    if (refusal) throw refusal;
  }

  /** What follows from an outcome that is no answer; throws an error that is final. */
  #judge(outcome: EtcdOutcome, endpoint: EtcdEndpoint): Step {
    if (outcome.type === 'not-sent') return 'again';
    if (outcome.type !== 'refused') return { unknown: reasonOf(outcome, endpoint) };
    const verdict = judgeEtcdError(outcome.message);
    if (verdict.fate === 'final') throw verdict.error;
    return verdict.fate === 'again' ? 'again' : { unknown: reasonOf(outcome, endpoint) };
  }

  /** Connections that fail have a reason that an operator can mend; it is logged when it is new. */
  #why(outcome: EtcdOutcome, endpoint: EtcdEndpoint): Error {
    const reason = reasonOf(outcome, endpoint);
    if (outcome.type !== 'not-sent' && outcome.type !== 'lost') return reason;
    const why = endpoint.trouble();
    if (why === null) return reason;
    const message = `no connection to ${endpoint.address}: ${why}`;
    if (message !== this.#told) this.#logger.warn({ reason: message }, 'etcd cannot be reached');
    this.#told = message;
    return new Error(message, { cause: reason });
  }

  #unknown(cause: unknown, deadline: CallDeadline): StorError {
    if (deadline.end !== null) return deadline.error(true, cause);
    return new StorError(
      'OUTCOME_UNKNOWN',
      `the answer of etcd was lost, the change may have been made: ${(cause as Error).message}`,
      { cause, details: { outcome: 'unknown' } },
    );
  }
}

function limitOf(ms: number, deadline: CallDeadline): number {
  return Math.min(ms, Math.max(1, deadline.remainingMs()));
}

/** Of a question before the call: nothing became of the call, unless such are refused for good. */
function asNotSent(outcome: EtcdOutcome): EtcdOutcome {
  const isFinal = outcome.type === 'refused' && judgeEtcdError(outcome.message).fate === 'final';
  return isFinal ? outcome : { type: 'not-sent' };
}

function noneAnswered(cause: unknown): StorError {
  const message = `no etcd server answered: ${(cause as Error).message}`;
  return new StorError('UNAVAILABLE', message, { cause, details: { outcome: 'nothing happened' } });
}

function reasonOf(outcome: EtcdOutcome, { address }: EtcdEndpoint): Error {
  switch (outcome.type) {
    case 'refused':
      return new Error(`${address} refused: ${outcome.message}`);
    case 'not-sent':
      return new Error(`no connection to ${address}`);
    case 'timeout':
      return new Error(`${address} did not answer in time`);
    case 'lost':
      return new Error(`the connection to ${address} broke: ${outcome.cause.message}`, {
        cause: outcome.cause,
      });
    default:
      return new Error(`the call to ${address} was given up`);
  }
}
