import {
  changedQos,
  changePolicy,
  checkPlacement,
  knownQos,
  maxReplicas,
  StorError,
} from '@stor/protocol';
import type {
  NodeId,
  PlacementRules,
  QosSpec,
  ReplicaId,
  SegmentStatus,
  VolumePolicy,
  VolumeReplica,
} from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord, StoredVolume } from '../../resources/records.ts';
import { addReplica, isGood, staying } from '../controllers/replica-rules.ts';
import { nodesOf, sitesOf } from '../controllers/replica-sites.ts';
import { checkGuarantee, guaranteeOf } from '../qos/guarantees.ts';
import { findPolicy } from '../qos/policy-rules.ts';
import { settingsOf } from '../placement/cluster-limits.ts';
import { refusalOf } from '../placement/disk-room.ts';
import type { DiskNeed } from '../placement/disk-room.ts';
import { PlacementBoard } from '../placement/placement-board.ts';
import { needOf, placeAnother, placeOn, ruleRefusalOn } from '../placement/place-replicas.ts';
import type { AvoidedDisks, Place } from '../placement/place-replicas.ts';

/** Replicas that an error names; "volume inspect" shows all. */
const maxListed = 12;

/** What a change of a volume needs besides its record. */
export interface ChangeContext {
  state: ClusterState;
  wallMs: number;
  newReplicaId: () => ReplicaId;
}

export interface VolumeUpdate {
  replicas?: number | undefined;
  policy?: Partial<VolumePolicy> | null | undefined;
  /** all rules, in place of those that hold; null or absent: they stay */
  placement?: PlacementRules | null | undefined;
  /** fields to set; null or absent ones stay */
  qos?: QosSpec | null | undefined;
  /** names of fields to take back */
  clearQos?: readonly string[] | null | undefined;
  /** name or id; '': none any more; null or absent: as it is */
  policyName?: string | null | undefined;
}

/** FAILED_PRECONDITION, UNAVAILABLE unless the volume can be changed. */
export function checkChangeable(record: StoredVolume): void {
  const { name } = record.metadata;
  const { phase } = record.status;
  if (phase === 'ready') return;
  if (phase === 'creating') {
    throw new StorError(
      'UNAVAILABLE',
      `volume ${name} is still being created: try again in a moment`,
    );
  }
  throw new StorError('FAILED_PRECONDITION', `volume ${name} is being deleted`);
}

/**
 * The record with another policy or number of replicas. More are placed here, so that the caller
 * hears why when there is no place; fewer are left to the controllers. INVALID_ARGUMENT,
 * FAILED_PRECONDITION, NO_SPACE.
 */
