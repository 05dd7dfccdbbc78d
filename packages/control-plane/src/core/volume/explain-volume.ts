import { membersNeeded } from '@stor/protocol';
import type { Attachment, Volume, VolumeExplanation, VolumeHealth } from '@stor/protocol';
import { isUp, nodeName, withNodeNames } from '../../resources/cluster-state.ts';
import { holderLives } from '../controllers/attachment-rules.ts';
import { countInSync, describeVolume } from './describe-volume.ts';
import { explainReplica, hasSource } from './explain-replica.ts';
import type { ReplicaStory } from './explain-replica.ts';
import { formatWait } from './volume-sight.ts';
import type { VolumeSight } from './volume-sight.ts';

const modes: Record<Attachment['mode'], string> = {
  auto: 'for clients that connected there',
  manual: 'by hand, until "storctl volume detach"',
  repair: 'to bring replicas in sync',
};

/** Why a volume is as it is, what happens next, and what a person can do. */
export function explainVolume(sight: VolumeSight): VolumeExplanation {
  const { volume, state, nodeId } = sight;
  const { metadata, status } = volume.value;
  const live = sight.live?.epoch === status.attachment?.epoch ? sight.live : null;
  const current = { ...sight, live };
  const described = describeVolume(volume, state, live, nodeId);
  const { health } = described.status;
  const stories = storiesOf(current, described);
  const own = [quorumStory(current), servingStory(current, health), holderStory(current)];
  const all = [...own, ...stories, messageStory(current)];
  const causes = all
    .flatMap((story) => story.causes)
    .map(({ text, sinceMs }) => ({ text: withNodeNames(state, text), sinceMs }));
  const policy = policyStory(current, described);
  return {
    name: metadata.name,
    volumeId: metadata.id,
    health,
    state: stateText(current, described),
    causes,
    holder: holderText(current),
    sinceMs: sinceOf(current, health, causes),
    next: unique([...policy.next, ...all.flatMap((story) => story.next)]),
    advice: unique([...policy.advice, ...all.flatMap((story) => story.advice)]),
  };
}

const nothing: ReplicaStory = { causes: [], next: [], advice: [] };

function unique(lines: string[]): string[] {
  return [...new Set(lines)];
}

function storiesOf(sight: VolumeSight, described: Volume): ReplicaStory[] {
  const { phase, segments } = sight.volume.value.status;
  if (phase !== 'ready') return [];
  const states = new Map(described.status.replicas.map(({ id, state }) => [id, state]));
  const stories = segments.flatMap((segment) =>
    segment.replicas.flatMap((replica) => {
      const state = states.get(replica.id);
      return state ? [explainReplica(sight, segment, replica, state)] : [];
    }),
  );
  return segments.length > 1 ? [mergedStory(stories)] : stories;
}

/** The same of many segments is said once, with their number. */
function mergedStory(stories: ReplicaStory[]): ReplicaStory {
  const counts = new Map<string, { cause: ReplicaStory['causes'][number]; count: number }>();
  for (const cause of stories.flatMap((story) => story.causes)) {
    const same = counts.get(cause.text);
    if (same) same.count += 1;
    else counts.set(cause.text, { cause, count: 1 });
  }
  return {
    causes: [...counts.values()].map(({ cause, count }) =>
      count === 1 ? cause : { ...cause, text: `${cause.text} (${count} segments)` },
    ),
    next: stories.flatMap((story) => story.next),
    advice: stories.flatMap((story) => story.advice),
  };
}

