/**
 * When an engine looks after itself: at every tick while somebody wants something of it, else only as often as
 * a failure must be noticed that no request meets. A lane may have a thousand volumes that nobody uses.
 */
export class LookPace {
  readonly #quietMs: number;
  #lookedMs = -Infinity;

  /** `quietMs`: between two looks while it is quiet. */
  constructor(quietMs: number) {
    this.#quietMs = quietMs;
  }

  /** Whether to look at this tick. */
  isDue(nowMs: number, isQuiet: boolean): boolean {
    if (isQuiet && nowMs - this.#lookedMs < this.#quietMs) return false;
    this.#lookedMs = nowMs;
    return true;
  }
}
