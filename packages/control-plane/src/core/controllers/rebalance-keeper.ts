import type { EventNote, ReplicaId } from '@stor/protocol';
import { formatByteSize } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { diskLoads } from '../rebalance/disk-loads.ts';
import { endedRebalance, maxFailedMoves } from '../rebalance/rebalance-record.ts';
import type { BegunMove, RebalanceRecord } from '../rebalance/rebalance-record.ts';
import { RebalancePlanner } from '../rebalance/rebalance-planner.ts';
import type { PlannedMove } from '../rebalance/rebalance-planner.ts';
import { rebalanceWait } from '../rebalance/rebalance-wait.ts';
import { isSettledIn } from '../rebalance/settled-replica.ts';
import { settledMoves } from '../rebalance/settle-moves.ts';
import { busyDisks, maxMoves, mayMove, moveReplica } from './placement-keeper.ts';
import type { ReplicaKnowledge } from './placement-keeper.ts';
import type { KeeperContext, ReplicaChange } from './replica-keeper.ts';

/** A look for the next move is a look at every volume (ms). */
export const rebalanceLookMs = 1_000;

/** What the leader writes in one transaction: the record, and the volume whose replica begins to move. */
export interface RebalanceStep {
  type: 'rebalance';
  rebalance: Versioned<RebalanceRecord>;
  record: RebalanceRecord;
  /** absent: no move begins */
  begins?: { volume: Versioned<StoredVolume>; change: ReplicaChange };
  /** told when it is written */
  notes: EventNote[];
}

/**
 * Carries out a rebalance, one move after another. What it has done and what is under way is in the
 * record; it remembers only when it looked last, and which replicas had no better place then.
 */
export class RebalanceKeeper {
  readonly #barren = new Set<ReplicaId>();
  /** of which those are */
  #startedAtMs = 0;
  #lookedMs = -Infinity;

  /** `isPlanned`: something else is about to be done with the volume. */
  plan(
    state: ClusterState,
    context: KeeperContext,
    replicas: ReplicaKnowledge,
    isPlanned: (volume: Versioned<StoredVolume>) => boolean,
  ): RebalanceStep | null {
    const { rebalance } = state;
    if (!rebalance) return null;
    this.#forgetOther(rebalance.value.startedAtMs);
    const { wallMs, monotonicMs } = context.now;
    const { record, failed } = settledMoves(state, rebalance.value, wallMs);
    const notes = failed.map((move) => failureNote(state, move));
    const step = { type: 'rebalance' as const, rebalance, record, notes };
    if (record !== rebalance.value) return withLimits(state, step, wallMs);
    if (record.state !== 'running' || isFull(record, context)) return null;
    if (monotonicMs - this.#lookedMs < rebalanceLookMs || isPaced(record, wallMs)) return null;
    this.#lookedMs = monotonicMs;
    if (rebalanceWait(state, record) !== null) return null;
    return this.#next(state, step, context, { replicas, isPlanned });
  }

  #forgetOther(startedAtMs: number): void {
    if (startedAtMs === this.#startedAtMs) return;
    this.#startedAtMs = startedAtMs;
    this.#barren.clear();
  }

  #next(
    state: ClusterState,
    step: RebalanceStep,
    context: KeeperContext,
    {
      replicas,
      isPlanned,
    }: { replicas: ReplicaKnowledge; isPlanned: (volume: Versioned<StoredVolume>) => boolean },
  ): RebalanceStep | null {
    const { now, board, fills } = context;
    const { record } = step;
    const begun = [...record.moves, ...record.unreported];
    const wasBarren = this.#barren.size > 0;
    const planner = new RebalancePlanner({
      board,
      loads: diskLoads(state, begun),
      bandPercent: record.settings.bandPercent,
      isSettled: isSettledIn(record),
      mayMove: (volume) => {
        const known = state.volumes.get(volume.metadata.id);
        if (!known || isPlanned(known)) return false;
        return mayMove(volume, replicas.factsOf(state, volume, now));
      },
      avoid: new Map(busyDisks(board, fills)),
      barren: this.#barren,
    });
    const move = planner.next();
    if (move) return beginning(state, step, move, { context, replicas });
    if (planner.isCutShort || planner.isBlocked) return null;
    const isOver = record.moves.length === 0 && record.unreported.length === 0;
    // what had no better place before the last moves may have one now
    if (wasBarren && !planner.isEven) this.#barren.clear();
    else if (isOver && !fills.onNode.size) return finished(state, step, planner, now.wallMs);
    return null;
  }
}

/** As many move as may, now or in all; what moves for other reasons counts too. */
function isFull({ moves, moved, settings }: RebalanceRecord, { fills }: KeeperContext): boolean {
  const { maxMoves: own, stopAfter } = settings;
  if (stopAfter > 0 && moved + moves.length >= stopAfter) return true;
  return moves.length >= own || fills.moves >= maxMoves;
}

