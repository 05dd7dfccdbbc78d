/**
 * Which parts of a read have arrived. A server may split an answer into chunks in any order but may
 * not send a byte twice or leave one out; this finds both. In the usual case, chunks in order, it
 * holds one interval.
 */
export class Coverage {
  /** starts and ends of disjoint intervals, ascending: [start, end, start, end, …] */
  #edges: number[] = [];

  /** Notes [start, end). False when part of it was there before. */
  add(start: number, end: number): boolean {
    const edges = this.#edges;
    let at = edges.length;
    while (at > 0 && edges[at - 2]! >= end) at -= 2;
    // every interval from `at` on begins at or after `end`; the one before must end at or before `start`
    if (at > 0 && edges[at - 1]! > start) return false;
    const joinsBefore = at > 0 && edges[at - 1] === start;
    const joinsAfter = at < edges.length && edges[at] === end;
    if (joinsBefore && joinsAfter) edges.splice(at - 1, 2);
    else if (joinsBefore) edges[at - 1] = end;
    else if (joinsAfter) edges[at] = start;
    else edges.splice(at, 0, start, end);
    return true;
  }

  /** Number of separate pieces; a bound on it bounds the memory a server can make us use. */
  get pieces(): number {
    return this.#edges.length / 2;
  }

  covers(start: number, end: number): boolean {
    if (start === end) return true;
    return this.#edges.length === 2 && this.#edges[0]! <= start && this.#edges[1]! >= end;
  }
}
