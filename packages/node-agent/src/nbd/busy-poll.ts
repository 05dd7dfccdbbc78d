import type { Clock } from '@stor/runtime';
import { command, commandFlag, type RequestHeader } from 'nbd-client-js';
import { BusyPollRule } from '../core/nbd/busy-poll-rule.ts';

export interface BusyPollOptions {
  clock: Clock;
  /** how long this thread has waited for a core so far (ms); null when nobody knows: it always sleeps then */
  queuedMs: () => number | null;
  stats: { busyPollMs: number };
}

/** Keeps the event loop of a lane awake for a client that sends one request after another. */
export class BusyPoll {
  readonly #options: BusyPollOptions;
  readonly #rule = new BusyPollRule();
  /** whose request was the last one that was alone */
  #client: object | null = null;
  #isPolling = false;
  #sinceMs = 0;
  #isClosed = false;

  constructor(options: BusyPollOptions) {
    this.#options = options;
  }

  get isPolling(): boolean {
    return this.#isPolling;
  }

  /** So many requests of a client came at once, the last one with this header, and it has so many under way now. */
  took(
    client: object,
    requests: number,
    last: Pick<RequestHeader, 'type' | 'flags'>,
    inFlight: number,
    nowMs: number,
  ): void {
    // a lane with so much to do hardly sleeps
    if (requests > 1 || inFlight > 1) this.#rule.crowded();
    else this.#alone(client, waitsForDisk(last), nowMs);
  }

  #alone(client: object, isSync: boolean, nowMs: number): void {
    if (this.#client !== client) {
      this.#client = client;
      this.#rule.crowded();
    }
    if (!this.#rule.alone(nowMs, isSync) || this.#isPolling || this.#isClosed) return;
    const queuedMs = this.#options.queuedMs();
    if (queuedMs === null) return;
    this.#begin(nowMs, queuedMs);
    this.#options.clock.endOfTurn(this.#look);
  }

  close(): void {
    this.#isClosed = true;
  }

  #begin(nowMs: number, queuedMs: number): void {
    this.#isPolling = true;
    this.#sinceMs = nowMs;
    this.#rule.begin(nowMs, queuedMs);
  }

  // a loop that has something to do at the end of its turn asks the kernel what is there, and does not wait
  readonly #look = (): void => {
    const nowMs = this.#options.clock.monotonicMs();
    let goesOn = this.#rule.goesOn(nowMs) && !this.#isClosed;
    if (!goesOn || this.#rule.isLong(nowMs)) {
      const queuedMs = this.#options.queuedMs() ?? 0;
      this.#isPolling = false;
      this.#options.stats.busyPollMs += nowMs - this.#sinceMs;
      goesOn = this.#rule.end(nowMs, queuedMs) && goesOn;
      if (goesOn) this.#begin(nowMs, queuedMs);
    }
    if (goesOn) this.#options.clock.endOfTurn(this.#look);
  };
}

function waitsForDisk({ type, flags }: Pick<RequestHeader, 'type' | 'flags'>): boolean {
  return type === command.flush || (flags & commandFlag.fua) !== 0;
}
