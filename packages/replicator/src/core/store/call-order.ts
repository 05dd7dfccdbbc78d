/** A call that could not be finished at once; `[from, to)` in bytes. */
export interface OrderedCall {
  readonly from: number;
  readonly to: number;
  readonly writes: boolean;
  /** set by CallOrder */
  id: number;
  blockers: number;
  start(): void;
}

/** Two calls must keep their order when they share bytes and at least one writes. */
function conflict(a: OrderedCall, b: OrderedCall): boolean {
  return a.from < b.to && b.from < a.to && (a.writes || b.writes);
}

/**
 * Keeps slow calls in the order in which they were made wherever they overlap (I10). Their number
 * is bounded by the callers: NBD's in-flight limit per connection and the peers' windows.
 */
export class CallOrder {
  readonly #calls: OrderedCall[] = [];
  #lastId = 0;

  get size(): number {
    return this.#calls.length;
  }

  get lastId(): number {
    return this.#lastId;
  }

  /** Starts the call now, or when the last earlier one that conflicts with it has finished. */
  add(call: OrderedCall): void {
    this.#lastId += 1;
    call.id = this.#lastId;
    call.blockers = 0;
    for (const other of this.#calls) if (conflict(call, other)) call.blockers += 1;
    this.#calls.push(call);
    if (call.blockers === 0) call.start();
  }

  finish(call: OrderedCall): void {
    const at = this.#calls.indexOf(call);
    if (at < 0) return;
    this.#calls.splice(at, 1);
    const ready: OrderedCall[] = [];
    for (let i = at; i < this.#calls.length; i++) {
      const later = this.#calls[i];
      if (!later || !conflict(call, later)) continue;
      later.blockers -= 1;
      if (later.blockers === 0) ready.push(later);
    }
    for (const next of ready) next.start();
  }

  /** True when a read (or a write) of the range now would overtake a call under way. */
  blocks(from: number, to: number, writes: boolean): boolean {
    for (const call of this.#calls) {
      if (call.from < to && from < call.to && (writes || call.writes)) return true;
    }
    return false;
  }

  /** Id of the oldest writing call under way; Infinity when there is none. */
  oldestWrite(): number {
    for (const call of this.#calls) if (call.writes) return call.id;
    return Infinity;
  }
}
