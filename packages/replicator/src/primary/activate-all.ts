interface Activated {
  activate(signal: AbortSignal): Promise<void>;
}

/**
 * Activates all of them; rejects with the first failure, and `settled` resolves when all have ended. There is one
 * listener at the signal for all: a volume may have hundreds of segments, and Node takes more than ten for a leak.
 */
export function activateAll(
  engines: readonly Activated[],
  signal: AbortSignal,
): { served: Promise<void>; settled: Promise<void> } {
  const stops = engines.map(() => new AbortController());
  const abort = (): void => {
    for (const stop of stops) stop.abort();
  };
  signal.addEventListener('abort', abort, { once: true });
  if (signal.aborted) abort();
  const tries = engines.map((engine, index) => engine.activate(stops[index]?.signal ?? signal));
  const settled = Promise.allSettled(tries).then(() => {
    signal.removeEventListener('abort', abort);
  });
  const served = Promise.all(tries).then(() => {});
  // who waits for `settled` first must not leave a rejection unheard
  served.catch(() => {});
  return { served, settled };
}
