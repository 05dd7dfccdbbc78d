/** Time, as a reconnecting client needs it; tests give one that they turn themselves. */
export interface NbdClock {
  /** never goes back */
  monotonicMs(): number;
  /** Runs once after `ms`; the returned function cancels. */
  after(ms: number, run: () => void): () => void;
}

export const systemClock: NbdClock = {
  monotonicMs: () => performance.now(),
  after: (ms, run) => {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
};
