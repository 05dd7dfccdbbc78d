import { StorError } from '@stor/protocol';
import type { DiskId, RebalanceSettings, ReplicaId, VolumeId } from '@stor/protocol';
import { z } from 'zod';

/** A move that a rebalance has begun. */
export interface BegunMove {
  volumeId: VolumeId;
  segment: number;
  fromReplicaId: ReplicaId;
  fromDiskId: DiskId;
  toReplicaId: ReplicaId;
  toDiskId: DiskId;
  /** what the replica took when it began */
  bytes: number;
  /** by the wall clock */
  beganAtMs: number;
  /** store revision and time at which it was seen to be over; absent: it is under way */
  doneRevision?: number;
  doneAtMs?: number;
}

/**
 * What is kept of a rebalance, so that it goes on under another leader: one record, changed in the
 * transaction that begins a move. Why it waits is not kept: that follows from everything else.
 */
export interface RebalanceRecord {
  /** running, paused, finished, stopped */
  state: string;
  settings: RebalanceSettings;
  /** by the wall clock; tells one rebalance from another */
  startedAtMs: number;
  endedAtMs?: number;
  /** how it ended, or the last move that failed; '' else */
  message: string;
  moved: number;
  movedBytes: number;
  /** how long the moves that are counted took together */
  busyMs: number;
  failed: number;
  /** nothing begins before, by the wall clock: what began last takes its part of the budget until then */
  notBeforeMs: number;
  /** how long that is from its beginning: a clock that was set back must not stop all */
  paceMs: number;
  moves: BegunMove[];
  /** over, but the disks have not reported since what they hold now */
  unreported: BegunMove[];
  /** replicas that stay where they are, because their move did not work */
  skipped: ReplicaId[];
}

export const defaultRebalance: Readonly<RebalanceSettings> = {
  bandPercent: 5,
  bytesPerSecond: 0,
  maxMoves: 2,
  stopAfter: 0,
};

/** Moves that did not work after which it ends: something is wrong that more tries do not mend. */
export const maxFailedMoves = 100;

const move = z.looseObject({
  volumeId: z.string(),
  segment: z.number(),
  fromReplicaId: z.string(),
  fromDiskId: z.string(),
  toReplicaId: z.string(),
  toDiskId: z.string(),
  bytes: z.number(),
  beganAtMs: z.number(),
  doneRevision: z.number().optional(),
  doneAtMs: z.number().optional(),
});

const schema = z.looseObject({
  state: z.string(),
  settings: z.looseObject({
    bandPercent: z.number(),
    bytesPerSecond: z.number(),
    maxMoves: z.number(),
    stopAfter: z.number(),
  }),
  startedAtMs: z.number(),
  endedAtMs: z.number().optional(),
  message: z.string(),
  moved: z.number(),
  movedBytes: z.number(),
  busyMs: z.number(),
  failed: z.number(),
  notBeforeMs: z.number(),
  paceMs: z.number(),
  moves: z.array(move),
  unreported: z.array(move),
  skipped: z.array(z.string()),
});

/** INTERNAL when the bytes are not such a record. */
export function decodeRebalance(key: string, value: Uint8Array): RebalanceRecord {
  try {
    return schema.parse(JSON.parse(new TextDecoder().decode(value))) as RebalanceRecord;
  } catch (error) {
    throw new StorError('INTERNAL', `${key} holds no rebalance`, { cause: error });
  }
}

/** A rebalance that begins now; what an earlier one has under way goes on to be seen to. */
export function begunRebalance(
  before: RebalanceRecord | null,
  begin: { settings: RebalanceSettings; nowWallMs: number },
): RebalanceRecord {
  return {
    state: 'running',
    settings: begin.settings,
    startedAtMs: begin.nowWallMs,
    message: '',
    moved: 0,
    movedBytes: 0,
    busyMs: 0,
    failed: 0,
    notBeforeMs: 0,
    paceMs: 0,
    moves: before?.moves ?? [],
    unreported: before?.unreported ?? [],
    skipped: [],
  };
}

export function isUnderWay({ state }: RebalanceRecord): boolean {
  return state === 'running' || state === 'paused';
}

export function endedRebalance(
  record: RebalanceRecord,
  state: 'finished' | 'stopped',
  message: string,
  nowWallMs: number,
): RebalanceRecord {
  return { ...record, state, message, endedAtMs: nowWallMs };
}

/** FAILED_PRECONDITION when it cannot be done to what there is; null: nothing changes. */
export function orderedRebalance(
  record: RebalanceRecord | null,
  order: 'pause' | 'resume' | 'stop',
  nowWallMs: number,
): RebalanceRecord | null {
  if (!record) throw noneUnderWay(order, 'none was ever begun');
  if (!isUnderWay(record)) {
    if (order === 'stop') return null;
    throw noneUnderWay(order, `the last one is ${record.state}`);
  }
  if (order === 'stop') return endedRebalance(record, 'stopped', 'it was called off', nowWallMs);
  const state = order === 'pause' ? 'paused' : 'running';
  return record.state === state ? null : { ...record, state };
}

function noneUnderWay(order: string, why: string): StorError {
  return new StorError(
    'FAILED_PRECONDITION',
    `there is no rebalance to ${order}: ${why}; begin one with "storctl cluster rebalance start"`,
  );
}

/** The settings with changes (null or absent: as it is). INVALID_ARGUMENT says what they may be. */
export function changedRebalance(
  settings: RebalanceSettings,
  changes: { [K in keyof RebalanceSettings]?: number | null },
): RebalanceSettings {
  const next = {
    bandPercent: changes.bandPercent ?? settings.bandPercent,
    bytesPerSecond: changes.bytesPerSecond ?? settings.bytesPerSecond,
    maxMoves: changes.maxMoves ?? settings.maxMoves,
    stopAfter: changes.stopAfter ?? settings.stopAfter,
  };
  const { bandPercent, bytesPerSecond, maxMoves, stopAfter } = next;
  const isBand = bandPercent >= minBandPercent && bandPercent <= maxBandPercent;
  if (!isBand) {
    throw invalid(
      `a band of ${bandPercent}% is not possible: give ${minBandPercent}% to ${maxBandPercent}%`,
    );
  }
  const isRate = bytesPerSecond === 0 || bytesPerSecond >= minBudgetBytes;
  if (!Number.isSafeInteger(bytesPerSecond) || !isRate) {
    throw invalid(
      `a budget of ${bytesPerSecond} bytes per second is not possible: give 0 (none), or at least 1MiB/s`,
    );
  }
  if (!Number.isInteger(maxMoves) || maxMoves < 1 || maxMoves > maxMovesAtOnce) {
    throw invalid(`${maxMoves} moves at one time are not possible: give 1 to ${maxMovesAtOnce}`);
  }
  if (!Number.isInteger(stopAfter) || stopAfter < 0 || stopAfter > maxStopAfter) {
    throw invalid(`it cannot stop after ${stopAfter} moves: give 0 (never) to ${maxStopAfter}`);
  }
  return next;
}

const minBandPercent = 0.1;
const maxBandPercent = 50;
const minBudgetBytes = 1024 * 1024;
/** As many as may move in the cluster for any reason. */
export const maxMovesAtOnce = 4;
const maxStopAfter = 1_000_000;

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
