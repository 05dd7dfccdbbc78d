import { RunHash } from './run-hash.ts';

interface Event {
  atMs: number;
  order: number;
  run: (() => void) | null;
}

/**
 * Runs every callback that is ready: promises and next ticks, to the last. Node keeps this function
 * for embedders; with it an event of the simulator is over, promises included, when its call
 * returns, so no real turn of the event loop is needed in between.
 */
const drain: () => void = (() => {
  const { _tickCallback } = process as unknown as { _tickCallback?: () => void };
  if (typeof _tickCallback !== 'function')
    throw new Error('this Node has no process._tickCallback');
  return _tickCallback;
})();

/** Many times what a cluster does under load: events and pages sent in one minute of virtual time. */
const maxWorkPerMinute = 400_000;
const pageBytes = 4_096;
/** Looks at that after so many events. */
const eventsPerLook = 256;

/** The cluster is busy with itself for ever: the run would take hours. */
export class EventStorm extends Error {}

/** Events of one run between two looks at the real event loop. */
const eventsPerTurn = 20_000;

/**
 * Virtual time: events in order of time, then of asking. Nothing happens but by `drive`, and idle
 * time costs nothing.
 */
export class SimScheduler {
  nowMs = 1_000_000;
  /** events that have run */
  steps = 0;
  readonly hash = new RunHash();
  #order = 0;
  #minuteEndMs = 0;
  #workBefore = 0;
  #pagesSent = 0;
  readonly #heap: Event[] = [];
  #turn: (() => void)[] = [];

  at(delayMs: number, run: () => void): () => void {
    const atMs = this.nowMs + (delayMs > 0 ? delayMs : 0);
    const event: Event = { atMs, order: this.#order++, run };
    this.#push(event);
    return () => {
      event.run = null;
    };
  }

  /** Bytes on the network are work for whoever takes them. */
  sent(bytes: number): void {
    this.#pagesSent += bytes / pageBytes;
  }

  /** After the event under way and its promises. */
  endOfTurn(run: () => void): void {
    this.#turn.push(run);
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.at(ms, resolve);
    });
  }

  /**
   * Looks at a condition each `everyMs` of virtual time; false when it does not hold within
   * `withinMs`.
   */
  async until(condition: () => boolean, withinMs: number, everyMs = 20): Promise<boolean> {
    const end = this.nowMs + withinMs;
    while (!condition()) {
      if (this.nowMs >= end) return false;
      await this.sleep(everyMs);
    }
    return true;
  }

  /** Runs events until the main activity is over. Rejects when nothing is left that could end it. */
  drive<T>(main: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      let over = false;
      const finish = (then: () => void): void => {
        over = true;
        then();
      };
      const turn = (): void => {
        for (let i = 0; i < eventsPerTurn && !over; i++) {
          if (i % eventsPerLook === 0 && this.#isStorm()) finish(() => reject(storm(this.nowMs)));
          else if (this.#step()) continue;
          if (!over) finish(() => reject(new Error('the simulation has nothing left to do')));
        }
        if (!over) setImmediate(turn);
      };
      setImmediate(() => {
        main().then(
          (value) => finish(() => resolve(value)),
          (error: unknown) => {
            const reason = error instanceof Error ? error : new Error(String(error));
            finish(() => reject(reason));
          },
        );
        this.#settle();
        turn();
      });
    });
  }

  #isStorm(): boolean {
    const work = this.steps + this.#pagesSent;
    if (this.nowMs > this.#minuteEndMs) {
      this.#minuteEndMs = this.nowMs + 60_000;
      this.#workBefore = work;
    }
    return work - this.#workBefore > maxWorkPerMinute;
  }

  #step(): boolean {
    for (;;) {
      const next = this.#pop();
      if (!next) return false;
      if (!next.run) continue;
      this.nowMs = next.atMs;
      this.steps += 1;
      this.hash.number(next.atMs);
      next.run();
      this.#settle();
      return true;
    }
  }

  #settle(): void {
    drain();
    while (this.#turn.length > 0) {
      const turn = this.#turn;
      this.#turn = [];
      for (const run of turn) {
        run();
        drain();
      }
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (!above || !isBefore(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event | null {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (!first || !last) return null;
    if (heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let least = at * 2 + 1;
      let below = heap[least];
      const right = heap[least + 1];
      if (!below) break;
      if (right && isBefore(right, below)) {
        least += 1;
        below = right;
      }
      if (!isBefore(below, last)) break;
      heap[at] = below;
      at = least;
    }
    heap[at] = last;
    return first;
  }
}

function storm(nowMs: number): EventStorm {
  return new EventStorm(
    `over ${maxWorkPerMinute} events and pages sent in one minute, until ${Math.round(nowMs)} ms`,
  );
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
