import type { DiskId, PoolSpread, Rebalance, RebalanceMove, ReplicaId } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { mayMove } from '../controllers/placement-keeper.ts';
import { assumedBytesPerSecond } from '../node/plan-node.ts';
import { PlacementBoard } from '../placement/placement-board.ts';
import type { RebalanceObservation } from '../volume/describe-cluster.ts';
import { byTag, diskLoads, spreadOf } from './disk-loads.ts';
import type { DiskLoad } from './disk-loads.ts';
import { defaultRebalance, isUnderWay } from './rebalance-record.ts';
import type { BegunMove, RebalanceRecord } from './rebalance-record.ts';
import { RebalancePlanner } from './rebalance-planner.ts';
import type { PlannedMove } from './rebalance-planner.ts';
import { rebalanceWait } from './rebalance-wait.ts';
import { isSettledIn } from './settled-replica.ts';

/** Moves that a plan counts, and those that it shows. */
export const maxPlanned = 200;
const maxShown = 50;

/** What `cluster rebalance status` shows; of a dry run the record is one that is not written. */
export function describeRebalance(
  state: ClusterState,
  record: RebalanceRecord | null,
  { isDryRun }: { isDryRun: boolean } = { isDryRun: false },
): Rebalance {
  const settings = record?.settings ?? { ...defaultRebalance };
  const begun = record ? [...record.moves, ...record.unreported] : [];
  const loads = diskLoads(state, begun);
  const before = spreads(loads);
  const isShown = isDryRun || (record !== null && isUnderWay(record));
  const plan = isShown && record ? planOf(state, record, loads) : noPlan;
  const moving = (record?.moves ?? []).map((move) => describeBegun(state, move));
  const plannedBytes = sum(plan.moves.map(({ bytes }) => bytes));
  const leftBytes = plannedBytes + sum(moving.map(({ bytes }) => bytes));
  const rate = rateOf(record);
  const isRunning = isShown && record?.state === 'running';
  const left = plan.moves.length + moving.length;
  const wait = isRunning ? rebalanceWait(state, record) : null;
  return {
    state: stateOf(record, wait),
    message:
      wait ?? (isRunning && left === 0 && begun.length > 0 ? reportText : (record?.message ?? '')),
    settings: { ...settings },
    startedAtMs: isDryRun ? null : (record?.startedAtMs ?? null),
    endedAtMs: record?.endedAtMs ?? null,
    moved: record?.moved ?? 0,
    movedBytes: record?.movedBytes ?? 0,
    failed: record?.failed ?? 0,
    moving,
    planned: plan.moves.slice(0, maxShown).map((move) => describePlanned(state, move)),
    plannedMoves: plan.moves.length,
    plannedBytes,
    planIsWhole: plan.isWhole,
    pools: poolsOf(before, spreads(loads)),
    rate,
    etaMs: isRunning ? Math.ceil((leftBytes / rate.bytesPerSecond) * 1_000) : null,
  };
}

/** It ends when it has seen that this is so. */
const reportText = 'all has moved; disks are about to report what they hold now';

const noPlan = { moves: [] as PlannedMove[], isWhole: true };

function stateOf(record: RebalanceRecord | null, wait: string | null): Rebalance['state'] {
  if (!record) return 'idle';
  if (record.state === 'running') return wait === null ? 'running' : 'waiting';
  return record.state as Rebalance['state'];
}

/** What would be done from now on if nothing else changed; `loads` are afterwards as they would be. */
function planOf(
  state: ClusterState,
  record: RebalanceRecord,
  loads: Map<DiskId, DiskLoad>,
): { moves: PlannedMove[]; isWhole: boolean } {
  const { bandPercent, stopAfter } = record.settings;
  const left = stopAfter > 0 ? stopAfter - record.moved - record.moves.length : Infinity;
  const most = Math.min(left, maxPlanned);
  const barren = new Set<ReplicaId>();
  const moves: PlannedMove[] = [];
  const planner = new RebalancePlanner({
    board: new PlacementBoard(state),
    loads,
    bandPercent,
    isSettled: isSettledIn(record),
    mayMove: (volume) => {
      const isLost = ({ diskId }: { diskId: DiskId }): boolean =>
        state.disks.get(diskId)?.value.state !== 'online';
      return mayMove(volume, { state, volume, isLost });
    },
    barren,
  });
  while (moves.length < most) {
    const wasBarren = barren.size > 0;
    const move = planner.next();
    if (!move && wasBarren && !planner.isCutShort) {
      // once more with what had no better place before the last moves
      barren.clear();
      const again = planner.next();
      if (!again) return { moves, isWhole: !planner.isCutShort && !planner.isBlocked };
      planner.take(again);
      moves.push(again);
      continue;
    }
    if (!move) return { moves, isWhole: !planner.isCutShort && !planner.isBlocked };
    planner.take(move);
    moves.push(move);
  }
  return { moves, isWhole: most < maxPlanned };
}

