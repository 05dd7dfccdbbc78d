import type { SeededRandom } from '../../packages/runtime/src/testing/index.ts';
import type { DiskLog } from './disk-log.ts';

/** Moments to cut the power at: at flushes, right before and after them, and anywhere. */
export function momentsOf(
  log: DiskLog,
  from: number,
  count: number,
  random: SeededRandom,
): number[] {
  const { position, flushes } = log;
  const later = flushes.filter((at) => at >= from);
  return Array.from({ length: count }, () => {
    const flush = later[Math.floor(random.next() * later.length)] ?? position;
    const anywhere = from + Math.floor(random.next() * (position - from + 1));
    const near = flush + Math.floor(random.next() * 5) - 2;
    const moment = random.next() < 0.5 ? near : anywhere;
    return Math.min(position, Math.max(from, moment));
  });
}