function stateText(sight: VolumeSight, described: Volume): string {
  const { spec } = sight.volume.value;
  const { health } = described.status;
  const count = countInSync(sight.volume.value, described.status.replicas);
  const of = `${count} of ${spec.replicas} ${spec.replicas === 1 ? 'replica' : 'replicas'} in sync`;
  const needed = membersNeeded(spec.policy.failureMode, spec.replicas);
  const rule = `failure mode ${spec.policy.failureMode} needs ${needed}`;
  const service = serviceText(sight);
  const readsGoOn = sight.live?.reason.includes('reads wait') ? 'reads wait too' : 'reads go on';
  const reads = sight.live ? readsGoOn : 'reads can be served';
  switch (health) {
    case 'creating':
      return 'its replicas are being created';
    case 'deleting':
      return 'its replicas are being deleted';
    case 'healthy':
      return sight.volume.value.status.attachment ? `${of}, ${service}` : `${of}, attached nowhere`;
    case 'degraded':
      return sight.volume.value.status.attachment
        ? `${of}, ${service}`
        : `${of}, attached nowhere; it can be used (${rule})`;
    case 'suspended': {
      const isError = sight.live ? sight.live.state === 'failing' : spec.policy.onLoss === 'error';
      if (reachesNone(sight)) {
        const io = isError ? 'reads and writes get errors' : 'reads and writes are held';
        return `${of}, and the node that holds it reaches no in-sync replica: ${io}`;
      }
      const writes = isError ? 'writes get errors' : 'writes are held';
      // enough of them on record: it waits for the set to shrink, and reads may wait with the leases
      if (sight.live?.state === 'holding' && count >= needed) {
        return `${of} on record, but the in-sync set is being changed: I/O is held until that is done`;
      }
      return `${of}, ${rule}: ${writes}, ${reads}`;
    }
    case 'unavailable':
      return sight.live
        ? `${of}, and the node that holds it does not serve it`
        : `${of}: nobody can serve it`;
  }
}

/** What a volume with enough replicas does for its clients. */
function serviceText({ live }: VolumeSight): string {
  if (!live) return 'but its holder says nothing of it';
  if (live.state === 'activating') return 'and its node is becoming primary: I/O waits for that';
  if (live.state === 'stopping') return 'and its node is giving it back';
  return 'reads and writes go on';
}

/** The primary is there, and in some segment no member of the recorded set is within its reach. */
function reachesNone({ live, volume }: VolumeSight): boolean {
  if (!live || live.replicas.length === 0) return false;
  const reached = new Set(
    live.replicas.filter((r) => r.state === 'in-sync').map((r) => r.replicaId),
  );
  return volume.value.status.segments.some(({ inSync }) => !inSync.some((id) => reached.has(id)));
}

function quorumStory(sight: VolumeSight): ReplicaStory {
  if (sight.isCurrent) return nothing;
  const node = nodeName(sight.state, sight.nodeId);
  return {
    causes: [
      {
        text: `the control plane has no quorum, so this is what node ${node} knew last`,
        sinceMs: null,
      },
    ],
    next: [
      'an attached volume goes on while no in-sync set must change; all else waits for the quorum',
    ],
    advice: ['start agents until more than half of the members of the control plane run'],
  };
}

/** What the primary says, when it does not simply serve. */
function servingStory(sight: VolumeSight, health: VolumeHealth): ReplicaStory {
  const { live, volume, state } = sight;
  if (!live || live.state === 'serving' || health === 'healthy') return nothing;
  const holder = volume.value.status.attachment;
  const node = holder ? nodeName(state, holder.nodeId) : '';
  const sinceMs = sight.nowWallMs - live.stateAgeMs;
  const reason = live.reason === '' ? '' : `: ${live.reason}`;
  const settle = live.settleBytesRemaining;
  switch (live.state) {
    case 'activating':
      return {
        causes: [{ text: `node ${node} is becoming primary${reason}`, sinceMs }],
        next: [],
        advice: [],
      };
    case 'holding':
      return {
        causes: [{ text: `the primary holds I/O${reason}`, sinceMs }],
        next: [],
        advice: [],
      };
    case 'failing':
      return {
        causes: [{ text: `the primary refuses writes${reason}`, sinceMs }],
        next: [],
        advice: [],
      };
    default:
      return {
        causes: [
          {
            text: `the primary is ${live.state}${reason}${settle > 0 ? ' (settling)' : ''}`,
            sinceMs,
          },
        ],
        next: [],
        advice: [],
      };
  }
}

/** A holder that is down or does not answer. */
function holderStory(sight: VolumeSight): ReplicaStory {
  const { volume, state, live } = sight;
  const { metadata, status } = volume.value;
  const holder = status.attachment;
  if (!holder || live) return nothing;
  const node = nodeName(state, holder.nodeId);
  const lease = state.leases.get(holder.nodeId)?.value ?? null;
  const silent = { text: `node ${node}, which holds it, does not answer`, sinceMs: null };
  // without a quorum nothing can be taken from it, and what is known of its lease is old
  if (!sight.isCurrent) return { causes: [silent], next: [], advice: [] };
  if (holderLives(holder, lease)) {
    return {
      causes: [silent],
      next: [
        `if node ${node} is dead, its node lease ends within seconds, and any node may attach the volume`,
      ],
      advice: [
        `if node ${node} does not come back and keeps its lease, run "storctl volume fence ${metadata.name}"`,
      ],
    };
  }
  return {
    causes: [
      {
        text: `the agent of node ${node}, which held it, has ended`,
        sinceMs: state.nodes.get(holder.nodeId)?.value.downSinceMs ?? null,
      },
    ],
    next: volume.value.status.segments.every((segment) => hasSource(segment, state))
      ? ['the next client that connects to any node gets it attached there']
      : [],
    advice: [],
  };
}

