import type { DiskId, ReplicaId, SegmentStatus, VolumeReplica } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { ReplicaReport, StoredVolume } from '../../resources/records.ts';
import { isEvacuated } from '../node/node-intent.ts';
import { isDraining } from '../placement/disk-room.ts';
import type { Place } from '../placement/place-replicas.ts';
import { nodesOf } from './replica-sites.ts';

/**
 * The rules by which the replicas of a volume come and go while it is in use. Each is a change of
 * one segment, or null when there is nothing to do. None of them touches the in-sync set, which its
 * primary alone changes (I4); and a replica that the recorded set names is never removed.
 */
export interface ReplicaFacts {
  state: ClusterState;
  volume: StoredVolume;
  /** it failed for good or has been away for longer than the volume's replacement wait */
  isLost(replica: VolumeReplica): boolean;
}

/** In the recorded set, on a disk that works, on a node that is up. */
export function isGood(
  segment: SegmentStatus,
  replica: VolumeReplica,
  facts: ReplicaFacts,
): boolean {
  return (
    replica.state === 'ready' &&
    segment.inSync.includes(replica.id) &&
    isUp(facts.state, replica.nodeId) &&
    !facts.isLost(replica)
  );
}

export function staying(segment: SegmentStatus): VolumeReplica[] {
  return segment.replicas.filter((replica) => replica.leaving !== true);
}

/** A replica that is being made could not be, or took too long; why, in words. */
export interface CreationFailure {
  replica: VolumeReplica;
  reason: string;
}

export function failedCreations(
  segment: SegmentStatus,
  state: ClusterState,
  isTooLate: (replica: VolumeReplica) => boolean,
): CreationFailure[] {
  return segment.replicas.flatMap((replica) => {
    if (replica.state !== 'creating') return [];
    const report: ReplicaReport | undefined = state.reports.get(replica.id)?.value;
    if (report?.state === 'ready') return [];
    const node = nodeName(state, replica.nodeId);
    if (report?.state === 'failed') {
      const path = state.disks.get(replica.diskId)?.value.path ?? replica.diskId;
      const reason = `disk ${path} of node ${node} could not take a replica: ${report.message}`;
      return [{ replica, reason }];
    }
    if (!isTooLate(replica)) return [];
    const why = isUp(state, replica.nodeId) ? 'did not make a replica in time' : 'went down';
    return [{ replica, reason: `node ${node} ${why}` }];
  });
}

/** Added replicas that are on their disks become members to be; those that failed are given up. */
export function settleCreations(
  segment: SegmentStatus,
  state: ClusterState,
  failed: readonly CreationFailure[],
): SegmentStatus | null {
  const gone = new Set(failed.map(({ replica }) => replica.id));
  const isMade = (replica: VolumeReplica): boolean =>
    replica.state === 'creating' && state.reports.get(replica.id)?.value.state === 'ready';
  if (gone.size === 0 && !segment.replicas.some(isMade)) return null;
  const left = remove(segment, (replica) => gone.has(replica.id));
  const replicas = left.replicas.map((replica) =>
    isMade(replica) ? { ...replica, state: 'ready' as const } : replica,
  );
  return { ...left, replicas };
}

/** Leaving replicas that the set does not name any more are parted with: their nodes delete them. */
export function dropLeaving(segment: SegmentStatus): SegmentStatus | null {
  const isOut = (replica: VolumeReplica): boolean =>
    replica.leaving === true && !isNeeded(segment, replica.id);
  return segment.replicas.some(isOut) ? remove(segment, isOut) : null;
}

/**
 * Removed replicas of which their nodes say that they are deleted, and the segment without them. On a
 * disk that was taken out of the cluster as lost nobody deletes them any more.
 */
export function forgetRemoved(
  segment: SegmentStatus,
  state: ClusterState,
): { segment: SegmentStatus; forgotten: ReplicaId[] } | null {
  const removed = segment.removed ?? [];
  const isDeleted = ({ id, diskId }: { id: ReplicaId; diskId: DiskId }): boolean =>
    state.reports.get(id)?.value.state === 'deleted' || !state.disks.has(diskId);
  const forgotten = removed.filter(isDeleted).map(({ id }) => id);
  if (forgotten.length === 0) return null;
  return { segment: { ...segment, removed: removed.filter((r) => !isDeleted(r)) }, forgotten };
}

/** What a segment lacks: one more replica, and why. */
export interface Lack {
  purpose: 'replacement' | 'update' | 'move';
}

/**
 * Whether another replica should be placed: those that stay lie on fewer nodes than are wanted, or some
 * are lost, or lie on a disk that is to be emptied. Null while nothing could fill it.
 */
export function lacks(segment: SegmentStatus, facts: ReplicaFacts): Lack | null {
  const stay = staying(segment);
  const wanted = facts.volume.spec.replicas;
  const able = stay.filter((replica) => !facts.isLost(replica));
  const settled = able.filter((replica) => !liesOnDraining(replica, facts));
  if (nodesOf(settled) >= wanted) return null;
  if (!segment.replicas.some((replica) => isGood(segment, replica, facts))) return null;
  if (nodesOf(stay) < wanted) return { purpose: 'update' };
  return { purpose: nodesOf(able) < wanted ? 'replacement' : 'move' };
}

