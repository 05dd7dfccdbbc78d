import {
  formatByteSize,
  joinSnapshotName,
  knownQos,
  membersNeeded,
  nbdUriOf,
  segmentBytesOf,
} from '@stor/protocol';
import type {
  Attachment,
  NodeId,
  SegmentStatus,
  Volume,
  VolumeHealth,
  VolumeReplica,
} from '@stor/protocol';
import type { LiveVolume } from '../../agent-port.ts';
import { nbdAddress } from './lane-addresses.ts';
import { describePublications } from './publication-rules.ts';
import { nodesOf } from '../controllers/replica-sites.ts';
import { isUp, nodeName, snapshotsOf, withNodeNames } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { qosOf, throttleOf } from '../qos/volume-qos.ts';

type ReplicaView = Volume['status']['replicas'][number];

/** A primary that activates for longer is not merely starting (ms): fences and leases take less. */
export const slowActivationMs = 5_000;

/** States in which a primary holds I/O, or answers it with errors, by policy. */
const heldStates = new Set(['holding', 'failing']);

/** States that a primary uses for a replica that is on its way back. */
const syncingStates = new Set(['syncing', 'joining']);

/**
 * What `volume inspect` shows: the record, and what follows from it, from the nodes that are up and
 * from what the primary says of itself (`live`, null when it was not asked or did not answer).
 * `answeringNodeId` is the node whose NBD address is named while nobody is attached.
 */
export function describeVolume(
  volume: Versioned<StoredVolume>,
  state: ClusterState,
  live: LiveVolume | null,
  answeringNodeId: NodeId,
): Volume {
  const { metadata, spec, status } = volume.value;
  const attachment = status.attachment;
  const current = attachment && live?.epoch === attachment.epoch ? live : null;
  const replicas = status.segments.flatMap((segment) =>
    segment.replicas.map((replica) => describeReplica(replica, segment, state, current)),
  );
  const health = healthOf(volume.value, replicas, current);
  const enforced = qosOf(volume.value, state);
  const throttle = current?.throttle && throttleOf(volume.value, enforced, current.throttle);
  return {
    metadata: { ...metadata, resourceVersion: volume.modRevision },
    spec: {
      sizeBytes: spec.sizeBytes,
      segmentBytes: segmentBytesOf(spec),
      replicas: spec.replicas,
      policy: spec.policy,
      ...(spec.diskTag === undefined ? {} : { diskTag: spec.diskTag }),
      placement: spec.placement ?? {},
      qos: knownQos(spec.qos),
      ...(spec.policyName === undefined ? {} : { policyName: spec.policyName }),
    },
    status: {
      qos: {
        effective: enforced.qos,
        sources: enforced.sources,
        ...(throttle ? { throttle } : {}),
      },
      health,
      serving: current?.state ?? '',
      message: withNodeNames(state, messageOf(volume.value, health, replicas, current, state)),
      primary: attachment ? describePrimary(attachment, state) : null,
      epoch: status.epoch,
      setRevision: Math.max(0, ...status.segments.map((segment) => segment.setRevision)),
      replicas,
      allocatedBytes: current?.allocatedBytes ?? 0,
      snapshots: snapshotsOf(state, metadata.id).filter(
        ({ value }) => !value.isHidden && value.state === 'ready',
      ).length,
      origin: volume.value.origin ?? null,
      space: null,
      publications: describePublications(volume.value, state),
      nbdUri: nbdUri(state, attachment?.nodeId ?? answeringNodeId, volume.value, current),
    },
  };
}

