import fs from 'node:fs';

/** The whole file has some 150 bytes. */
const buffer = Buffer.alloc(512);
/** of the calling thread, because each thread has its own instance of this module */
let counter: number | null = null;
let hasNone = false;

/**
 * Bytes that the calling thread itself has had to fetch from disks so far (not what the thread pool
 * fetches for it); null when the system does not say. Some 3 us. What comes from the page cache does
 * not count, so a read that leaves it unchanged did not wait for a disk, however long it took.
 */
export function threadReadBytes(): number | null {
  if (hasNone) return null;
  try {
    counter ??= fs.openSync('/proc/thread-self/io', 'r');
    const text = buffer.toString('latin1', 0, fs.readSync(counter, buffer, 0, buffer.length, 0));
    const bytes = /^read_bytes: (\d+)$/m.exec(text)?.[1];
    if (bytes !== undefined) return Number(bytes);
  } catch {
    // another system, or a kernel without these counters
  }
  hasNone = true;
  return null;
}
