import type {
  DiskId,
  NodeId,
  ReplicaId,
  SegmentStatus,
  VolumeId,
  VolumeReplica,
} from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { unsettledVolumes } from '../../resources/state-index.ts';
import type { PlacementBoard } from '../placement/placement-board.ts';
import { needOf, placeAnother } from '../placement/place-replicas.ts';
import type { Absence, Now } from './absence.ts';
import { sitesOf } from './replica-sites.ts';
import {
  addReplica,
  dropLeaving,
  failedCreations,
  forgetRemoved,
  isGood,
  lacks,
  liesOnDraining,
  settleCreations,
  shedSurplus,
  takeBack,
} from './replica-rules.ts';
import type { CreationFailure, ReplicaFacts } from './replica-rules.ts';

/** An added replica that is not on its disk after this is placed elsewhere (ms). */
export const addPatienceMs = 60_000;
/** First and longest wait between two tries to place another replica of one volume (ms). */
export const placeBackoffMs = 2_000;
export const placeBackoffMaxMs = 300_000;
/** A disk that could not take a replica is left alone by its volume for so long (ms). */
export const avoidDiskMs = 600_000;
/**
 * Replacements under way at one time in the cluster, and replicas being filled on one node: one dead
 * node must not make all others copy at once, which would slow down every client.
 */
export const maxReplacements = 8;
export const maxFillsPerNode = 2;
/** A replacement that is not filled after this counts no more (ms): stuck ones must not stop all. */
export const fillPatienceMs = 3_600_000;

/** A change of a volume's record, what to say of it, and reports that are not needed any more. */
export interface ReplicaChange {
  record: StoredVolume;
  what: string;
  forgotten: ReplicaId[];
}

interface Trouble {
  tries: number;
  notBeforeMs: number;
  /** replicas whose failure was counted, so that one is counted once */
  counted: Set<ReplicaId>;
  avoid: Map<DiskId, number>;
}

/** What one look at all volumes has in common. */
export interface KeeperContext {
  now: Now;
  fills: Fills;
  board: PlacementBoard;
  newReplicaId: () => ReplicaId;
}

/** What is being filled now, over all volumes. */
export interface Fills {
  replacements: number;
  /** to keep a rule of placement, or to even out disks */
  moves: number;
  onNode: Map<NodeId, number>;
}

/** Counts replicas that are being made or filled and can be; those that cannot must block no other. */
export function countFills(state: ClusterState, nowWallMs: number): Fills {
  const fills: Fills = { replacements: 0, moves: 0, onNode: new Map() };
  for (const { value: volume } of unsettledVolumes(state.volumes)) {
    const { status, spec } = volume;
    if (status.phase !== 'ready' || spec.policy.rebuildPaused) continue;
    for (const segment of status.segments) {
      const sources = segment.replicas.filter(
        (r) => r.state === 'ready' && segment.inSync.includes(r.id) && isUp(state, r.nodeId),
      );
      if (sources.length === 0) continue;
      for (const replica of segment.replicas) {
        if (replica.leaving === true || replica.state === 'failed') continue;
        if (segment.inSync.includes(replica.id) || !isUp(state, replica.nodeId)) continue;
        const isRecent = nowWallMs - (replica.placedAtMs ?? 0) < fillPatienceMs;
        if (replica.purpose === 'replacement' && isRecent) fills.replacements += 1;
        if (replica.purpose === 'move' && isRecent) fills.moves += 1;
        noteFill(fills, replica.nodeId);
      }
    }
  }
  return fills;
}

export function noteFill(fills: Fills, nodeId: NodeId): void {
  fills.onNode.set(nodeId, (fills.onNode.get(nodeId) ?? 0) + 1);
}

/**
 * Keeps each volume at its number of replicas: places what lacks, lets surplus go, gives up what
 * could not be made. It remembers only what failed lately; all else is in the records.
 */
export class ReplicaKeeper {
  readonly #absence: Absence;
  readonly #troubles = new Map<VolumeId, Trouble>();
  readonly #creatingSinceMs = new Map<ReplicaId, number>();

  constructor(absence: Absence) {
    this.#absence = absence;
  }

  /** The next change of this volume, or null. `fills` counts what this adds. */
  plan(
    state: ClusterState,
    volume: Versioned<StoredVolume>,
    context: KeeperContext,
  ): ReplicaChange | null {
    const { now } = context;
    const facts = this.factsOf(state, volume.value, now);
    for (const segment of volume.value.status.segments) {
      const change =
        this.#settle(segment, facts, now) ??
        this.#forget(segment, facts) ??
        this.#part(segment, facts) ??
        this.#grow(segment, facts, context);
      if (change) return change;
    }
    return this.#whole(facts);
  }