export function updatedVolume(
  record: StoredVolume,
  update: VolumeUpdate,
  context: ChangeContext,
): StoredVolume {
  checkChangeable(record);
  const { placement: oldRules, qos: _qos, policyName: _policyName, ...spec } = record.spec;
  const placement = update.placement ? checkPlacement(update.placement) : oldRules;
  const replicas = update.replicas ?? spec.replicas;
  if (!Number.isInteger(replicas) || replicas < 1 || replicas > maxReplicas) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${replicas} replicas are not possible: ask for 1 to ${maxReplicas}`,
    );
  }
  const wanted: Partial<VolumePolicy> = update.policy ?? {};
  // a volume of one replica got `alwayson` because it has nobody to wait for; with more it has
  const grewFromOne = spec.replicas === 1 && replicas > 1 && wanted.failureMode === undefined;
  const isDefault = grewFromOne && spec.policy.failureMode === 'alwayson';
  const policy = changePolicy(spec.policy, isDefault ? { ...wanted, failureMode: 'soft' } : wanted);
  checkPublishedTo(record, policy);
  const rules = placement ? { placement } : {};
  const wishes = changedWishes(record.spec, update, context);
  const changed = { ...record, spec: { ...spec, ...rules, ...wishes, replicas, policy } };
  checkGuarantee(changed, context.state, guaranteeOf(record, context.state));
  if (replicas <= spec.replicas) return changed;
  // each is placed by what those before it have taken
  const board = new PlacementBoard(context.state, changed);
  return record.status.segments.reduce(
    (now, segment) => withSegment(now, grown(segment, now, context, board)),
    changed,
  );
}

/** FAILED_PRECONDITION when more hosts have it than may without being shared. */
function checkPublishedTo({ metadata, status }: StoredVolume, { shared }: VolumePolicy): void {
  const hosts = status.publications?.length ?? 0;
  if (shared || hosts <= 1) return;
  const { name } = metadata;
  throw new StorError(
    'FAILED_PRECONDITION',
    `volume ${name} is used as a device by ${hosts} hosts ("storctl volume inspect ${name}" says which), so it stays shared: unpublish it on all but one first`,
  );
}

/** What the volume asks for itself, and the policy that it has. */
function changedWishes(
  before: Pick<StoredVolume['spec'], 'qos' | 'policyName'>,
  update: VolumeUpdate,
  { state }: ChangeContext,
): Pick<StoredVolume['spec'], 'qos' | 'policyName'> {
  const qos = changedQos(before.qos ?? {}, knownQos(update.qos), update.clearQos ?? []);
  const wanted = update.policyName ?? before.policyName ?? '';
  // one that stays is not looked for: it may be gone
  const isNew = wanted !== '' && wanted !== before.policyName;
  const policyName = isNew ? findPolicy(state.policies, wanted).value.name : wanted;
  return {
    ...(Object.keys(qos).length > 0 ? { qos } : {}),
    ...(policyName === '' ? {} : { policyName }),
  };
}

function grown(
  segment: SegmentStatus,
  record: StoredVolume,
  context: ChangeContext,
  board: PlacementBoard,
): SegmentStatus {
  const { wallMs } = context;
  const { state } = board;
  const wanted = record.spec.replicas;
  let now = segment;
  while (nodesOf(staying(now)) < wanted) {
    // one that is about to go and is still whole stays instead: that costs no copy
    const facts = { state, volume: record, isLost: () => false };
    const kept = now.replicas.find((r) => r.leaving === true && isGood(now, r, facts));
    if (kept) {
      const { leaving: _leaving, ...stays } = kept;
      now = { ...now, replicas: now.replicas.map((r) => (r === kept ? stays : r)) };
      continue;
    }
    const need = needOf(state, record, now, 'new');
    const found = placeAnother(board, sitesOf(now, state), need, 'update');
    if (!found.place) {
      const lacking = wanted - nodesOf(staying(now));
      throw new StorError(
        found.noSpace ? 'NO_SPACE' : 'FAILED_PRECONDITION',
        `volume ${record.metadata.name} cannot have ${wanted} replicas: no node can take ${lacking === 1 ? 'the one' : `the ${lacking}`} that it lacks: ${found.refusals.join('; ')}`,
      );
    }
    const made = { id: context.newReplicaId(), purpose: 'update' as const, placedAtMs: wallMs };
    now = addReplica(now, found.place, made);
    board.note(found.place, need);
  }
  return now;
}

export interface ReplicaMove {
  /** id of a replica, or name or id of its node */
  replica: string;
  nodeId: NodeId;
  /** id or path of a disk of that node; '': the best one */
  disk: string;
}

/**
 * The record with a replica on `move.nodeId`, which may be the node of the moved one, to be filled and the moved one to leave after that;
 * null when that move is under way already. NOT_FOUND, FAILED_PRECONDITION, NO_SPACE.
 */
export function movedReplica(
  record: StoredVolume,
  move: ReplicaMove,
  context: ChangeContext,
): StoredVolume | null {
  checkChangeable(record);
  const { state } = context;
  const { segment, from } = onlyReplica(record, move.replica, state);
  const target = nodeName(state, move.nodeId);
  const there = segment.replicas.filter(({ nodeId }) => nodeId === move.nodeId);
  if (from.leaving === true) {
    if (there.some((r) => r.purpose === 'move' && r.leaving !== true)) return null;
    throw precondition(`replica ${from.id} of volume ${record.metadata.name} is leaving already`);
  }
  const other = there.find((replica) => replica !== from && replica.state !== 'failed');
  if (other) {
    throw precondition(
      `node ${target} has a replica of volume ${record.metadata.name} already (${other.id}): choose another node`,
    );
  }
  const need = needOf(state, record, segment, 'repair');
  const { avoid, fixed } = sitesOf(segment, state, (replica) => replica === from);
  const board = new PlacementBoard(state);
  const place = placeFor(move, board, { avoid, fixed }, need);
  const disk = state.disks.get(place.diskId)?.value;
  const lack = disk ? board.guaranteeLack(disk, need.subject) : null;
  if (lack !== null) throw precondition(`node ${target} cannot take a replica: it ${lack}`);
  const leaving = {
    ...segment,
    replicas: segment.replicas.map((r) => (r === from ? { ...r, leaving: true } : r)),
  };
  const made = {
    id: context.newReplicaId(),
    purpose: 'move' as const,
    placedAtMs: context.wallMs,
  };
  const moved = addReplica(leaving, place, made);
  return withSegment(record, moved);
}

function withSegment(record: StoredVolume, changed: SegmentStatus): StoredVolume {
  const segments = record.status.segments.map((each) =>
    each.index === changed.index ? changed : each,
  );
  return { ...record, status: { ...record.status, segments } };
}

/** The replica that is meant. NOT_FOUND; INVALID_ARGUMENT when a node's name means several. */
function onlyReplica(
  record: StoredVolume,
  name: string,
  state: ClusterState,
): { segment: SegmentStatus; from: VolumeReplica } {
  const found = record.status.segments.flatMap((segment) => {
    const from = findReplica(segment, name, state);
    return from ? [{ segment, from }] : [];
  });
  const [only, ...others] = found;
  if (!only) throw noReplica(record, name, state);
  if (others.length > 0) {
    const known = found.map(({ segment, from }) => `${from.id} of segment ${segment.index}`);
    throw new StorError(
      'INVALID_ARGUMENT',
      `node ${name} has replicas of ${found.length} segments of volume ${record.metadata.name}: name one by its id: ${shortList(known)}`,
    );
  }
  return only;
}

/** A volume may have hundreds of replicas: the first few of them. */
function shortList(items: string[]): string {
  const shown = items.slice(0, maxListed).join(', ');
  return items.length > maxListed ? `${shown} and ${items.length - maxListed} more` : shown;
}

function findReplica(
  segment: SegmentStatus,
  name: string,
  state: ClusterState,
): VolumeReplica | null {
  return (
    segment.replicas.find(({ id }) => id === name) ??
    segment.replicas.find(({ nodeId, leaving }) => {
      return leaving !== true && (nodeId === name || nodeName(state, nodeId) === name);
    }) ??
    segment.replicas.find(({ nodeId }) => nodeId === name || nodeName(state, nodeId) === name) ??
    null
  );
}

function placeFor(
  move: ReplicaMove,
  board: PlacementBoard,
  { avoid, fixed }: { avoid: AvoidedDisks; fixed: readonly NodeId[] },
  need: DiskNeed,
): Place {
  const { state } = board;
  const { nodeId, disk: wanted } = move;
  const node = nodeName(state, nodeId);
  if (wanted === '') {
    const place = placeOn(board, nodeId, avoid, need, fixed);
    if (!('reason' in place)) return place;
    throw new StorError(
      place.noSpace ? 'NO_SPACE' : 'FAILED_PRECONDITION',
      `node ${node} cannot take a replica: it ${place.reason}`,
    );
  }
  if (!state.leases.has(nodeId)) throw precondition(`node ${node} is down`);
  const disks = [...state.disks.values()].map((disk) => disk.value);
  const mine = disks.filter((disk) => disk.nodeId === nodeId);
  const disk = mine.find(({ id, path }) => id === wanted || path === wanted);
  if (!disk) {
    const known = mine.map(({ path }) => path).join(', ') || '(none)';
    throw new StorError(
      'NOT_FOUND',
      `node ${node} has no disk ${JSON.stringify(wanted)}: its disks are ${known}`,
    );
  }
  checkDisk(disk, node, avoid);
  const rule = ruleRefusalOn(board, nodeId, need, fixed);
  if (rule !== null) throw precondition(`node ${node} cannot take a replica: it ${rule}`);
  const refusal = refusalOf(disk, board.useOf(disk.id), need, settingsOf(state));
  if (refusal) {
    throw new StorError(
      refusal.noSpace ? 'NO_SPACE' : 'FAILED_PRECONDITION',
      `disk ${disk.path} of node ${node} cannot take the replica: the node ${refusal.reason}`,
    );
  }
  return { nodeId, diskId: disk.id };
}

function checkDisk(disk: DiskRecord, node: string, avoid: AvoidedDisks): void {
  const { id, path, state, message } = disk;
  if (state !== 'online') {
    const why = message === '' ? '' : ` (${message})`;
    throw precondition(`disk ${path} of node ${node} is ${state}${why}`);
  }
  const avoided = avoid.get(id);
  if (avoided === undefined) return;
  throw precondition(`disk ${path} of node ${node} cannot take the replica: the node ${avoided}`);
}

function noReplica(record: StoredVolume, name: string, state: ClusterState): StorError {
  const replicas = record.status.segments.flatMap((segment) => segment.replicas);
  const known = shortList(replicas.map(({ id, nodeId }) => `${id} on ${nodeName(state, nodeId)}`));
  return new StorError(
    'NOT_FOUND',
    `volume ${record.metadata.name} has no replica ${JSON.stringify(name)}: they are ${known}`,
  );
}

function precondition(message: string): StorError {
  return new StorError('FAILED_PRECONDITION', message);
}
