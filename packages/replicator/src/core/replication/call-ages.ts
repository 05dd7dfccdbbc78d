/** What makes things durable may take so many times as long: it writes back what lay in the cache. */
export const syncPatience = 4;

interface Call {
  sinceMs: number;
  isSync: boolean;
}

/**
 * How long a member has owed an answer: requests by their number, writes by their sequence, which
 * are acknowledged cumulatively. Only time in which this process was awake counts: a process that
 * was stopped must read what has arrived before it may blame anybody.
 */
export class CallAges {
  readonly #maxStepMs: number;
  #lastMs: number | null = null;
  #awakeMs = 0;
  readonly #calls = new Map<number, Call>();
  /** last sequence of those that were sent between two ticks */
  #writes: { sequence: number; sinceMs: number }[] = [];

  /** `maxStepMs`: more than this between two ticks means that the process was stopped. */
  constructor(maxStepMs: number) {
    this.#maxStepMs = maxStepMs;
  }

  tick(nowMs: number): void {
    const stepMs = this.#lastMs === null ? 0 : nowMs - this.#lastMs;
    this.#awakeMs += Math.min(stepMs, this.#maxStepMs);
    this.#lastMs = nowMs;
  }

  begin(id: number, isSync: boolean): void {
    this.#calls.set(id, { sinceMs: this.#awakeMs, isSync });
  }

  end(id: number): void {
    this.#calls.delete(id);
  }

  sent(sequence: number): void {
    const count = this.#writes.length;
    // not the index -1, which makes every later access here slow
    const last = count > 0 ? this.#writes[count - 1] : undefined;
    if (last && last.sinceMs === this.#awakeMs) last.sequence = sequence;
    else this.#writes.push({ sequence, sinceMs: this.#awakeMs });
  }

  /** Everything up to this sequence is applied. */
  acknowledged(sequence: number): void {
    let done = 0;
    while (done < this.#writes.length && (this.#writes[done]?.sequence ?? 0) <= sequence) done += 1;
    if (done > 0) this.#writes.splice(0, done);
  }

  reset(): void {
    this.#calls.clear();
    this.#writes = [];
  }

  /** Age of the oldest unanswered one (ms); those that make durable count for a part of theirs. */
  get oldestMs(): number {
    let oldest = 0;
    for (const { sinceMs, isSync } of this.#calls.values()) {
      const ageMs = this.#awakeMs - sinceMs;
      oldest = Math.max(oldest, isSync ? ageMs / syncPatience : ageMs);
      // the map keeps the order of asking: the first of either kind is the oldest, and few are sync
      if (!isSync) break;
    }
    const write = this.#writes[0];
    return write ? Math.max(oldest, this.#awakeMs - write.sinceMs) : oldest;
  }
}