  /** Nothing lacks in any segment: what failed before is over. */
  #whole(facts: ReplicaFacts): ReplicaChange | null {
    const { metadata, spec, status } = facts.volume;
    for (const segment of status.segments) {
      const good = segment.replicas.filter((replica) => isGood(segment, replica, facts));
      if (lacks(segment, facts) || good.length < spec.replicas) return null;
    }
    this.#troubles.delete(metadata.id);
    const [first] = status.segments;
    if (!first || status.message === '') return null;
    const what = 'every replica that is wanted is in sync';
    return change(facts.volume, first, first, { what, message: '' });
  }

  factsOf(state: ClusterState, volume: StoredVolume, now: Now): ReplicaFacts {
    const waitMs = volume.spec.policy.replacementWaitMs;
    return {
      state,
      volume,
      isLost: (replica) => this.#absence.isLost(state, replica, waitMs, now),
    };
  }

  /** Forgets volumes and replicas that are gone. */
  forget(state: ClusterState): void {
    for (const id of this.#troubles.keys()) if (!state.volumes.has(id)) this.#troubles.delete(id);
    if (this.#creatingSinceMs.size === 0) return;
    const known = new Set<ReplicaId>();
    for (const { value } of unsettledVolumes(state.volumes)) {
      for (const { replicas } of value.status.segments) {
        for (const { id, state: at } of replicas) if (at === 'creating') known.add(id);
      }
    }
    for (const id of this.#creatingSinceMs.keys()) {
      if (!known.has(id)) this.#creatingSinceMs.delete(id);
    }
  }

  #settle(segment: SegmentStatus, facts: ReplicaFacts, now: Now): ReplicaChange | null {
    for (const { id, state } of segment.replicas) {
      if (state !== 'creating' || this.#creatingSinceMs.has(id)) continue;
      this.#creatingSinceMs.set(id, now.monotonicMs);
    }
    const failed = failedCreations(segment, facts.state, ({ id }) => {
      const sinceMs = this.#creatingSinceMs.get(id) ?? now.monotonicMs;
      return now.monotonicMs - sinceMs > addPatienceMs;
    });
    const settled = settleCreations(segment, facts.state, failed);
    if (!settled) return null;
    for (const failure of failed) this.#noteTrouble(facts.volume.metadata.id, failure, now);
    const message = failed[0]?.reason ?? '';
    const what = message === '' ? 'an added replica is on its disk' : message;
    return change(facts.volume, segment, settled, { what, message });
  }

  #forget(segment: SegmentStatus, facts: ReplicaFacts): ReplicaChange | null {
    const result = forgetRemoved(segment, facts.state);
    if (!result) return null;
    const { forgotten } = result;
    return change(facts.volume, segment, result.segment, {
      what: 'removed replicas are deleted',
      forgotten,
    });
  }

  #part(segment: SegmentStatus, facts: ReplicaFacts): ReplicaChange | null {
    const parted = dropLeaving(segment);
    if (parted) return change(facts.volume, segment, parted, { what: 'a replica has left' });
    const kept = takeBack(segment, facts);
    if (kept) return change(facts.volume, segment, kept, { what: 'a leaving replica stays' });
    const shed = shedSurplus(segment, facts);
    if (shed) return change(facts.volume, segment, shed, { what: 'a replica is to leave' });
    return null;
  }

  #grow(segment: SegmentStatus, facts: ReplicaFacts, context: KeeperContext): ReplicaChange | null {
    const { now, fills } = context;
    const { metadata, spec } = facts.volume;
    const lack = lacks(segment, facts);
    if (!lack) return null;
    if (spec.policy.rebuildPaused) return null;
    if (lack.purpose === 'replacement' && fills.replacements >= maxReplacements) return null;
    const trouble = this.#troubles.get(metadata.id);
    if (trouble && now.monotonicMs < trouble.notBeforeMs) return null;
    const isReplaced = (replica: VolumeReplica): boolean =>
      facts.isLost(replica) || liesOnDraining(replica, facts);
    const sites = sitesOf(segment, facts.state, lack.purpose === 'update' ? undefined : isReplaced);
    for (const [nodeId, count] of fills.onNode) {
      if (count >= maxFillsPerNode && !sites.taken.has(nodeId)) {
        sites.taken.set(nodeId, 'is filling others');
      }
    }
    for (const [diskId, why] of this.avoidedDisks(metadata.id, now)) sites.avoid.set(diskId, why);
    const need = needOf(facts.state, facts.volume, segment, 'repair');
    const { place } = placeAnother(context.board, sites, need, lack.purpose);
    if (!place) return null;
    if (lack.purpose === 'replacement') fills.replacements += 1;
    noteFill(fills, place.nodeId);
    context.board.note(place, need);
    const made = { id: context.newReplicaId(), purpose: lack.purpose, placedAtMs: now.wallMs };
    const grown = addReplica(segment, place, made);
    return change(facts.volume, segment, grown, { what: `another replica (${lack.purpose})` });
  }

  #noteTrouble(id: VolumeId, failure: CreationFailure, now: Now): void {
    const trouble = this.#troubles.get(id) ?? {
      tries: 0,
      notBeforeMs: 0,
      counted: new Set<ReplicaId>(),
      avoid: new Map<DiskId, number>(),
    };
    this.#troubles.set(id, trouble);
    if (trouble.counted.has(failure.replica.id)) return;
    trouble.counted.add(failure.replica.id);
    const waitMs = Math.min(placeBackoffMs * 2 ** trouble.tries, placeBackoffMaxMs);
    trouble.tries += 1;
    trouble.notBeforeMs = now.monotonicMs + waitMs;
    trouble.avoid.set(failure.replica.diskId, now.monotonicMs + avoidDiskMs);
  }

  /** Disks that lately could not take a replica of the volume, and why not. */
  avoidedDisks(id: VolumeId, now: Now): [DiskId, string][] {
    const avoid = [...(this.#troubles.get(id)?.avoid ?? [])];
    const still = avoid.filter(([, untilMs]) => now.monotonicMs < untilMs);
    return still.map(([diskId]) => [diskId, 'could not take one lately']);
  }
}

function change(
  volume: StoredVolume,
  old: SegmentStatus,
  segment: SegmentStatus,
  options: { what: string; message?: string; forgotten?: ReplicaId[] },
): ReplicaChange {
  const { status } = volume;
  const segments = status.segments.map((other) => (other === old ? segment : other));
  const message = options.message ?? status.message;
  const record = { ...volume, status: { ...status, segments, message } };
  return { record, what: options.what, forgotten: options.forgotten ?? [] };
}
