import { setTimeout as delay } from 'node:timers/promises';

/** Whether it resolved within the time. */
export async function within(ms: number, done: Promise<unknown>): Promise<boolean> {
  const timer = new AbortController();
  const late = delay(ms, false, { signal: timer.signal }).catch(() => false);
  const inTime = await Promise.race([done.then(() => true), late]);
  timer.abort();
  return inTime;
}
