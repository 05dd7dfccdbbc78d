/**
 * At most so many tasks of one key at once; those that come while as many are under way wait for their turn,
 * in the order in which they came.
 */
export class BoundedTurns {
  readonly #limit: number;
  readonly #running = new Map<string, number>();
  readonly #waiting = new Map<string, (() => void)[]>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    // at once when there is room: what comes in order begins in order
    const turn = this.#begin(key);
    if (turn) await turn;
    try {
      return await task();
    } finally {
      this.#end(key);
    }
  }

  #begin(key: string): Promise<void> | null {
    const running = this.#running.get(key) ?? 0;
    if (running < this.#limit) {
      this.#running.set(key, running + 1);
      return null;
    }
    return new Promise((resolve) => {
      const waiting = this.#waiting.get(key) ?? [];
      waiting.push(resolve);
      this.#waiting.set(key, waiting);
    });
  }

  #end(key: string): void {
    const waiting = this.#waiting.get(key);
    // the turn is handed on: nobody who comes at this moment takes it
    const next = waiting?.shift();
    if (waiting?.length === 0) this.#waiting.delete(key);
    if (next) {
      next();
      return;
    }
    const left = (this.#running.get(key) ?? 1) - 1;
    if (left > 0) this.#running.set(key, left);
    else this.#running.delete(key);
  }
}
