import fs from 'node:fs';

/** Three numbers of at most 20 digits. */
const buffer = Buffer.alloc(64);
/** of the calling thread, because each thread has its own instance of this module */
let counter: number | null = null;
let hasNone = false;

const nsPerMs = 1e6;
const space = 0x20;
const zero = 0x30;

/**
 * How long the calling thread could have run so far and had to wait for a core (ms); null when the system does
 * not say. Some 2 us. (The second number of /proc/PID/schedstat, Documentation/scheduler/sched-stats.rst.)
 */
export function threadQueuedMs(): number | null {
  if (hasNone) return null;
  try {
    counter ??= fs.openSync('/proc/thread-self/schedstat', 'r');
    const queuedNs = secondNumber(fs.readSync(counter, buffer, 0, buffer.length, 0));
    if (queuedNs !== null) return queuedNs / nsPerMs;
  } catch {
    // another system, or a kernel without these counters
  }
  hasNone = true;
  return null;
}

/** Without a string: this is asked beside the requests of clients. */
function secondNumber(length: number): number | null {
  let at = 0;
  while (at < length && buffer[at] !== space) at += 1;
  const start = at + 1;
  let value = 0;
  for (at = start; at < length && buffer[at] !== space; at++) {
    const digit = (buffer[at] ?? 0) - zero;
    if (digit < 0 || digit > 9) return null;
    value = value * 10 + digit;
  }
  return at > start && at < length ? value : null;
}
