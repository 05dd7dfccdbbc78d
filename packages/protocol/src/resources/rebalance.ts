import type { DiskId, ReplicaId, VolumeId } from '../ids.ts';

/** How replicas are moved so that disks are about equally full. */
export interface RebalanceSettings {
  /** it ends when the fullest and the emptiest disk of each pool differ by at most this (percent points) */
  bandPercent: number;
  /** of replicas that begin to move, on average; 0: as fast as rebuilds are (bytes per second) */
  bytesPerSecond: number;
  /** replicas that move at one time in the cluster, one of a volume */
  maxMoves: number;
  /** it ends after so many moves; 0: only when nothing is left to do */
  stopAfter: number;
}

/** A replica that goes from one disk to another one. */
export interface RebalanceMove {
  volume: string;
  volumeId: VolumeId;
  segment: number;
  /** the one that leaves */
  replicaId: ReplicaId;
  fromNode: string;
  fromDiskId: DiskId;
  /** path */
  fromDisk: string;
  toNode: string;
  toDiskId: DiskId;
  toDisk: string;
  /** what the replica takes */
  bytes: number;
}

/** How unequal the disks of one tag are: of each the share that volumes take of it. */
export interface PoolSpread {
  /** '': disks without a tag */
  tag: string;
  /** disks that take part */
  disks: number;
  lowestPercent: number;
  highestPercent: number;
  /** after the moves under way and the planned ones */
  plannedLowestPercent: number;
  plannedHighestPercent: number;
}

/** `storctl cluster rebalance status`. */
export interface Rebalance {
  /**
   * idle: none was ever begun; waiting: something goes before it; finished: nothing is left that would
   * help; stopped: by an order or because too much failed
   */
  state: 'idle' | 'running' | 'waiting' | 'paused' | 'finished' | 'stopped';
  /** why it waits, or how it ended; '' else */
  message: string;
  settings: RebalanceSettings;
  startedAtMs: number | null;
  endedAtMs: number | null;
  /** replicas that have moved since it began */
  moved: number;
  movedBytes: number;
  /** moves that did not work: the replica stayed where it was */
  failed: number;
  moving: RebalanceMove[];
  /** what would move next, the most useful first; the beginning of a longer list */
  planned: RebalanceMove[];
  /** of all planned moves, as far as they were counted */
  plannedMoves: number;
  plannedBytes: number;
  /** false: there are more moves than were counted */
  planIsWhole: boolean;
  pools: PoolSpread[];
  rate: { bytesPerSecond: number; source: 'measured' | 'assumed' | 'budget' };
  /** until what moves and what is planned has moved; null: it does not run */
  etaMs: number | null;
}
