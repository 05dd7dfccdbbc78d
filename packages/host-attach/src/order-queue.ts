import { StorError } from '@stor/protocol';

/** Orders for one volume that may wait: front-ends repeat theirs, and a stuck one must not pile them up. */
const maxWaiting = 64;

/** Runs what is given one after another for each key. */
export class OrderQueue {
  readonly #ends = new Map<string, Promise<void>>();
  readonly #waiting = new Map<string, number>();
  #isClosed = false;

  /** UNAVAILABLE when too many wait, or it is closed; ABORTED when the signal came while it waited. */
  async run<T>(key: string, signal: AbortSignal, order: () => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new StorError('UNAVAILABLE', 'the agent is stopping');
    const waiting = this.#waiting.get(key) ?? 0;
    if (waiting >= maxWaiting) {
      throw new StorError('UNAVAILABLE', `${waiting} orders for one volume wait: try again later`);
    }
    this.#waiting.set(key, waiting + 1);
    const before = this.#ends.get(key) ?? Promise.resolve();
    const result = before.then(async () => {
      if (signal.aborted) throw new StorError('ABORTED', 'the order was given up before it began');
      if (this.#isClosed) throw new StorError('UNAVAILABLE', 'the agent is stopping');
      return order();
    });
    const end = result.then(
      () => {},
      () => {},
    );
    this.#ends.set(key, end);
    try {
      return await result;
    } finally {
      const left = (this.#waiting.get(key) ?? 1) - 1;
      if (left > 0) this.#waiting.set(key, left);
      else {
        this.#waiting.delete(key);
        if (this.#ends.get(key) === end) this.#ends.delete(key);
      }
    }
  }

  /** Nothing of this key runs or waits. */
  isIdle(key: string): boolean {
    return !this.#waiting.has(key);
  }

  /** Refuses what waits, and waits for what runs. Works twice. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#ends.values());
  }
}
