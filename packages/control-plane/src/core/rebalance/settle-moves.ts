import type { ClusterState } from '../../resources/cluster-state.ts';
import { isReported } from './disk-loads.ts';
import type { BegunMove, RebalanceRecord } from './rebalance-record.ts';

/** Moves that are over and not reported: a bound of the record, far above what can be under way. */
const maxUnreported = 256;
const maxSkipped = 1_000;

type Outcome = 'moved' | 'failed' | 'gone';

/** What became of a move, by the volume's record; null while it is under way. */
function outcomeOf(state: ClusterState, move: BegunMove): Outcome | null {
  const volume = state.volumes.get(move.volumeId)?.value;
  const segment = volume?.status.segments.find(({ index }) => index === move.segment);
  if (!segment) return 'gone';
  const isThere = (id: string): boolean => segment.replicas.some((replica) => replica.id === id);
  if (!isThere(move.toReplicaId)) return 'failed';
  if (isThere(move.fromReplicaId)) return null;
  return segment.inSync.includes(move.toReplicaId) ? 'moved' : null;
}

/** The record after what became of its moves; the same one when nothing did. */
export function settledMoves(
  state: ClusterState,
  record: RebalanceRecord,
  nowWallMs: number,
): { record: RebalanceRecord; failed: BegunMove[] } {
  const failed: BegunMove[] = [];
  const next = { ...record, moves: [] as BegunMove[], unreported: [] as BegunMove[] };
  let isChanged = false;
  for (const move of record.moves) {
    const outcome = outcomeOf(state, move);
    if (outcome === null) {
      next.moves.push(move);
      continue;
    }
    isChanged = true;
    if (outcome === 'failed') {
      failed.push(move);
      next.failed += 1;
      next.skipped = [...next.skipped, move.fromReplicaId].slice(-maxSkipped);
    }
    if (outcome !== 'moved') continue;
    next.moved += 1;
    next.movedBytes += move.bytes;
    next.busyMs += Math.max(0, nowWallMs - move.beganAtMs);
    next.unreported.push({ ...move, doneRevision: state.revision, doneAtMs: nowWallMs });
  }
  for (const move of record.unreported) {
    if (isReported(state, move, nowWallMs)) isChanged = true;
    else next.unreported.push(move);
  }
  next.unreported = next.unreported.slice(-maxUnreported);
  return { record: isChanged ? next : record, failed };
}
