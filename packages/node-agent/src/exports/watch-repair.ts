import type { PrimaryStatus } from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import type { PrimaryEntry } from './primaries.ts';

/** How often a repair attachment looks whether it is done, and how long it goes on in vain (ms). */
const repairLookMs = 500;
const repairPatienceMs = 20_000;
/** One that has nothing to repair may be wanted for a scrub, which its node orders within this (ms). */
const scrubGraceMs = 2_500;

/**
 * A repair attachment ends when every replica is in sync, or nothing has moved for a while; not
 * while the volume is scrubbed, nor when it is used or held by then.
 */
export function watchRepair(
  entry: PrimaryEntry,
  clock: Clock,
  end: (reason: string) => void,
  last = { sinceMs: clock.monotonicMs(), remaining: Infinity },
): void {
  entry.cancelTimer = clock.after(repairLookMs, () => {
    if (entry.ending || entry.mode !== 'repair' || entry.users.size > 0) return;
    if (entry.primary?.isScrubbing === true) {
      watchRepair(entry, clock, end);
      return;
    }
    const behind = membersOf(entry).filter((member) => member.state !== 'in-sync');
    const remaining = behind.reduce((sum, member) => sum + member.bytesRemaining, behind.length);
    const nowMs = clock.monotonicMs();
    const isStill = remaining === last.remaining;
    const isNew = nowMs - entry.sinceMs < scrubGraceMs;
    if (entry.primary && behind.length === 0 && !isNew) end('repaired');
    else if (isStill && nowMs - last.sinceMs > repairPatienceMs) end('repair makes no progress');
    else watchRepair(entry, clock, end, isStill ? last : { sinceMs: nowMs, remaining });
  });
}

/** The replicas as the primary sees them; none before it serves. */
export function membersOf({ primary }: PrimaryEntry): PrimaryStatus['segments'][0]['members'] {
  return primary?.status().segments.flatMap((segment) => segment.members) ?? [];
}
