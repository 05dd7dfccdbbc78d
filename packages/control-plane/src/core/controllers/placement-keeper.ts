import type { DiskId, EventNote, ReplicaId, SegmentStatus, VolumeId } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import type { PlacementBoard } from '../placement/placement-board.ts';
import { needOf } from '../placement/place-replicas.ts';
import { brokenRules, mendOf } from '../placement/placement-violations.ts';
import type { BrokenRule } from '../placement/placement-violations.ts';
import type { Place } from '../placement/rank.ts';
import type { Now } from './absence.ts';
import { maxFillsPerNode, noteFill } from './replica-keeper.ts';
import type { Fills, KeeperContext, ReplicaChange } from './replica-keeper.ts';
import { addReplica, isGood, staying } from './replica-rules.ts';
import type { ReplicaFacts } from './replica-rules.ts';

/** Labels and rules change seldom, and a look costs a look at every volume (ms). */
export const placementReviewMs = 5_000;
/** Replicas that move at one time in the cluster to keep a rule or to even out disks. */
export const maxMoves = 4;
/** First and longest wait between two moves of one volume that did not end as they should (ms). */
export const mendBackoffMs = 60_000;
export const maxMendBackoffMs = 3_600_000;

export interface PlacementMove {
  volume: Versioned<StoredVolume>;
  change: ReplicaChange;
}

interface Tried {
  tries: number;
  notBeforeMs: number;
}

/** What the keeper of replicas knows of a volume besides its record. */
export interface ReplicaKnowledge {
  factsOf(state: ClusterState, volume: StoredVolume, now: Now): ReplicaFacts;
  avoidedDisks(id: VolumeId, now: Now): [DiskId, string][];
}

/**
 * Looks now and then whether replicas lie where their rules want them, tells what is broken, and mends
 * required rules by moves: one replica of a volume at a time, and only while all its replicas are in
 * sync, so that the copy which leaves is one more than is wanted.
 */
export class PlacementKeeper {
  readonly #known = new Map<VolumeId, Map<string, string>>();
  readonly #tried = new Map<VolumeId, Tried>();
  #lookedMs = -Infinity;

  plan(
    state: ClusterState,
    context: KeeperContext,
    replicas: ReplicaKnowledge,
  ): { moves: PlacementMove[]; notes: EventNote[] } {
    const { now, board } = context;
    if (now.monotonicMs - this.#lookedMs < placementReviewMs) return { moves: [], notes: [] };
    this.#lookedMs = now.monotonicMs;
    const moves: PlacementMove[] = [];
    const notes: EventNote[] = [];
    for (const volume of state.volumes.values()) {
      const broken = brokenRules(board, volume.value);
      notes.push(...this.#tell(volume.value, broken));
      const required = broken.filter((rule) => rule.required && rule.replica !== null);
      if (required.length === 0) {
        this.#tried.delete(volume.value.metadata.id);
        continue;
      }
      const change = this.#mend(volume.value, required, context, replicas);
      if (change) moves.push({ volume, change });
    }
    for (const id of this.#known.keys()) if (!state.volumes.has(id)) this.#known.delete(id);
    for (const id of this.#tried.keys()) if (!state.volumes.has(id)) this.#tried.delete(id);
    return { moves, notes };
  }

  #mend(
    volume: StoredVolume,
    broken: readonly BrokenRule[],
    context: KeeperContext,
    replicas: ReplicaKnowledge,
  ): ReplicaChange | null {
    const { now, fills, board } = context;
    const { id, name } = volume.metadata;
    const tried = this.#tried.get(id) ?? { tries: 0, notBeforeMs: 0 };
    if (fills.moves >= maxMoves || now.monotonicMs < tried.notBeforeMs) return null;
    if (!mayMove(volume, replicas.factsOf(board.state, volume, now))) return null;
    const avoid = new Map([...busyDisks(board, fills), ...replicas.avoidedDisks(id, now)]);
    for (const rule of broken) {
      const mend = mendOf(board, volume, rule, avoid);
      if (!mend.from) continue;
      const waitMs = Math.min(mendBackoffMs * 2 ** tried.tries, maxMendBackoffMs);
      this.#tried.set(id, { tries: tried.tries + 1, notBeforeMs: now.monotonicMs + waitMs });
      const what = `volume ${name}: ${rule.message}`;
      return moveReplica(volume, rule.segment, mend.from.id, mend.place, { what, context });
    }
    return null;
  }

  #tell({ metadata }: StoredVolume, broken: readonly BrokenRule[]): EventNote[] {
    const before = this.#known.get(metadata.id) ?? new Map<string, string>();
    const now = new Map(
      broken.map(({ kind, segment, message }) => [`${kind} ${segment.index} ${message}`, message]),
    );
    const notes: EventNote[] = [];
    const object = { kind: 'volume' as const, id: metadata.id };
    for (const [key, message] of now) {
      if (before.has(key)) continue;
      const text = `placement of volume ${metadata.name}: ${message}`;
      notes.push({ type: 'warning', reason: 'placement-violated', object, message: text });
    }
    if (now.size > 0) this.#known.set(metadata.id, now);
    else if (this.#known.delete(metadata.id)) {
      const message = `the replicas of volume ${metadata.name} lie as its rules want it`;
      notes.push({ type: 'normal', reason: 'placement-kept', object, message });
    }
    return notes;
  }
}

/** Every replica is good and none comes or goes: one may move without a copy less meanwhile. */
export function mayMove(volume: StoredVolume, facts: ReplicaFacts): boolean {
  const { status, spec } = volume;
  if (status.phase !== 'ready' || status.growth || status.rollback) return false;
  if (spec.policy.rebuildPaused) return false;
  return status.segments.every((segment) => {
    const stay = staying(segment);
    return (
      stay.length === segment.replicas.length &&
      stay.length === spec.replicas &&
      stay.every((replica) => isGood(segment, replica, facts))
    );
  });
}

/** Disks of nodes that fill as many replicas as they may. */
export function busyDisks(board: PlacementBoard, fills: Fills): [DiskId, string][] {
  return [...fills.onNode]
    .filter(([, count]) => count >= maxFillsPerNode)
    .flatMap(([nodeId]) =>
      board.disksOf(nodeId).map(({ id }): [DiskId, string] => [id, 'is filling others']),
    );
}

/** A new replica there, to be filled, and the old one to leave after that; both counts are noted. */
export function moveReplica(
  volume: StoredVolume,
  segment: SegmentStatus,
  from: ReplicaId,
  place: Place,
  { what, context }: { what: string; context: KeeperContext },
): ReplicaChange {
  const { board, fills, now } = context;
  const leaving = {
    ...segment,
    replicas: segment.replicas.map((r) => (r.id === from ? { ...r, leaving: true } : r)),
  };
  const made = {
    id: context.newReplicaId(),
    purpose: 'move' as const,
    placedAtMs: now.wallMs,
  };
  const grown = addReplica(leaving, place, made);
  const segments = volume.status.segments.map((each) => (each === segment ? grown : each));
  board.note(place, needOf(board.state, volume, segment, 'repair'));
  fills.moves += 1;
  noteFill(fills, place.nodeId);
  const to = nodeName(board.state, place.nodeId);
  return {
    record: { ...volume, status: { ...volume.status, segments } },
    what: `a replica moves to node ${to}: ${what}`,
    forgotten: [],
  };
}
