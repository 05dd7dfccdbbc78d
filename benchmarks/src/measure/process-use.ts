import { readFileSync } from 'node:fs';
import { cpuTimeUs, ticksPerSecond } from './cpu-time.ts';

/** What a set of processes used so far. Threads of the kernel are nobody's and are not counted. */
export function cpuTimeOfAllUs(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + cpuTimeUs(pid), 0);
}

/** Resident memory of a set of processes (bytes); pages that they share count for each. */
export function residentBytes(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return sum + Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024;
  }, 0);
}

/**
 * CPU time of all children of this process that have ended, and of theirs (us): what fio used, its
 * job processes included, is the difference of two.
 */
export function endedChildrenCpuUs(): number {
  const stat = readFileSync('/proc/self/stat', 'utf8');
  // cutime and cstime are fields 16 and 17 (proc(5))
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return ((Number(fields[13]) + Number(fields[14])) / ticksPerSecond()) * 1e6;
}
