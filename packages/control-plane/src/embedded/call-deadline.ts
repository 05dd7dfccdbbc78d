import { StorError } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import type { StoreCallOptions } from '../cluster-store.ts';

/** How long a call of the store may take when the caller does not say (ms). */
const defaultTimeoutMs = 5_000;

/** Why a call ends before it has an answer. */
export type CallEnd = 'timeout' | 'aborted' | 'closed';

/** Rejection of `CallDeadline.race`. */
export class CallEnded extends Error {}

/** The end of one call: its time is over, its caller gave up, or the store closes. */
export class CallDeadline {
  readonly timeoutMs: number;
  readonly #clock: Clock;
  readonly #endMs: number;
  readonly #controller = new AbortController();
  readonly #undo: (() => void)[] = [];
  #end: CallEnd | null = null;

  constructor(clock: Clock, options: StoreCallOptions, closed: AbortSignal) {
    this.timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
    this.#clock = clock;
    this.#endMs = clock.monotonicMs() + this.timeoutMs;
    this.#undo.push(
      clock.after(this.timeoutMs, () => {
        this.#finish('timeout');
      }),
    );
    this.#follow(closed, 'closed');
    if (options.signal) this.#follow(options.signal, 'aborted');
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }
  /** null while the call may go on */
  get end(): CallEnd | null {
    return this.#end;
  }
  remainingMs(): number {
    return Math.max(0, this.#endMs - this.#clock.monotonicMs());
  }

  /** The promise, or a rejection with CallEnded as soon as the call has ended. */
  race<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const onEnd = (): void => {
        reject(new CallEnded());
      };
      this.signal.addEventListener('abort', onEnd, { once: true });
      if (this.signal.aborted) onEnd();
      promise.then(resolve, reject).finally(() => {
        this.signal.removeEventListener('abort', onEnd);
      });
    });
  }

  /** Waits, at most until the call ends. */
  pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.signal.aborted) {
        resolve();
        return;
      }
      const done = (): void => {
        cancel();
        this.signal.removeEventListener('abort', done);
        resolve();
      };
      const cancel = this.#clock.after(ms, done);
      this.signal.addEventListener('abort', done, { once: true });
    });
  }

  /** To be called when the call is over, or its timer keeps running. */
  dispose(): void {
    for (const undo of this.#undo) undo();
  }

  /** The error of a call that ended without an answer. */
  error(mayHaveHappened: boolean, cause: unknown): StorError {
    const details = { outcome: mayHaveHappened ? 'unknown' : 'nothing happened' };
    const because = cause instanceof Error ? `: ${cause.message}` : '';
    if (this.#end === 'aborted') {
      return new StorError('ABORTED', 'the caller gave the call up', { details, cause });
    }
    const reason =
      this.#end === 'closed'
        ? 'the cluster store is closed'
        : `the cluster store has no leader with a quorum that answered within ${this.timeoutMs} ms`;
    return mayHaveHappened
      ? new StorError('OUTCOME_UNKNOWN', `${reason}; the change may have been made${because}`, {
          details,
          cause,
        })
      : new StorError('UNAVAILABLE', `${reason}${because}`, { details, cause });
  }

  #follow(signal: AbortSignal, end: CallEnd): void {
    const onAbort = (): void => {
      this.#finish(end);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    this.#undo.push(() => {
      signal.removeEventListener('abort', onAbort);
    });
    if (signal.aborted) onAbort();
  }

  #finish(end: CallEnd): void {
    if (this.#end !== null) return;
    this.#end = end;
    this.#controller.abort();
  }
}