function messageStory(sight: VolumeSight): ReplicaStory {
  const { message } = sight.volume.value.status;
  return message === ''
    ? nothing
    : { causes: [{ text: message, sinceMs: null }], next: [], advice: [] };
}

/** What the volume's policy means now, and what an operator may change or give up. */
function policyStory(sight: VolumeSight, described: Volume): { next: string[]; advice: string[] } {
  const { volume, state, live } = sight;
  const { metadata, spec, status } = volume.value;
  const { name } = metadata;
  const { health } = described.status;
  const count = countInSync(volume.value, described.status.replicas);
  const needed = membersNeeded(spec.policy.failureMode, spec.replicas);
  if (health === 'suspended' && reachesNone(sight)) {
    return { next: ['I/O goes on as soon as an in-sync replica is reached again'], advice: [] };
  }
  if (health === 'suspended' && count < needed) {
    const lacking = needed - count;
    const more = `${lacking} more ${lacking === 1 ? 'replica is' : 'replicas are'} in sync`;
    const { ioTimeoutMs, onLoss } = spec.policy;
    const held =
      onLoss === 'error'
        ? `writes are taken again as soon as ${more}`
        : `held writes go on as soon as ${more}`;
    const until =
      onLoss === 'suspend' && ioTimeoutMs > 0
        ? [`a request that is held for ${formatWait(ioTimeoutMs)} is answered with an error`]
        : [];
    const now = `to go on with ${count}, run "storctl volume update ${name} --failure-mode threshold=${count}": what is written then is on fewer disks`;
    return { next: [held, ...until], advice: count > 0 ? [now] : [] };
  }
  if (health !== 'unavailable') return { next: [], advice: [] };
  const members = status.segments.flatMap((segment) =>
    segment.replicas.filter(({ id }) => segment.inSync.includes(id)),
  );
  const down = members.filter(({ nodeId }) => !isUp(state, nodeId));
  const names = [...new Set(down.map(({ nodeId }) => nodeName(state, nodeId)))];
  const start =
    names.length > 0
      ? [
          `start the agent on ${names.length === 1 ? 'node' : 'one of the nodes'} ${names.join(', ')}`,
        ]
      : [];
  if (!live)
    return {
      next:
        start.length > 0
          ? [
              `it can be served again when ${names.length === 1 ? 'node' : 'one of the nodes'} ${names.join(', ')} is back`,
            ]
          : [],
      advice: start,
    };
  // with none of them there is nothing to go on with, whatever is given up
  if (!status.segments.every((segment) => hasSource(segment, state))) {
    return { next: ['the node that holds it goes on trying'], advice: start };
  }
  return {
    next: ['the node that holds it goes on trying'],
    advice: [
      ...start,
      `if the missing nodes are lost for good, run "storctl volume recover ${name} --accept-unflushed-loss": writes that were never flushed may be lost`,
    ],
  };
}

function holderText(sight: VolumeSight): string {
  const holder = sight.volume.value.status.attachment;
  if (!holder) return '';
  const node = nodeName(sight.state, holder.nodeId);
  return `node ${node} since ${sight.timeText(holder.sinceMs)}, ${modes[holder.mode]}`;
}

/** Since when it is as it is: the primary knows best, then the set, then the oldest cause. */
function sinceOf(
  sight: VolumeSight,
  health: VolumeHealth,
  causes: VolumeExplanation['causes'],
): number | null {
  const { live, volume } = sight;
  if (health === 'creating') return volume.value.metadata.createdAtMs;
  if (live && live.state !== 'serving' && health !== 'healthy') {
    return sight.nowWallMs - live.stateAgeMs;
  }
  const known = causes.flatMap(({ sinceMs }) => (sinceMs === null ? [] : [sinceMs]));
  const changed = volume.value.status.segments.flatMap(({ changedAtMs }) =>
    changedAtMs === undefined ? [] : [changedAtMs],
  );
  if (health === 'healthy') return changed.length > 0 ? Math.max(...changed) : null;
  return known.length > 0 ? Math.min(...known) : null;
}
