import { StorError } from '@stor/protocol';
import type { NodeId, NodePlan, NodeVerb } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { disksOn, volumesOn } from '../../resources/state-index.ts';
import { planMoves } from '../disk/plan-evacuation.ts';
import { replicasOn } from '../disk/disk-replicas.ts';
import type { PlacedReplica } from '../disk/disk-replicas.ts';
import { describeNode } from '../volume/describe-cluster.ts';
import { byRank, fateOf, fateText, lossOf, strandedBy } from './loss.ts';
import type { Departure } from './loss.ts';
import { attachmentMoves } from './plan-attachments.ts';
import { holdingsOf } from './node-removal.ts';
import { demotionReason, quorumReason, stoppingBeside } from './raft-quorum.ts';
import { recoveryOf } from './recovery.ts';

/** At which a rebuild begins, before it has found out what disks and network can (bytes per second). */
export const assumedBytesPerSecond = 64 * 1024 * 1024;

/** What is known beside the records. */
export interface NodeSight {
  /** the leading member of the cluster store */
  leaderId: string | null;
  /** of all rebuilds that run now; 0: none does */
  measuredBytesPerSecond: number;
  /** of the control plane; null: they are no nodes of ours @default null */
  voters?: readonly NodeId[] | null;
  /** members without a vote */
  learners?: readonly NodeId[];
}

type PlanBody = Omit<NodePlan, 'verb' | 'node' | 'rate' | 'etaMs'>;

/**
 * What a verb means for a node, in a state in which it is recorded already: the same rules as the
 * controllers have by which they carry it out. The state is left as it is.
 */
export function planNode(
  state: ClusterState,
  nodeId: NodeId,
  { verb, cancel = false }: { verb: NodeVerb; cancel?: boolean },
  sight: NodeSight,
): NodePlan {
  const node = state.nodes.get(nodeId);
  if (!node) throw new StorError('NOT_FOUND', `there is no node ${nodeId}`);
  const body = cancel ? emptyBody() : bodyOf(state, nodeId, verb, sight);
  const { rate, etaMs } = copyTime(body.bytes, sight.measuredBytesPerSecond);
  return { verb, node: describeNode(node, state, sight), ...body, rate, etaMs };
}

/** How long copying takes at the rate of the rebuilds that run now (bytes per second), if any do. */
export function copyTime(bytes: number, measured: number): Pick<NodePlan, 'rate' | 'etaMs'> {
  const rate: NodePlan['rate'] =
    measured > 0
      ? { bytesPerSecond: Math.round(measured), source: 'measured' }
      : { bytesPerSecond: assumedBytesPerSecond, source: 'assumed' };
  return { rate, etaMs: Math.ceil((bytes / rate.bytesPerSecond) * 1000) };
}

function bodyOf(state: ClusterState, nodeId: NodeId, verb: NodeVerb, sight: NodeSight): PlanBody {
  const { voters = null, learners = [] } = sight;
  switch (verb) {
    case 'drain':
      return judged(withAttachments(emptyBody(), state, nodeId));
    case 'evacuate':
      return judged(withReplicas(emptyBody(), state, nodeId));
    case 'maintenance':
      return judged(withAbsence(emptyBody(), state, nodeId), quorumReason(state, voters, nodeId));
    case 'decommission': {
      const moving = withReplicas(withAttachments(emptyBody(), state, nodeId), state, nodeId);
      const notes = decommissionNotes(state, nodeId, voters);
      return judged({ ...moving, notes }, demotionReason(state, { voters, learners }, nodeId));
    }
    case 'forget':
      return judgedLoss(withLoss(emptyBody(), state, nodeId));
    default:
      return emptyBody();
  }
}

function emptyBody(): PlanBody {
  return {
    attachments: [],
    moves: [],
    bytes: 0,
    effects: [],
    blocked: [],
    remaining: { attachments: 0, replicas: 0 },
    safe: true,
    reasons: [],
    notes: [],
  };
}

function withAttachments(body: PlanBody, state: ClusterState, nodeId: NodeId): PlanBody {
  const all = attachmentMoves(state, nodeId);
  const attachments = [...body.attachments];
  const blocked = [...body.blocked];
  for (const { volume, holder, toNodeId, reason } of all) {
    const { id: volumeId, name } = volume.value.metadata;
    if (toNodeId === null) {
      blocked.push({ volume: name, volumeId, segment: 0, replicaId: '', reason });
      continue;
    }
    const toNode = state.nodes.get(toNodeId)?.value.name ?? toNodeId;
    attachments.push({ volume: name, volumeId, mode: holder?.mode ?? 'manual', toNode });
  }
  return {
    ...body,
    attachments,
    blocked,
    remaining: { ...body.remaining, attachments: all.length },
  };
}

function withReplicas(body: PlanBody, state: ClusterState, nodeId: NodeId): PlanBody {
  const here = placedOn(state, nodeId);
  const { moves, blocked, bytes } = planMoves({ ...state, volumes: new Map(state.volumes) }, here);
  return {
    ...body,
    moves,
    bytes,
    blocked: [...body.blocked, ...blocked],
    remaining: { ...body.remaining, replicas: here.length },
  };
}

