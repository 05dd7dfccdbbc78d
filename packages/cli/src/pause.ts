import { StorError } from '@stor/protocol';
import type { Clock } from '@stor/runtime/clock';

/** Resolves after `ms`; throws ABORTED when the signal comes first. */
export async function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  const aborted = () => new StorError('ABORTED', 'the wait was aborted');
  if (signal.aborted) throw aborted();
  await new Promise<void>((resolve, reject) => {
    const onAbort = () => {
      cancel();
      reject(aborted());
    };
    const cancel = clock.after(ms, () => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    });
    signal.addEventListener('abort', onAbort, { once: true });
  });
}