/** The move that began last has not had its time by the budget yet. */
function isPaced({ notBeforeMs, paceMs }: RebalanceRecord, wallMs: number): boolean {
  const leftMs = notBeforeMs - wallMs;
  return leftMs > 0 && leftMs <= paceMs;
}

function beginning(
  state: ClusterState,
  step: RebalanceStep,
  move: PlannedMove,
  { context, replicas }: { context: KeeperContext; replicas: ReplicaKnowledge },
): RebalanceStep | null {
  const { record } = step;
  const { replica, segment, bytes, from, to } = move;
  const volume = state.volumes.get(move.volume.metadata.id);
  if (!volume) return null;
  const { now } = context;
  const lately = replicas.avoidedDisks(volume.value.metadata.id, now);
  if (lately.some(([diskId]) => diskId === to.diskId)) {
    // it could not take a replica of this volume a while ago: the others go first
    const skipped = [...record.skipped, replica.id];
    return { ...step, record: { ...record, skipped } };
  }
  const what = `it lies on a disk that is fuller (${formatByteSize(bytes)})`;
  const change = moveReplica(volume.value, segment, replica.id, to, { what, context });
  const before = new Set(segment.replicas.map(({ id }) => id));
  const made = change.record.status.segments
    .find(({ index }) => index === segment.index)
    ?.replicas.find(({ id }) => !before.has(id));
  if (!made) return null;
  const { bytesPerSecond } = record.settings;
  const paceMs = bytesPerSecond > 0 ? Math.ceil((bytes / bytesPerSecond) * 1_000) : 0;
  const begun: BegunMove = {
    volumeId: volume.value.metadata.id,
    segment: segment.index,
    fromReplicaId: replica.id,
    fromDiskId: from.diskId,
    toReplicaId: made.id,
    toDiskId: to.diskId,
    bytes,
    beganAtMs: now.wallMs,
  };
  const moves = [...record.moves, begun];
  const next = { ...record, moves, paceMs, notBeforeMs: now.wallMs + paceMs };
  return { ...step, record: next, begins: { volume, change } };
}

/** It ends when it has done what was asked of it, or when too much goes wrong. */
function withLimits(state: ClusterState, step: RebalanceStep, wallMs: number): RebalanceStep {
  const { record, notes } = step;
  const { stopAfter } = record.settings;
  if (record.state !== 'running' && record.state !== 'paused') return step;
  if (record.failed >= maxFailedMoves) {
    const message = `${record.failed} moves did not work: see "storctl events"`;
    const note = endNote(state, 'rebalance-stopped', `the rebalance has stopped: ${message}`);
    const stopped = endedRebalance(record, 'stopped', message, wallMs);
    return { ...step, record: stopped, notes: [...notes, { ...note, type: 'warning' }] };
  }
  if (stopAfter === 0 || record.moved < stopAfter || record.moves.length > 0) return step;
  const message = `${record.moved} replicas have moved, as many as were asked for`;
  const note = endNote(state, 'rebalance-finished', `the rebalance is over: ${message}`);
  const over = endedRebalance(record, 'finished', message, wallMs);
  return { ...step, record: over, notes: [...notes, note] };
}

function finished(
  state: ClusterState,
  step: RebalanceStep,
  planner: RebalancePlanner,
  wallMs: number,
): RebalanceStep {
  const { record } = step;
  const band = `${record.settings.bandPercent} percent points`;
  const how = planner.isEven
    ? `disks of the same tag differ by at most ${band}`
    : `disks still differ by more than ${band}, and no move that the rules of placement allow would help`;
  const moved = `${record.moved} replicas have moved (${formatByteSize(record.movedBytes)})`;
  const note = endNote(state, 'rebalance-finished', `the rebalance is over: ${how}; ${moved}`);
  const over = endedRebalance(record, 'finished', how, wallMs);
  return { ...step, record: over, notes: [...step.notes, note] };
}

function endNote(
  state: ClusterState,
  reason: 'rebalance-finished' | 'rebalance-stopped',
  message: string,
): EventNote {
  const { clusterId = '', name = '' } = state.cluster?.value ?? {};
  return { type: 'normal', reason, object: { kind: 'cluster', id: clusterId, name }, message };
}

function failureNote(state: ClusterState, move: BegunMove): EventNote {
  const volume = state.volumes.get(move.volumeId)?.value;
  const { nodeId = '' } = state.disks.get(move.toDiskId)?.value ?? {};
  const why = volume?.status.message ?? '';
  return {
    type: 'warning',
    reason: 'rebalance-move-failed',
    object: { kind: 'volume', id: move.volumeId },
    message: `a replica of volume ${volume?.metadata.name ?? move.volumeId} did not move to node ${nodeName(state, nodeId)} and stays where it is${why === '' ? '' : `: ${why}`}`,
  };
}
