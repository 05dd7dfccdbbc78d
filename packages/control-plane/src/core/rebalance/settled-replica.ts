import type { VolumeReplica } from '@stor/protocol';
import type { RebalanceRecord } from './rebalance-record.ts';

/**
 * Whether a replica stays where it is for the rest of a rebalance: it was placed since that began, or is
 * under way, or its move did not work. So none moves twice, to and fro.
 */
export function isSettledIn(record: RebalanceRecord): (replica: VolumeReplica) => boolean {
  const skipped = new Set(record.skipped);
  for (const { fromReplicaId, toReplicaId } of [...record.moves, ...record.unreported]) {
    skipped.add(fromReplicaId).add(toReplicaId);
  }
  return ({ id, placedAtMs = -Infinity }) => placedAtMs >= record.startedAtMs || skipped.has(id);
}
