import { readdirSync, readFileSync } from 'node:fs';
import { ticksPerSecond } from '../../measure/cpu-time.ts';

/** CPU that threads and the machine have used up to a moment. */
export interface UseMark {
  atMs: number;
  /** by thread, of the processes together (ticks) */
  threads: Map<string, number>;
  /** of all cores (ticks) */
  machineBusy: number;
  machineAll: number;
}

/** What was used between two marks. */
export interface Use {
  /** of the processes together, in cores */
  cores: number;
  elapsedMs: number;
  /** the busiest threads, each as a share of a core */
  busiest: number[];
  /** share of all cores that was not idle */
  machine: number;
}

export function markUse(pids: readonly number[]): UseMark {
  const threads = new Map<string, number>();
  for (const pid of pids) {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const fields = statFields(`/proc/${pid}/task/${thread}/stat`);
      if (fields) threads.set(`${pid}/${thread}`, Number(fields[11]) + Number(fields[12]));
    }
  }
  const [first = ''] = readFileSync('/proc/stat', 'utf8').split('\n');
  const times = first.split(/\s+/).slice(1, 9).map(Number);
  const machineAll = times.reduce((sum, each) => sum + each, 0);
  const idle = (times[3] ?? 0) + (times[4] ?? 0);
  return { atMs: performance.now(), threads, machineBusy: machineAll - idle, machineAll };
}

export function useBetween(from: UseMark, to: UseMark): Use {
  const elapsedMs = to.atMs - from.atMs;
  const ticks = (elapsedMs / 1_000) * ticksPerSecond();
  const shares = [...to.threads].map(
    ([thread, used]) => (used - (from.threads.get(thread) ?? 0)) / ticks,
  );
  return {
    elapsedMs,
    cores: shares.reduce((sum, each) => sum + each, 0),
    busiest: shares.sort((a, b) => b - a).slice(0, 4),
    machine: (to.machineBusy - from.machineBusy) / Math.max(1, to.machineAll - from.machineAll),
  };
}

/** Those behind the name, which may have spaces; null for a thread that has ended. */
function statFields(path: string): string[] | null {
  try {
    const text = readFileSync(path, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return null;
  }
}
