import { setTimeout as delay } from 'node:timers/promises';

export interface WaitOptions {
  /** gives up after this time (ms); default 30,000 */
  deadlineMs?: number;
  /** time between two looks (ms); default 50 */
  intervalMs?: number;
  /** gives up at once, with the reason */
  signal?: AbortSignal;
}

/**
 * Looks again and again until `probe` returns something other than null, undefined or false, and
 * returns it. A probe that throws counts as "not yet". At the deadline the error says what was
 * waited for and what the last look found.
 */
export async function waitFor<T>(
  what: string,
  probe: () => Promise<T | null | undefined | false> | T | null | undefined | false,
  options: WaitOptions = {},
): Promise<T> {
  const deadlineMs = options.deadlineMs ?? 30_000;
  const endMs = performance.now() + deadlineMs;
  let last: unknown = null;
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      const value = await probe();
      if (value !== null && value !== undefined && value !== false) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (performance.now() >= endMs) {
      const seen = last instanceof Error ? last.message : JSON.stringify(last);
      throw new Error(`waited ${deadlineMs} ms for ${what}; last seen: ${seen}`);
    }
    await delay(options.intervalMs ?? 50);
  }
}
