/** Time as an argument. `monotonicMs` never goes back and goes on while the process is stopped. */
export interface Clock {
  /** milliseconds with fraction, from an arbitrary origin, CLOCK_MONOTONIC */
  monotonicMs(): number;
  /** milliseconds since 1970, may jump */
  wallMs(): number;
  /** Runs `fn` once after `delayMs`; the returned function cancels it. */
  after(delayMs: number, fn: () => void): () => void;
  /** Runs `fn` at the end of this event-loop turn, after every ready socket has been read. */
  endOfTurn(fn: () => void): void;
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after(delayMs, fn) {
    const timer = setTimeout(fn, delayMs);
    return () => {
      clearTimeout(timer);
    };
  },
  endOfTurn(fn) {
    setImmediate(fn);
  },
};
