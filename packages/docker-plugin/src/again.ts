import { StorError, type ErrorCode } from '@stor/protocol';
import type { Clock } from '@stor/runtime';

/** Resolves after the time; rejects with the signal's reason when that comes first. */
export function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      cancel();
      reject(StorError.from(signal.reason));
    };
    const cancel = clock.after(ms, () => {
      signal.removeEventListener('abort', stop);
      resolve();
    });
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
  });
}

/** The cluster may answer otherwise in a moment. */
const passing: readonly ErrorCode[] = ['UNAVAILABLE', 'CONFLICT', 'OUTCOME_UNKNOWN', 'TIMEOUT'];

export function isPassing(error: StorError): boolean {
  return passing.includes(error.code);
}