/** What is still to be done before the node can go, besides what moves. */
function decommissionNotes(
  state: ClusterState,
  nodeId: NodeId,
  voters: readonly NodeId[] | null,
): string[] {
  const notes: string[] = [];
  const { leftovers } = holdingsOf(state, nodeId);
  if (leftovers > 0) {
    const what = leftovers === 1 ? '1 replica is' : `${leftovers} replicas are`;
    const isDown = isUp(state, nodeId) ? '' : ', which is down';
    notes.push(`${what} still to be deleted by its agent${isDown}`);
  }
  if (voters?.includes(nodeId) === true) {
    notes.push('it has a vote in the control plane, which it gives up');
    const left = voters.length - 1;
    if (left > 0 && left < 3) {
      notes.push(
        `with ${left} ${left === 1 ? 'voter' : 'voters'} the control plane bears no loss, unless another node takes the vote over`,
      );
    }
  }
  return notes;
}

/** The node is lost with what it has: what is missing then is made anew elsewhere, if anything is left. */
function withLoss(body: PlanBody, state: ClusterState, nodeId: NodeId): PlanBody {
  const departure: Departure = { isAway: (replica) => replica.nodeId === nodeId, forEver: true };
  const { moves, blocked, bytes } = recoveryOf(state, {
    nodes: new Set([nodeId]),
    disks: new Set(),
  });
  const trashed = volumesOn(state.trash, nodeId).flatMap(({ value }) => {
    const { fate, inSync } = fateOf(state, value, departure);
    if (fate !== 'lost') return [];
    const { id: volumeId, name } = value.metadata;
    const text = `it lies in the trash, and ${fateText(state, value, { fate, inSync, departure })}`;
    return [{ volume: name, volumeId, becomes: fate, inSync, wanted: value.spec.replicas, text }];
  });
  return {
    ...body,
    moves,
    bytes,
    blocked,
    effects: [...effectsOf(state, nodeId, true), ...trashed].sort(byRank),
    remaining: { attachments: 0, replicas: placedOn(state, nodeId).length },
    notes: [...body.notes, 'its id is never used again; its name is free'],
  };
}

/** What finds no place now may find one later: only a volume of which nothing is left is in the way. */
function judgedLoss(body: PlanBody): PlanBody {
  const { safe, reasons } = judged({ ...body, blocked: [] });
  return { ...body, safe, reasons };
}

/** The node is away for a while: nothing moves, and some volumes have fewer replicas meanwhile. */
function withAbsence(body: PlanBody, state: ClusterState, nodeId: NodeId): PlanBody {
  const effects = effectsOf(state, nodeId);
  const attached = attachmentMoves(state, nodeId).map(({ volume }) => volume.value.metadata.name);
  const notes =
    attached.length === 0
      ? []
      : [
          `${namesText(attached)} attached here, and clients are cut off when the agent stops: "storctl node drain ${state.nodes.get(nodeId)?.value.name ?? nodeId}" moves them away live`,
        ];
  const others = stoppingBeside(state, nodeId).map((id) => nodeName(state, id));
  if (others.length > 0) {
    const are = others.length === 1 ? 'is' : 'are';
    notes.push(`${others.join(', ')} ${are} in maintenance too, and counted as away`);
  }
  return { ...body, effects, notes: [...body.notes, ...notes] };
}

/**
 * What the volumes that have anything to do with the node lose while it is away for a time, or for ever.
 * For a time, others that are in maintenance count as away already: they may be stopped at the same time.
 */
export function effectsOf(
  state: ClusterState,
  nodeId: NodeId,
  forEver = false,
): NodePlan['effects'] {
  const stopping = new Set(forEver ? [] : stoppingBeside(state, nodeId));
  const before: Departure = { isAway: (r) => stopping.has(r.nodeId), forEver: false };
  const departure: Departure = {
    isAway: (r) => r.nodeId === nodeId || before.isAway(r),
    forEver,
  };
  return volumesOn(state.volumes, nodeId)
    .flatMap(({ value }) => {
      if (value.status.phase !== 'ready') return [];
      const stranded = forEver ? strandedBy(state, value, departure) : null;
      const loss = lossOf(state, value, departure, before) ?? stranded;
      const { id, name } = value.metadata;
      return loss ? [{ volume: name, volumeId: id, ...loss }] : [];
    })
    .sort(byRank);
}

/** The replicas on all disks of a node, by volume. */
export function placedOn(state: ClusterState, nodeId: NodeId): PlacedReplica[] {
  const disks = disksOn(state, nodeId).map(({ value }) => value.id);
  return disks.flatMap((diskId) => replicasOn(state, diskId));
}

/** Whether it is safe, and why not. */
function judged(body: PlanBody, first: string | null = null): PlanBody {
  const reasons: string[] = first === null ? [] : [first];
  const harmed = body.effects.filter(({ becomes }) => becomes !== 'degraded');
  const [worst] = harmed;
  if (worst) {
    const more = harmed.length > 1 ? ` (and ${harmed.length - 1} more)` : '';
    reasons.push(`volume ${worst.volume} would be ${worst.becomes}: ${worst.text}${more}`);
  }
  const [stuck] = body.blocked;
  if (stuck) {
    const what = stuck.replicaId === '' ? 'the attachment' : `replica ${stuck.replicaId}`;
    const more = body.blocked.length > 1 ? ` (and ${body.blocked.length - 1} more)` : '';
    reasons.push(`${what} of volume ${stuck.volume} can go nowhere: ${stuck.reason}${more}`);
  }
  return { ...body, safe: reasons.length === 0, reasons };
}

const namedVolumes = 5;

/** `volume db is`, `volumes a, b are`. */
function namesText(names: readonly string[]): string {
  const shown = names.slice(0, namedVolumes).join(', ');
  const more = names.length > namedVolumes ? `, ... (${names.length})` : '';
  return names.length === 1 ? `volume ${shown} is` : `volumes ${shown}${more} are`;
}
