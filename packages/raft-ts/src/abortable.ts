import { RaftError } from './errors.ts';

/** A promise with its two ends, which stops listening to its signal when it settles. */
export class Pending<T> {
  readonly promise: Promise<T>;
  #resolve!: (value: T) => void;
  #reject!: (error: RaftError) => void;
  #stopListening: () => void = () => {};

  /** `onAbort` decides what an abort means; it is not called once this is settled. */
  constructor(signal: AbortSignal | undefined, onAbort: (pending: Pending<T>) => void) {
    this.promise = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    if (!signal) return;
    const listener = () => {
      onAbort(this);
    };
    signal.addEventListener('abort', listener, { once: true });
    this.#stopListening = () => {
      signal.removeEventListener('abort', listener);
    };
  }

  resolve(value: T): void {
    this.#stopListening();
    this.#resolve(value);
  }

  reject(error: RaftError): void {
    this.#stopListening();
    this.#reject(error);
  }
}

export function aborted(signal: AbortSignal | undefined): RaftError {
  return new RaftError('ABORTED', 'the caller gave up', { cause: signal?.reason });
}
