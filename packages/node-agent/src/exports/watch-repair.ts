import type { PrimaryStatus } from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import type { PrimaryEntry } from './primaries.ts';

/** How often a repair attachment looks whether it is done, and how long it goes on in vain (ms). */
const repairLookMs = 500;
const repairPatienceMs = 20_000;

/**
 * A repair attachment ends when every replica is in sync, or nothing has moved for a while; not when
 * it is used or held by then.
 */
export function watchRepair(
  entry: PrimaryEntry,
  clock: Clock,
  end: (reason: string) => void,
  last = { sinceMs: clock.monotonicMs(), remaining: Infinity },
): void {
  entry.cancelTimer = clock.after(repairLookMs, () => {
    if (entry.ending || entry.mode !== 'repair' || entry.users.size > 0) return;
    const behind = membersOf(entry).filter((member) => member.state !== 'in-sync');
    const remaining = behind.reduce((sum, member) => sum + member.bytesRemaining, behind.length);
    const nowMs = clock.monotonicMs();
    const isStill = remaining === last.remaining;
    if (entry.primary && behind.length === 0) end('repaired');
    else if (isStill && nowMs - last.sinceMs > repairPatienceMs) end('repair makes no progress');
    else watchRepair(entry, clock, end, isStill ? last : { sinceMs: nowMs, remaining });
  });
}

/** The replicas as the primary sees them; none before it serves. */
export function membersOf({ primary }: PrimaryEntry): PrimaryStatus['segments'][0]['members'] {
  return primary?.status().segments.flatMap((segment) => segment.members) ?? [];
}