/** Its disk had errors, or an operator wants that, or its node, empty. */
export function liesOnDraining(replica: VolumeReplica, { state }: ReplicaFacts): boolean {
  const { diskId, nodeId } = replica;
  return isDraining(state.disks.get(diskId)?.value) || isEvacuated(state.nodes.get(nodeId)?.value);
}

/**
 * A replica that is to leave and is still good stays after all, when those that should take its
 * place are lost or could not be made: that costs no copy.
 */
export function takeBack(segment: SegmentStatus, facts: ReplicaFacts): SegmentStatus | null {
  const able = staying(segment).filter((replica) => !facts.isLost(replica));
  if (nodesOf(able) >= facts.volume.spec.replicas) return null;
  const isTaken = ({ nodeId }: VolumeReplica): boolean => able.some((r) => r.nodeId === nodeId);
  const kept = segment.replicas.find(
    (replica) => replica.leaving === true && isGood(segment, replica, facts) && !isTaken(replica),
  );
  if (!kept) return null;
  const replicas = segment.replicas.map((replica) =>
    replica === kept ? withoutLeaving(replica) : replica,
  );
  return { ...segment, replicas };
}

export function addReplica(
  segment: SegmentStatus,
  place: Place,
  made: { id: ReplicaId; purpose: NonNullable<VolumeReplica['purpose']>; placedAtMs: number },
): SegmentStatus {
  const replica: VolumeReplica = { ...made, ...place, state: 'creating' };
  return { ...segment, replicas: [...segment.replicas, replica] };
}

/**
 * Marks one replica as leaving when more stay than are wanted and enough of them are good without
 * it, or when a good one on another disk of its node has taken its place. Those that are worth least go first; among equals the newest, so that what was there stays.
 * What is filled in place of one on a disk that is to be emptied is no surplus: the latter goes.
 */
export function shedSurplus(segment: SegmentStatus, facts: ReplicaFacts): SegmentStatus | null {
  const stay = staying(segment);
  const wanted = facts.volume.spec.replicas;
  const kept = stay.filter((replica) => !liesOnDraining(replica, facts));
  const good = stay.filter((replica) => isGood(segment, replica, facts));
  const candidates = stay.filter((replica) => {
    const others = good.filter((other) => other !== replica && other.nodeId === replica.nodeId);
    // the one on a disk that is to be emptied succeeds nobody who stays
    if (others.some((other) => kept.includes(other) || !kept.includes(replica))) return true;
    if (nodesOf(stay) <= wanted) return false;
    if (kept.includes(replica) && nodesOf(kept) <= wanted) return false;
    return nodesOf(good.filter((other) => other !== replica)) >= wanted;
  });
  const worth = (replica: VolumeReplica): number => worthOf(segment, replica, facts);
  candidates.sort((a, b) => worth(a) - worth(b) || (b.placedAtMs ?? 0) - (a.placedAtMs ?? 0));
  const goes = candidates[0];
  if (!goes) return null;
  const replicas = segment.replicas.map((replica) =>
    replica === goes ? { ...replica, leaving: true } : replica,
  );
  return { ...segment, replicas };
}

function worthOf(segment: SegmentStatus, replica: VolumeReplica, facts: ReplicaFacts): number {
  if (replica.state === 'failed') return 0;
  if (facts.isLost(replica)) return 1;
  if (!isUp(facts.state, replica.nodeId)) return 2;
  if (replica.state === 'creating') return 3;
  if (!segment.inSync.includes(replica.id)) return 4;
  if (liesOnDraining(replica, facts)) return 4.5;
  const { attachment } = facts.volume.status;
  const users = [facts.volume.spec.attachTo, attachment?.nodeId];
  // reads are served from the replica on the primary's own node
  if (users.includes(replica.nodeId)) return 7;
  return replica.purpose === 'replacement' ? 5 : 6;
}

/** Moves replicas out of the segment, to be deleted by their nodes. Never one of the in-sync set. */
function remove(segment: SegmentStatus, isOut: (replica: VolumeReplica) => boolean): SegmentStatus {
  const out = segment.replicas.filter((r) => isOut(r) && !isNeeded(segment, r.id));
  if (out.length === 0) return segment;
  const removed = out.map(({ id, nodeId, diskId }) => ({ id, nodeId, diskId }));
  return {
    ...segment,
    replicas: segment.replicas.filter((replica) => !out.includes(replica)),
    removed: [...(segment.removed ?? []), ...removed],
  };
}

/** In the set, or in the one before it that may have to stand in for it. */
function isNeeded({ inSync, unconfirmed }: SegmentStatus, id: ReplicaId): boolean {
  return inSync.includes(id) || unconfirmed?.members.includes(id) === true;
}

function withoutLeaving({ leaving: _leaving, ...replica }: VolumeReplica): VolumeReplica {
  return replica;
}