/** Of all that runs at one time; a rebalance that has moved nothing yet takes what a rebuild begins with. */
function rateOf(record: RebalanceRecord | null): Rebalance['rate'] {
  const { movedBytes = 0, busyMs = 0, settings = defaultRebalance } = record ?? {};
  const isKnown = movedBytes > 0 && busyMs > 0;
  const measured = isKnown ? (movedBytes / busyMs) * 1_000 * settings.maxMoves : 0;
  const speed = Math.max(1, Math.round(isKnown ? measured : assumedBytesPerSecond));
  const budget = settings.bytesPerSecond;
  if (budget > 0 && budget < speed) return { bytesPerSecond: budget, source: 'budget' };
  return { bytesPerSecond: speed, source: isKnown ? 'measured' : 'assumed' };
}

type Spreads = Map<string, { disks: number; lowest: number; highest: number }>;

function spreads(loads: ReadonlyMap<DiskId, DiskLoad>): Spreads {
  return new Map(
    [...byTag(loads.values())].map(([tag, pool]) => [
      tag,
      { disks: pool.length, ...spreadOf(pool) },
    ]),
  );
}

function poolsOf(before: Spreads, after: Spreads): PoolSpread[] {
  return [...before]
    .map(([tag, { disks, lowest, highest }]) => {
      const then = after.get(tag) ?? { lowest, highest };
      return {
        tag,
        disks,
        lowestPercent: percent(lowest),
        highestPercent: percent(highest),
        plannedLowestPercent: percent(then.lowest),
        plannedHighestPercent: percent(then.highest),
      };
    })
    .sort((a, b) => (a.tag < b.tag ? -1 : 1));
}

/** With two digits behind the point. */
function percent(share: number): number {
  return Math.round(share * 10_000) / 100;
}

/** What metrics show of it. */
export function observeRebalance(state: ClusterState): RebalanceObservation {
  const record = state.rebalance?.value;
  const { moves = [], unreported = [], moved = 0, movedBytes = 0 } = record ?? {};
  const loads = diskLoads(state, [...moves, ...unreported]);
  const spreadsNow = [...spreads(loads)].map(([tag, { lowest, highest }]) => ({
    tag,
    spread: highest - lowest,
  }));
  return { isRunning: record?.state === 'running', moved, movedBytes, spreads: spreadsNow };
}

function describePlanned(state: ClusterState, move: PlannedMove): RebalanceMove {
  const { volume, segment, replica, bytes, from, to } = move;
  return {
    volume: volume.metadata.name,
    volumeId: volume.metadata.id,
    segment: segment.index,
    replicaId: replica.id,
    ...places(state, from.diskId, to.diskId),
    bytes,
  };
}

function describeBegun(state: ClusterState, move: BegunMove): RebalanceMove {
  const { volumeId, segment, fromReplicaId, fromDiskId, toDiskId, bytes } = move;
  return {
    volume: state.volumes.get(volumeId)?.value.metadata.name ?? volumeId,
    volumeId,
    segment,
    replicaId: fromReplicaId,
    ...places(state, fromDiskId, toDiskId),
    bytes,
  };
}

function places(state: ClusterState, fromDiskId: DiskId, toDiskId: DiskId) {
  const from = state.disks.get(fromDiskId)?.value;
  const to = state.disks.get(toDiskId)?.value;
  return {
    fromNode: nodeName(state, from?.nodeId ?? ''),
    fromDiskId,
    fromDisk: from?.path ?? '',
    toNode: nodeName(state, to?.nodeId ?? ''),
    toDiskId,
    toDisk: to?.path ?? '',
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
