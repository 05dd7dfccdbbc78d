import type { LiveVolume } from '@stor/control-plane';
import type { PrimaryVolume } from '@stor/replicator';
import type { PrimaryEntry } from './primaries.ts';
import { rollingBackReason } from './rollback-gate.ts';

/**
 * What a primary says of itself, for the control plane and the metrics. `starting` is the one of
 * this volume that does not serve yet: it knows what it waits for.
 */
export function liveVolume(
  entry: PrimaryEntry,
  seen: { nowMs: number; allocatedBytes: number; starting: PrimaryVolume | null },
): LiveVolume {
  const { nowMs, allocatedBytes } = seen;
  const known = (entry.primary ?? seen.starting)?.status();
  const status = known?.epoch === entry.grant.epoch ? known : undefined;
  const segments = status?.segments ?? [];
  const isHeld = entry.gate.isClosed && status?.state === 'serving';
  return {
    volumeId: entry.grant.volumeId,
    epoch: entry.grant.epoch,
    state: entry.ending ? 'stopping' : isHeld ? 'holding' : (status?.state ?? 'activating'),
    reason: isHeld ? rollingBackReason : (status?.reason ?? ''),
    stateAgeMs: status?.stateAgeMs ?? nowMs - entry.sinceMs,
    connections: entry.users.size,
    ...(entry.primary ? { sizeBytes: entry.primary.sizeBytes } : {}),
    allocatedBytes,
    throttle: entry.qos.throttle(),
    settleBytesRemaining: segments.reduce((sum, each) => sum + each.settleBytesRemaining, 0),
    noSpaceWrites: segments.reduce((sum, each) => sum + (each.noSpaceWrites ?? 0), 0),
    badBlocks: {
      found: segments.reduce((sum, each) => sum + (each.badBlocks?.found ?? 0), 0),
      repaired: segments.reduce((sum, each) => sum + (each.badBlocks?.repaired ?? 0), 0),
    },
    replicas: segments.flatMap((segment) =>
      segment.members.map(({ replicaId, state, bytesRemaining, noSpace, resync }) => ({
        replicaId,
        state,
        bytesRemaining,
        ...(noSpace ? { noSpace } : {}),
        ...(resync ? { resync } : {}),
      })),
    ),
  };
}
