/**
 * A signal that aborts when one of the others does. To be disposed of when it is not needed any
 * more: until then it hangs on the longer-lived of them. (`AbortSignal.any` needs no disposal, but
 * when it lets go depends on the garbage collector, and simulated runs must repeat exactly.)
 */
export function joinedSignal(signals: readonly (AbortSignal | undefined)[]): {
  signal: AbortSignal;
  dispose: () => void;
} {
  const joined = new AbortController();
  const abort = (): void => {
    joined.abort();
  };
  for (const signal of signals) {
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
  }
  return {
    signal: joined.signal,
    dispose: () => {
      for (const signal of signals) signal?.removeEventListener('abort', abort);
    },
  };
}