function describeReplica(
  replica: VolumeReplica,
  segment: SegmentStatus,
  state: ClusterState,
  live: LiveVolume | null,
): ReplicaView {
  const seen = live?.replicas.find((candidate) => candidate.replicaId === replica.id);
  let shown: ReplicaView['state'] = 'out-of-sync';
  if (replica.state !== 'ready') shown = replica.state;
  else if (!isUp(state, replica.nodeId)) shown = 'node-down';
  else if (segment.inSync.includes(replica.id)) shown = 'in-sync';
  else if (seen && syncingStates.has(seen.state)) shown = 'syncing';
  return {
    id: replica.id,
    segment: segment.index,
    nodeId: replica.nodeId,
    node: nodeName(state, replica.nodeId),
    diskId: replica.diskId,
    state: shown,
    bytesRemaining: shown === 'syncing' ? (seen?.bytesRemaining ?? 0) : 0,
    purpose: replica.purpose ?? 'volume',
    leaving: replica.leaving ?? false,
  };
}

/**
 * Nodes that are up and have a replica in sync, of the segment that has fewest: while a replica moves
 * from disk to disk its node has two, which count as one.
 */
export function countInSync(volume: StoredVolume, replicas: ReplicaView[]): number {
  const good = new Set(replicas.filter((r) => r.state === 'in-sync').map((r) => r.id));
  const { segments } = volume.status;
  const counts = segments.map((s) => nodesOf(s.replicas.filter((r) => good.has(r.id))));
  return counts.length === 0 ? 0 : Math.min(...counts);
}

/**
 * healthy: enough replicas in sync on nodes that are up; unavailable: a segment with none such, or a
 * primary that does not get ready. What the primary says of itself counts more than what follows
 * from the nodes; when nobody says anything, I/O would be held with too few members.
 */
function healthOf(
  volume: StoredVolume,
  replicas: ReplicaView[],
  live: LiveVolume | null,
): VolumeHealth {
  const { phase } = volume.status;
  if (phase === 'creating' || phase === 'deleting') return phase;
  const { replicas: wanted, policy } = volume.spec;
  const count = countInSync(volume, replicas);
  if (volume.status.rollback) return count === 0 ? 'unavailable' : 'suspended';
  if (live && heldStates.has(live.state)) return 'suspended';
  if (live?.state === 'activating' && live.stateAgeMs >= slowActivationMs) return 'unavailable';
  if (count >= wanted) return 'healthy';
  if (live?.state === 'serving') return 'degraded';
  if (count === 0) return 'unavailable';
  return count < membersNeeded(policy.failureMode, wanted) ? 'suspended' : 'degraded';
}

/** One text for all replicas of a node that are in the same state, however many segments there are. */
function describeTroubles(replicas: ReplicaView[]): string[] {
  const groups = new Map<string, ReplicaView & { count: number }>();
  for (const replica of replicas) {
    const key = `${replica.nodeId} ${replica.state}`;
    const group = groups.get(key);
    if (!group) groups.set(key, { ...replica, count: 1 });
    else {
      group.count += 1;
      group.bytesRemaining += replica.bytesRemaining;
    }
  }
  return [...groups.values()].flatMap((group) => {
    const text = describeTrouble(group);
    if (text === '') return [];
    return group.count === 1 ? [text] : [`${text} (${group.count} segments)`];
  });
}

function describeTrouble(replica: ReplicaView): string {
  switch (replica.state) {
    case 'node-down':
      return `node ${replica.node} is down`;
    case 'failed':
      return `the replica on ${replica.node} failed`;
    case 'syncing':
      return `the replica on ${replica.node} is being brought in sync (${formatByteSize(replica.bytesRemaining)} left)`;
    case 'out-of-sync':
      return `the replica on ${replica.node} is out of sync`;
    case 'creating':
      return `the replica on ${replica.node} is being created`;
    case 'in-sync':
      return '';
  }
}

