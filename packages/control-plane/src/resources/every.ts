import type { Clock } from '@stor/runtime';

/** Runs `look` every `ms`, first after that time; returns the undo. */
export function every(clock: Clock, ms: number, look: () => void): () => void {
  let cancel = (): void => {};
  const next = (): void => {
    cancel = clock.after(ms, () => {
      next();
      look();
    });
  };
  next();
  return () => {
    cancel();
  };
}
