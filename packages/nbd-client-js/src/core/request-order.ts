/** One request that has not been answered. */
export class OrderedRequest<T> {
  readonly value: T;
  /** bytes [start, end) of the export; an empty range meets no other */
  readonly start: number;
  readonly end: number;
  readonly mutates: boolean;
  state: 'held' | 'ready' | 'sent' | 'done' = 'ready';
  /** older requests that it waits for */
  blockers = 0;
  /** newer requests that wait for it */
  readonly holds: OrderedRequest<T>[] = [];

  constructor(value: T, start: number, end: number, mutates: boolean) {
    this.value = value;
    this.start = start;
    this.end = end;
    this.mutates = mutates;
  }
}

/**
 * Which requests may be on the wire together. NBD orders two requests only when the second is sent
 * after the first was answered, so of two that overlap, one of which changes something, the newer is
 * held until the older is answered. Therefore no two requests that are sent or ready conflict:
 * they may be sent again in any order, and a request that is sent again never overtakes, nor is
 * overtaken by, one that overlaps it. Reads of a range never wait for each other.
 */
export class RequestOrder<T> {
  /** in the order of `add` */
  readonly #unanswered = new Set<OrderedRequest<T>>();
  #ready: OrderedRequest<T>[] = [];
  #sent = 0;

  /** all that is not answered: held, ready and sent */
  get count(): number {
    return this.#unanswered.size;
  }

  get sentCount(): number {
    return this.#sent;
  }

  add(value: T, start: number, end: number, mutates: boolean): OrderedRequest<T> {
    const request = new OrderedRequest(value, start, end, mutates);
    for (const older of this.#unanswered) {
      if (start >= older.end || end <= older.start || !(mutates || older.mutates)) continue;
      if (start === end || older.start === older.end) continue;
      older.holds.push(request);
      request.blockers += 1;
    }
    this.#unanswered.add(request);
    if (request.blockers > 0) request.state = 'held';
    else this.#ready.push(request);
    return request;
  }

  /** The next request to send, which counts as sent from now on. */
  takeReady(): OrderedRequest<T> | null {
    const request = this.#ready.shift();
    if (!request) return null;
    request.state = 'sent';
    this.#sent += 1;
    return request;
  }

  /** It was answered, or its caller gave it up: what waited for it may go. Works twice. */
  finish(request: OrderedRequest<T>): void {
    if (request.state === 'done') return;
    if (request.state === 'sent') this.#sent -= 1;
    if (request.state === 'ready') this.#ready.splice(this.#ready.indexOf(request), 1);
    if (request.state === 'held') {
      // what waits for this one waits for its blockers too where it overlaps them: nothing is lost
      for (const older of this.#unanswered) {
        const at = older.holds.indexOf(request);
        if (at >= 0) older.holds.splice(at, 1);
      }
    }
    request.state = 'done';
    this.#unanswered.delete(request);
    for (const newer of request.holds.splice(0)) {
      newer.blockers -= 1;
      if (newer.blockers > 0) continue;
      newer.state = 'ready';
      this.#ready.push(newer);
    }
  }

  /** The connection is gone: what was sent is to be sent again, oldest first. */
  connectionLost(): void {
    this.#sent = 0;
    this.#ready = [];
    for (const request of this.#unanswered) {
      if (request.state === 'sent') request.state = 'ready';
      if (request.state === 'ready') this.#ready.push(request);
    }
  }

  /** Oldest first. */
  unanswered(): OrderedRequest<T>[] {
    return [...this.#unanswered];
  }
}
