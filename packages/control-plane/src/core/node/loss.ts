import { membersNeeded } from '@stor/protocol';
import type { NodePlan, SegmentStatus, VolumeReplica } from '@stor/protocol';
import { isForgotten, isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { nodesOf } from '../controllers/replica-sites.ts';

/** What goes away, and whether it may come back. */
export interface Departure {
  isAway(replica: Pick<VolumeReplica, 'nodeId' | 'diskId'>): boolean;
  forEver: boolean;
}

export type VolumeLoss = Omit<NodePlan['effects'][number], 'volume' | 'volumeId'>;

const rank = { healthy: 0, degraded: 1, suspended: 2, unavailable: 3, lost: 4 };
export type VolumeFate = keyof typeof rank;

/** The worst first, then by name. */
export function byRank(
  a: { becomes: VolumeFate; volume: string },
  b: { becomes: VolumeFate; volume: string },
): number {
  return rank[b.becomes] - rank[a.becomes] || (a.volume < b.volume ? -1 : 1);
}

/**
 * How the volume is served without what goes away, by the records: of the segment that has fewest
 * in-sync replicas left. Two replicas on one node count as one.
 */
export function fateOf(
  state: ClusterState,
  volume: StoredVolume,
  departure: Departure | null,
): { fate: VolumeFate; inSync: number } {
  const { spec, status } = volume;
  const counts = status.segments.map((segment) => nodesOf(serving(state, segment, departure)));
  const inSync = counts.length === 0 ? 0 : Math.min(...counts);
  if (inSync >= spec.replicas) return { fate: 'healthy', inSync };
  const isLost =
    departure?.forEver === true && status.segments.some((each) => isGone(state, each, departure));
  if (isLost) return { fate: 'lost', inSync };
  if (inSync === 0) return { fate: 'unavailable', inSync };
  const needed = membersNeeded(spec.policy.failureMode, spec.replicas);
  return { fate: inSync < needed ? 'suspended' : 'degraded', inSync };
}

/** What the volume loses against how it is `before` (null: as it is now); null when it loses nothing. */
export function lossOf(
  state: ClusterState,
  volume: StoredVolume,
  departure: Departure,
  before: Departure | null = null,
): VolumeLoss | null {
  const now = fateOf(state, volume, before);
  const { fate, inSync } = fateOf(state, volume, departure);
  if (fate === 'healthy' || (rank[fate] <= rank[now.fate] && inSync >= now.inSync)) return null;
  const wanted = volume.spec.replicas;
  const text = fateText(state, volume, { fate, inSync, departure });
  return { becomes: fate, inSync, wanted, text };
}

/**
 * A volume that nobody can serve now loses a copy for ever, and those that are left lie where nobody is up:
 * whether one of them comes back decides then. Null when that is not so.
 */
export function strandedBy(
  state: ClusterState,
  volume: StoredVolume,
  departure: Departure,
): VolumeLoss | null {
  const { fate, inSync } = fateOf(state, volume, departure);
  const goes = volume.status.segments.some(({ replicas, inSync: members }) =>
    replicas.some(
      (each) => members.includes(each.id) && each.state === 'ready' && departure.isAway(each),
    ),
  );
  if (fate !== 'unavailable' || !goes) return null;
  const text = fateText(state, volume, { fate, inSync, departure });
  return { becomes: fate, inSync, wanted: volume.spec.replicas, text };
}

/** In-sync replicas that can be reached: on nodes that are up, on disks that work. */
function serving(
  state: ClusterState,
  segment: SegmentStatus,
  departure: Departure | null,
): VolumeReplica[] {
  return segment.replicas.filter(
    (replica) =>
      replica.state === 'ready' &&
      segment.inSync.includes(replica.id) &&
      isUp(state, replica.nodeId) &&
      state.disks.get(replica.diskId)?.value.state === 'online' &&
      departure?.isAway(replica) !== true,
  );
}

/**
 * Every replica that has all acknowledged writes goes away for ever, or has failed, or is gone already with
 * its node: the leader may not have come to recording that.
 */
function isGone(state: ClusterState, segment: SegmentStatus, departure: Departure): boolean {
  const members = segment.replicas.filter(
    (replica) =>
      segment.inSync.includes(replica.id) &&
      replica.state !== 'failed' &&
      !isForgotten(state, replica.nodeId),
  );
  return members.every((replica) => departure.isAway(replica));
}

/** What that means for who uses the volume. */
export function fateText(
  state: ClusterState,
  volume: StoredVolume,
  what: { fate: VolumeFate; inSync: number; departure: Departure },
): string {
  const { fate, inSync, departure } = what;
  const { replicas: wanted, policy } = volume.spec;
  const { segments } = volume.status;
  const worst = segments.length > 1 ? ` in the worst of ${segments.length} segments` : '';
  const count = `${inSync} of ${wanted} replicas in sync${worst}`;
  switch (fate) {
    case 'healthy':
      return count;
    case 'degraded':
      return `${count}, and it is served`;
    case 'suspended': {
      const needed = membersNeeded(policy.failureMode, wanted);
      const held = policy.onLoss === 'error' ? 'writes get errors' : 'I/O is held';
      return `${count}: ${held}, because failure mode ${policy.failureMode} needs ${needed}`;
    }
    case 'unavailable':
      return `${count}: nobody can serve it until one is back`;
    case 'lost': {
      const older = segments.flatMap((segment) =>
        segment.replicas.filter(
          (each) =>
            each.state === 'ready' && !segment.inSync.includes(each.id) && !departure.isAway(each),
        ),
      );
      const nodes = [...new Set(older.map(({ nodeId }) => nodeName(state, nodeId)))].join(', ');
      const rest = nodes === '' ? '' : `; ${nodes} has an older one, which is not used by itself`;
      return `no in-sync copy${worst} is left${rest}`;
    }
  }
}