function messageOf(
  volume: StoredVolume,
  health: VolumeHealth,
  replicas: ReplicaView[],
  live: LiveVolume | null,
  state: ClusterState,
): string {
  const full = fullDisks(volume, live, state);
  // one that is only just starting is no trouble
  const isTrouble = live !== null && live.state !== 'serving' && health !== 'healthy';
  const serving = isTrouble ? live.reason || `it is ${live.state}` : '';
  if (health === 'healthy') return full.join('; ');
  if (health === 'deleting') return volume.status.message || 'its replicas are being removed';
  const troubles = describeTroubles(replicas);
  const { segments } = volume.status;
  const where = segments.length > 1 ? ` in the worst of ${segments.length} segments` : '';
  const inSync = countInSync(volume, replicas);
  const count = `${inSync} of ${volume.spec.replicas} replicas in sync${where}`;
  const head = health === 'creating' ? 'being created' : count;
  const held = heldText(volume, health, live, state);
  const notServing = serving && held === '' ? [`not serving: ${serving}`] : [];
  const added = volume.status.message === '' ? [] : [volume.status.message];
  const why = [...(held === '' ? [] : [held]), ...troubles, ...full, ...notServing, ...added].join(
    '; ',
  );
  return [head, why].filter((part) => part !== '').join(': ');
}

/** Writes to places that were never written, or that a snapshot holds, get ENOSPC there. */
export function noSpaceText(state: ClusterState, { nodeId, diskId }: VolumeReplica): string {
  const path = state.disks.get(diskId)?.value.path ?? diskId;
  return `no space on disk ${path} of node ${nodeName(state, nodeId)} for new chunks`;
}

/** Each full disk once, however many segments are on it. */
function fullDisks(volume: StoredVolume, live: LiveVolume | null, state: ClusterState): string[] {
  const full = new Set(
    live?.replicas.filter(({ noSpace }) => noSpace).map(({ replicaId }) => replicaId),
  );
  const replicas = volume.status.segments.flatMap((segment) => segment.replicas);
  return [...new Set(replicas.filter(({ id }) => full.has(id)).map((r) => noSpaceText(state, r)))];
}

/** What happens to I/O while too few replicas are in sync; '' when it goes on. */
function heldText(
  volume: StoredVolume,
  health: VolumeHealth,
  live: LiveVolume | null,
  state: ClusterState,
): string {
  if (health !== 'suspended') return '';
  if (volume.status.rollback) return rollbackText(volume, live, state);
  if (live) {
    const what = live.state === 'failing' ? 'writes get errors' : 'I/O is held';
    return live.reason === '' ? what : `${what}: ${live.reason}`;
  }
  const { replicas, policy } = volume.spec;
  const needed = membersNeeded(policy.failureMode, replicas);
  const what = policy.onLoss === 'error' ? 'writes would get errors' : 'writes would be held';
  return `${what}, because failure mode ${policy.failureMode} needs ${needed}`;
}

/** Clients wait, whoever is primary, until the record says that it is over. */
function rollbackText(volume: StoredVolume, live: LiveVolume | null, state: ClusterState): string {
  const { metadata, status } = volume;
  const { snapshotId = '', safetyId = '' } = status.rollback ?? {};
  const nameOf = (id: string): string => {
    const known = snapshotsOf(state, metadata.id).find(({ value }) => value.id === id);
    return joinSnapshotName(metadata.name, known?.value.name ?? id);
  };
  const kept = safetyId === '' ? '' : ` (what it was before is kept as ${nameOf(safetyId)})`;
  const why = live && live.state !== 'serving' && live.reason !== '' ? `; ${live.reason}` : '';
  return `I/O is held while it is rolled back to ${nameOf(snapshotId)}, which goes on by itself${kept}${why}`;
}

function describePrimary(attachment: Attachment, state: ClusterState): Volume['status']['primary'] {
  const { nodeId, mode, sinceMs } = attachment;
  return { nodeId, node: nodeName(state, nodeId), mode, sinceMs };
}

/** Any lane of the node serves it; this is the one that has it, or would have it. */
function nbdUri(
  state: ClusterState,
  nodeId: NodeId,
  volume: StoredVolume,
  live: LiveVolume | null,
): string {
  const address = nbdAddress(state, nodeId, volume, live?.lane);
  const tls = state.nodes.get(nodeId)?.value.addresses.nbdTls;
  return address ? nbdUriOf({ address, tls, exportName: volume.metadata.name }) : '';
}
