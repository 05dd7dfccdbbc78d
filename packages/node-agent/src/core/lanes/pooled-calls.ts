/** Threads of the pool that disks leave to the Raft log and to syncs. */
const reservedThreads = 8;
/** More calls at once make a disk no faster. */
const mostPerDisk = 16;
const leastPerDisk = 2;

/**
 * Reads and writes that each of a node's disks may have in the thread pool, which belongs to the whole
 * process: all disks together leave room for what must not wait behind them.
 */
export function pooledCallsPerDisk(threads: number, disks: number): number {
  const share = Math.floor((threads - reservedThreads) / Math.max(1, disks));
  return Math.max(leastPerDisk, Math.min(mostPerDisk, share));
}
