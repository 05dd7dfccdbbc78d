import { formatByteSize } from '@stor/protocol';
import type { SegmentStatus, Volume, VolumeExplanation, VolumeReplica } from '@stor/protocol';
import type { LiveReplica } from '../../agent-port.ts';
import { isForgotten, isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { countFills, maxFillsPerNode, maxReplacements } from '../controllers/replica-keeper.ts';
import { isGoing, sitesOf } from '../controllers/replica-sites.ts';
import { isEvacuated } from '../node/node-intent.ts';
import { isDraining } from '../placement/disk-room.ts';
import { needOf, placeAnother } from '../placement/place-replicas.ts';
import { noSpaceText } from './describe-volume.ts';
import { formatWait } from './volume-sight.ts';
import type { VolumeSight } from './volume-sight.ts';

type Cause = VolumeExplanation['causes'][number];

/** Why one replica is not in sync, what becomes of it, and what a person can do. */
export interface ReplicaStory {
  causes: Cause[];
  next: string[];
  advice: string[];
}

const purposes: Record<NonNullable<VolumeReplica['purpose']>, string> = {
  volume: '',
  replacement: ' (it replaces a lost one)',
  move: ' (a replica moves there)',
  update: ' (one more is wanted)',
};

export function explainReplica(
  sight: VolumeSight,
  segment: SegmentStatus,
  replica: VolumeReplica,
  shown: Volume['status']['replicas'][number]['state'],
): ReplicaStory {
  const { state } = sight;
  const node = nodeName(state, replica.nodeId);
  const seen = sight.live?.replicas.find(({ replicaId }) => replicaId === replica.id);
  const why = purposes[replica.purpose ?? 'volume'];
  switch (shown) {
    case 'in-sync':
      return explainInSync(sight, segment, replica, seen?.noSpace === true);
    case 'node-down':
      return explainDown(sight, segment, replica);
    case 'failed': {
      const message = isForgotten(state, replica.nodeId)
        ? 'the node has left the cluster for ever'
        : (state.reports.get(replica.id)?.value.message ?? '');
      const text = `the replica on node ${node} failed for good${message === '' ? '' : `: ${message}`}`;
      return { causes: [{ text, sinceMs: null }], ...explainReplacement(sight, segment, replica) };
    }
    case 'creating':
      return {
        causes: [
          {
            text: `a replica is being created on node ${node}${why}`,
            sinceMs: replica.placedAtMs ?? null,
          },
        ],
        next: [],
        advice: [],
      };
    case 'syncing':
      return explainSync(replica, seen, node, why);
    case 'out-of-sync':
      return explainBehind(sight, segment, replica, seen, node);
  }
}

function explainInSync(
  sight: VolumeSight,
  segment: SegmentStatus,
  replica: VolumeReplica,
  noSpace: boolean,
): ReplicaStory {
  const next = leavingText(sight, segment, replica);
  if (!noSpace) return { causes: [], next, advice: [] };
  const text = noSpaceText(sight.state, replica);
  return {
    causes: [{ text, sinceMs: null }],
    next: [...next, 'writes that need a new chunk go on by themselves when there is space'],
    advice: ['free space on that disk, trim or delete what is not needed, or move a replica away'],
  };
}

function explainDown(
  sight: VolumeSight,
  segment: SegmentStatus,
  replica: VolumeReplica,
): ReplicaStory {
  const { state, volume } = sight;
  const node = nodeName(state, replica.nodeId);
  const sinceMs = state.nodes.get(replica.nodeId)?.value.downSinceMs ?? null;
  const cause = { text: `node ${node}, which has a replica, is down`, sinceMs };
  const back =
    replica.leaving === true
      ? `the replica on node ${node} is to leave and is not waited for`
      : replica.purpose !== undefined && replica.filled !== true
        ? `when node ${node} is back, its new replica is filled further`
        : `when node ${node} is back, only what was written meanwhile is copied to it`;
  const waitMs = volume.value.spec.policy.replacementWaitMs;
  // in a maintenance it is not replaced before that is over
  const { untilMs = 0 } = state.nodes.get(replica.nodeId)?.value.spec?.maintenance ?? {};
  const dueMs = sinceMs === null ? null : Math.max(sinceMs + waitMs, untilMs);
  const advice = [`start the agent on node ${node}`];
  if (replica.leaving === true) return { causes: [cause], next: [back], advice: [] };
  if (!hasSource(segment, state)) {
    // nothing else could fill another replica, so none is placed
    const needed = `the replica on node ${node} has all that was acknowledged: it is waited for, and not replaced meanwhile`;
    const isMember = segment.inSync.includes(replica.id);
    return { causes: [cause], next: isMember ? [needed] : [], advice };
  }
  if (dueMs !== null && sight.nowWallMs < dueMs) {
    const at = `${sight.timeText(dueMs)}, in ${formatWait(dueMs - sight.nowWallMs)}`;
    const { place, reason } = placeText(sight, segment);
    const replaced =
      place !== null
        ? `if node ${node} is not back by ${at}, its replica is replaced on another node (now node ${place} would be taken)`
        : `if node ${node} is not back by ${at}, its replica is to be replaced, and at present no node can take it: ${reason}`;
    return { causes: [cause], next: [back, replaced], advice };
  }
  const replacement = explainReplacement(sight, segment, replica);
  return {
    causes: [cause],
    next: [back, ...replacement.next],
    advice: [...advice, ...replacement.advice],
  };
}

/** For a replica that counts as lost: by what it is replaced, or why not. */
function explainReplacement(
  sight: VolumeSight,
  segment: SegmentStatus,
  replica: VolumeReplica,
): { next: string[]; advice: string[] } {
  const { volume, state } = sight;
  const { name } = volume.value.metadata;
  const node = nodeName(state, replica.nodeId);
  const { replicas: wanted, policy } = volume.value.spec;
  const stay = segment.replicas.filter((r) => r.leaving !== true);
  if (replica.leaving === true || stay.length > wanted) {
    return {
      next: [`the replica on node ${node} is given up once enough others are in sync`],
      advice: [],
    };
  }
  if (!hasSource(segment, state)) return { next: [], advice: [] };
  if (policy.rebuildPaused) {
    return {
      next: [
        `the replica on node ${node} is not replaced while rebuilds of this volume are paused`,
      ],
      advice: [`run "storctl rebuild resume ${name}"`],
    };
  }
  const { place, reason } = placeText(sight, segment);
  if (place === null) {
    return {
      next: [`the replica on node ${node} cannot be replaced: ${reason}`],
      advice: ['add a node, or a disk with "storctl disk add NODE PATH", or make room'],
    };
  }
  const fills = countFills(state, sight.nowWallMs);
  if (fills.replacements >= maxReplacements) {
    return {
      next: [
        `the replica on node ${node} waits to be replaced: ${fills.replacements} replacements are under way in the cluster, at most ${maxReplacements} at one time`,
      ],
      advice: [],
    };
  }
  return {
    next: [`the replica on node ${node} is about to be replaced on node ${place}`],
    advice: [],
  };
}

/** Some in-sync replica is on a node that is up: the others can be filled from it. */
export function hasSource(segment: SegmentStatus, state: ClusterState): boolean {
  return segment.replicas.some(
    (r) => r.state === 'ready' && segment.inSync.includes(r.id) && isUp(state, r.nodeId),
  );
}

function placeText(
  sight: VolumeSight,
  segment: SegmentStatus,
  purpose: 'replacement' | 'move' = 'replacement',
): { place: string | null; reason: string } {
  const { state } = sight;
  const sites = sitesOf(segment, state, (replica) => isGoing(state, replica));
  const { taken } = sites;
  for (const [nodeId, count] of countFills(state, sight.nowWallMs).onNode) {
    if (count >= maxFillsPerNode && !taken.has(nodeId)) taken.set(nodeId, 'is filling others');
  }
  const need = needOf(state, sight.volume.value, segment, 'repair');
  const found = placeAnother(state, sites, need, purpose);
  if (found.place) return { place: nodeName(state, found.place.nodeId), reason: '' };
  return { place: null, reason: found.refusals.join('; ') };
}

function explainSync(
  replica: VolumeReplica,
  seen: LiveReplica | undefined,
  node: string,
  why: string,
): ReplicaStory {
  const left = seen?.resync?.bytesRemaining ?? seen?.bytesRemaining ?? 0;
  const text = `the replica on node ${node} is being made equal${why}: ${formatByteSize(left)} left`;
  const rate = seen?.resync?.bytesPerSecond ?? 0;
  const next =
    rate > 0
      ? [`the replica on node ${node} is in sync in about ${formatWait((left / rate) * 1000)}`]
      : [`the replica on node ${node} joins the in-sync set when nothing is left`];
  return { causes: [{ text, sinceMs: replica.placedAtMs ?? null }], next, advice: [] };
}

function explainBehind(
  sight: VolumeSight,
  segment: SegmentStatus,
  replica: VolumeReplica,
  seen: LiveReplica | undefined,
  node: string,
): ReplicaStory {
  const { volume, state } = sight;
  const { name } = volume.value.metadata;
  const text = `the replica on node ${node} is out of sync`;
  const disk = state.disks.get(replica.diskId)?.value;
  if (disk && disk.state !== 'online') {
    const said = disk.message === '' ? '' : `: ${disk.message}`;
    return {
      causes: [
        {
          text: `disk ${disk.path} of node ${node}, which has a replica, is ${disk.state}${said}`,
          sinceMs: disk.unusableSinceMs ?? null,
        },
      ],
      next: [],
      advice: [`look at disk ${disk.path} of node ${node}`],
    };
  }
  if (volume.value.spec.policy.rebuildPaused) {
    return {
      causes: [{ text: `${text}, and rebuilds of this volume are paused`, sinceMs: null }],
      next: [],
      advice: [`run "storctl rebuild resume ${name}"`],
    };
  }
  const waits = seen?.resync?.state === 'waiting' ? seen.resync.message : '';
  const next: string[] = [];
  if (sight.live) next.push(`its primary brings the replica on node ${node} in sync`);
  else if (hasSource(segment, state) && !volume.value.status.attachment)
    next.push('a node attaches the volume by itself within seconds, to bring its replicas in sync');
  return {
    causes: [{ text: waits === '' ? text : `${text}: ${waits}`, sinceMs: null }],
    next,
    advice: [],
  };
}

function leavingText(sight: VolumeSight, segment: SegmentStatus, replica: VolumeReplica): string[] {
  if (replica.leaving !== true) return drainingText(sight, segment, replica);
  const node = nodeName(sight.state, replica.nodeId);
  const waitsFor = segment.replicas
    .filter((r) => r.leaving !== true && !segment.inSync.includes(r.id) && r.state !== 'failed')
    .map((r) => nodeName(sight.state, r.nodeId));
  const when =
    waitsFor.length === 0 ? 'leaves now' : `leaves when ${waitsFor.join(', ')} is in sync`;
  return [`the replica on node ${node} ${when}`];
}

/** Its disk is to be emptied, or had errors: it still serves, and goes when another took its place. */
function drainingText(
  sight: VolumeSight,
  segment: SegmentStatus,
  replica: VolumeReplica,
): string[] {
  const disk = sight.state.disks.get(replica.diskId)?.value;
  const isLeft = isEvacuated(sight.state.nodes.get(replica.nodeId)?.value);
  if (!disk || !(isDraining(disk) || isLeft)) return [];
  const node = nodeName(sight.state, replica.nodeId);
  const why = disk.trouble ?? (isLeft ? 'the node is being emptied' : 'it is being evacuated');
  const what = `the replica on node ${node} moves away from disk ${disk.path}: ${why}`;
  const isFilled = segment.replicas.some((r) => r.purpose === 'move' && r.leaving !== true);
  const { place, reason } = placeText(sight, segment, 'move');
  return place === null && !isFilled
    ? [`${what}; at present no node can take it: ${reason}`]
    : [what];
}
