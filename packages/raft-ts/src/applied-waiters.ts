import { aborted, Pending } from './abortable.ts';
import { RaftError } from './errors.ts';

/** Who waits for an index to be applied. */
export class AppliedWaiters {
  readonly #maxWaiters: number;
  readonly #onListenerError: (error: unknown) => void;
  #waiting = new Set<{ index: number; pending: Pending<void> }>();
  readonly #listeners = new Set<(appliedIndex: number) => void>();

  constructor(maxWaiters: number, onListenerError: (error: unknown) => void) {
    this.#maxWaiters = maxWaiters;
    this.#onListenerError = onListenerError;
  }

  wait(index: number, appliedIndex: number, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    if (appliedIndex >= index) return Promise.resolve();
    if (this.#waiting.size >= this.#maxWaiters) {
      const message = `${this.#waiting.size} callers wait for an index already`;
      return Promise.reject(new RaftError('TOO_BUSY', message));
    }
    const waiter = {
      index,
      pending: new Pending<void>(signal, (pending) => {
        this.#waiting.delete(waiter);
        pending.reject(aborted(signal));
      }),
    };
    this.#waiting.add(waiter);
    return waiter.pending.promise;
  }

  listen(listener: (appliedIndex: number) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  advance(appliedIndex: number): void {
    for (const waiter of this.#waiting) {
      if (waiter.index > appliedIndex) continue;
      this.#waiting.delete(waiter);
      waiter.pending.resolve();
    }
    for (const listener of this.#listeners) {
      try {
        listener(appliedIndex);
      } catch (error) {
        this.#onListenerError(error);
      }
    }
  }

  stop(reason: RaftError): void {
    for (const { pending } of this.#waiting) pending.reject(reason);
    this.#waiting.clear();
    this.#listeners.clear();
  }
}
