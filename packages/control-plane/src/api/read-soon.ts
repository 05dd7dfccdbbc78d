import { StorError, hasCode } from '@stor/protocol';
import type { StoreCallOptions } from '../cluster-store.ts';

/**
 * Time for a read of a verb that only shows (ms): longer than an election, shorter than a client of
 * the API waits for one node, so that it hears why there is no answer.
 */
const showTimeoutMs = 3_000;

/** Without a quorum it says so soon, and which verbs answer all the same. UNAVAILABLE. */
export async function readSoon<T>(read: (options: StoreCallOptions) => Promise<T>): Promise<T> {
  try {
    return await read({ timeoutMs: showTimeoutMs });
  } catch (error) {
    if (!hasCode(error, 'UNAVAILABLE')) throw error;
    throw noQuorum(error);
  }
}

export function noQuorum(cause?: unknown): StorError {
  return new StorError(
    'UNAVAILABLE',
    'the control plane has no quorum at the moment: "storctl cluster status" and "storctl volume explain NAME" answer without one; try again later',
    { cause },
  );
}
