import { aborted, Pending } from './abortable.ts';
import type { RaftError } from './errors.ts';

/** Who waits for an index to be applied. */
export class AppliedWaiters {
  #waiting = new Set<{ index: number; pending: Pending<void> }>();
  readonly #listeners = new Set<(appliedIndex: number) => void>();

  wait(index: number, appliedIndex: number, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    if (appliedIndex >= index) return Promise.resolve();
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
    for (const listener of this.#listeners) listener(appliedIndex);
  }

  stop(reason: RaftError): void {
    for (const { pending } of this.#waiting) pending.reject(reason);
    this.#waiting.clear();
    this.#listeners.clear();
  }
}
