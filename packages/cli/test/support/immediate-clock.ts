import type { Clock } from '@stor/runtime/clock';

/** A clock on which every wait is over at once, and time has gone on by it. */
export function immediateClock(startMs: number): Clock {
  let nowMs = startMs;
  return {
    monotonicMs: () => nowMs,
    wallMs: () => nowMs,
    after(delayMs, fn) {
      const timer = setImmediate(() => {
        nowMs += delayMs;
        fn();
      });
      return () => clearImmediate(timer);
    },
    endOfTurn: (fn) => void setImmediate(fn),
  };
}
