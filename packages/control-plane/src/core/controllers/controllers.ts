import type {
  Attachment,
  EventNote,
  NodeId,
  ReplicaId,
  SegmentStatus,
  VolumeId,
  VolumeReplica,
} from '@stor/protocol';
import { isForgotten, isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { ReplicaReport, StoredVolume } from '../../resources/records.ts';
import { ScrubPlanner } from '../scrub/scrub-planner.ts';
import type { ScrubAction } from '../scrub/scrub-planner.ts';
import { PlacementKeeper } from './placement-keeper.ts';
import { RebalanceKeeper } from './rebalance-keeper.ts';
import type { RebalanceStep } from './rebalance-keeper.ts';
import { PlacementBoard } from '../placement/placement-board.ts';
import { isDrained } from '../node/node-intent.ts';
import { unshipped } from '../qos/policy-rules.ts';
import { planShares } from '../qos/tenant-rules.ts';
import type { TenantDemands } from '../qos/tenant-rules.ts';
import type { ShareStep } from '../qos/tenant-rules.ts';
import { growthUndone } from '../volume/grow-volume.ts';
import { placedSegments } from '../volume/segment-size.ts';
import { Absence } from './absence.ts';
import type { AbsenceNote, Now } from './absence.ts';
import { holderLives } from './attachment-rules.ts';
import { countFills, ReplicaKeeper } from './replica-keeper.ts';
import { NodeVerbsKeeper } from './node-verbs-keeper.ts';
import type { NodeAction } from './node-verbs-keeper.ts';
import { nodesOf } from './replica-sites.ts';
import type { KeeperContext, ReplicaChange } from './replica-keeper.ts';
import { RollbackKeeper } from './rollback-keeper.ts';
import { SnapshotKeeper } from './snapshot-keeper.ts';
import type { SnapshotAction } from './snapshot-keeper.ts';
import { TrashKeeper } from './trash-keeper.ts';
import type { TrashAction } from './trash-keeper.ts';
import { mayRest, VolumesAtRest } from './volumes-at-rest.ts';
import { WantedAttachments } from './wanted-attachments.ts';
import { wholeReplicas } from './whole-replicas.ts';

/** A creation that is not finished after this is rolled back (ms, from when a leader first saw it). */
export const createPatienceMs = 60_000;
/** A growth that the node which began it has not ended after this is given up (ms). */
export const growthPatienceMs = 180_000;
/** A volume must want repair for this long before a node is asked: clients come back first (ms). */
export const repairDelayMs = 2_000;
/** First and longest wait between two tries to repair one volume (ms). */
export const repairBackoffMs = 2_000;
export const repairBackoffMaxMs = 60_000;

/**
 * What the leader should do now. Every write compares `modRevision`, so an action that is out of
 * date does nothing and the next look decides anew.
 */
export type Action =
  | { type: 'mark-ready'; volume: Versioned<StoredVolume>; record: StoredVolume }
  | {
      type: 'roll-back';
      volume: Versioned<StoredVolume>;
      failure: { code: string; message: string };
    }
  | { type: 'mark-failed'; volume: Versioned<StoredVolume>; record: StoredVolume }
  | SnapshotAction
  /** whoever began a rollback has not finished it */
  | { type: 'resume-rollback'; volumeId: VolumeId }
  | TrashAction
  | { type: 'finish-delete'; volume: Versioned<StoredVolume>; replicaIds: ReplicaId[] }
  | { type: 'change-replicas'; volume: Versioned<StoredVolume>; change: ReplicaChange }
  | { type: 'note-absence'; note: AbsenceNote }
  | { type: 'note-event'; note: EventNote }
  | {
      type: 'ask-attach';
      volumeId: VolumeId;
      nodeId: NodeId;
      mode: Attachment['mode'];
      onlyIfWanted: boolean;
    }
  | NodeAction
  /** policies that come with Stor and were never made */
  | { type: 'ship-policies'; names: string[] }
  | ShareStep
  | RebalanceStep
  | ScrubAction;

interface RepairMemory {
  wantedSinceMs: number;
  tries: number;
  notBeforeMs: number;
}

/**
 * The controllers of the elected leader: level-triggered, they look at everything and say what is
 * to be done, however the state came about. They remember only since when something has waited.
 */
export class Controllers {
  readonly #creatingSinceMs = new Map<VolumeId, number>();
  readonly #repairs = new Map<VolumeId, RepairMemory>();
  readonly #wanted = new WantedAttachments();
  readonly #scrubs = new ScrubPlanner();
  readonly #snapshots = new SnapshotKeeper();
  readonly #rollbacks = new RollbackKeeper();
  readonly #trash = new TrashKeeper();
  readonly #nodes = new NodeVerbsKeeper();
  readonly #absence = new Absence();
  readonly #keeper = new ReplicaKeeper(this.#absence);
  readonly #placement = new PlacementKeeper();
  readonly #rebalance = new RebalanceKeeper();
  readonly #resting = new VolumesAtRest();
  #looks = 0;

  /** Volumes that were looked at closely, over all looks. */
  get looks(): number {
    return this.#looks;
  }

  /**
   * `newReplicaId` makes an id that was never used; `voters` of the cluster store, null when its members
   * are no nodes of ours.
   */
  plan(
    state: ClusterState,
    now: Now,
    newReplicaId: () => ReplicaId,
    voters: readonly NodeId[] | null = null,
    demands: TenantDemands = new Map(),
  ): Action[] {
    const nowMs = now.monotonicMs;
    const actions: Action[] = [];
    this.#forget(state);
    for (const note of this.#absence.look(state, now)) actions.push({ type: 'note-absence', note });
    const board = new PlacementBoard(state);
    const context = { now, fills: countFills(state, now.wallMs), board, newReplicaId };
    this.#resting.begin(state);
    for (const volume of state.volumes.values()) {
      if (this.#resting.has(volume, nowMs)) continue;
      this.#looks += 1;
      const planned = this.#planVolume(state, volume, context);
      actions.push(...planned);
      if (planned.length === 0 && this.#mayRest(state, volume, now)) {
        this.#resting.note(volume, nowMs);
      }
    }
    actions.push(...this.#nodes.plan(state, now, voters));
    const { moves, notes } = this.#placement.plan(state, context, this.#keeper);
    for (const note of notes) actions.push({ type: 'note-event', note });
    // a volume of which something else is to be done is looked at again after that
    const planned = new Set(
      actions.flatMap((action) => ('volume' in action ? [action.volume] : [])),
    );
    for (const move of moves) {
      if (!planned.has(move.volume)) actions.push({ type: 'change-replicas', ...move });
      planned.add(move.volume);
    }
    const step = this.#rebalance.plan(state, context, this.#keeper, (each) => planned.has(each));
    if (step) actions.push(step);
    actions.push(...this.#snapshots.plan(state, nowMs));
    for (const volumeId of this.#rollbacks.plan(state, nowMs))
      actions.push({ type: 'resume-rollback', volumeId });
    actions.push(...this.#trash.plan(state, nowMs));
    for (const volume of state.deleted.values()) {
      const replicas = [...replicasOf(volume.value), ...removedOf(volume.value)];
      const replicaIds = replicas.map((r) => r.id);
      // what lies on a disk that was taken out as lost is deleted by nobody
      const gone = replicas.every(
        ({ id, diskId }) =>
          state.reports.get(id)?.value.state === 'deleted' || !state.disks.has(diskId),
      );
      if (gone) actions.push({ type: 'finish-delete', volume, replicaIds });
    }
    actions.push(...this.#scrubs.plan(state, now));
    const names = unshipped(state);
    if (names.length > 0) actions.push({ type: 'ship-policies', names });
    actions.push(...planShares(state, now.wallMs, demands));
    return actions;
  }

  #planVolume(
    state: ClusterState,
    volume: Versioned<StoredVolume>,
    context: KeeperContext,
  ): Action[] {
    const { now } = context;
    if (volume.value.status.phase === 'creating') {
      const action = this.#planCreation(state, volume, now);
      return action ? [action] : [];
    }
    const { growth } = volume.value.status;
    if (growth && now.wallMs - growth.sinceMs > growthPatienceMs) {
      const record = growthUndone(volume.value);
      const change = { record, what: 'nobody has ended a resize', forgotten: [] };
      return [{ type: 'change-replicas', volume, change }];
    }
    const failed = failedRecord(state, volume.value);
    if (failed) return [{ type: 'mark-failed', volume, record: failed }];
    const actions: Action[] = [];
    const change = this.#keeper.plan(state, volume, context);
    if (change) actions.push({ type: 'change-replicas', volume, change });
    const action = this.#planAttachment(state, volume, now.monotonicMs);
    if (action) actions.push(action);
    return actions;
  }

  #mayRest(state: ClusterState, { value }: Versioned<StoredVolume>, now: Now): boolean {
    return this.#wanted.mayRest(state, value) && mayRest(this.#keeper.factsOf(state, value, now));
  }

  #planCreation(state: ClusterState, volume: Versioned<StoredVolume>, now: Now): Action | null {
    const nowMs = now.monotonicMs;
    const { id } = volume.value.metadata;
    const sinceMs = this.#creatingSinceMs.get(id) ?? nowMs;
    this.#creatingSinceMs.set(id, sinceMs);
    const failure = creationFailure(state, volume.value, nowMs - sinceMs);
    if (failure) return { type: 'roll-back', volume, failure };
    const replicas = replicasOf(volume.value);
    if (!replicas.every((r) => state.reports.get(r.id)?.value.state === 'ready')) return null;
    return { type: 'mark-ready', volume, record: readyRecord(volume.value, now.wallMs) };
  }

  #planAttachment(
    state: ClusterState,
    volume: Versioned<StoredVolume>,
    nowMs: number,
  ): Action | null {
    const { id } = volume.value.metadata;
    // first, because a volume that is attached repairs itself
    const wanted = this.#wanted.plan(state, volume.value, nowMs);
    if (wanted === 'soon') return null;
    if (wanted) {
      return { type: 'ask-attach', volumeId: id, ...wanted, mode: 'manual', onlyIfWanted: true };
    }
    return this.#planRepair(state, volume, nowMs);
  }

  #planRepair(state: ClusterState, volume: Versioned<StoredVolume>, nowMs: number): Action | null {
    const { id } = volume.value.metadata;
    const nodeId = repairer(state, volume.value, this.#repairs.get(id)?.tries ?? 0);
    if (nodeId === null) {
      // kept while attached: a repair that gave up in vain must not start at the shortest wait again
      if (isWhole(volume.value)) this.#repairs.delete(id);
      return null;
    }
    const memory = this.#repairs.get(id) ?? { wantedSinceMs: nowMs, tries: 0, notBeforeMs: 0 };
    this.#repairs.set(id, memory);
    if (nowMs < Math.max(memory.wantedSinceMs + repairDelayMs, memory.notBeforeMs)) return null;
    const waitMs = Math.min(repairBackoffMs * 2 ** memory.tries, repairBackoffMaxMs);
    memory.tries += 1;
    memory.notBeforeMs = nowMs + waitMs;
    return { type: 'ask-attach', volumeId: id, nodeId, mode: 'repair', onlyIfWanted: false };
  }

  #forget(state: ClusterState): void {
    for (const id of this.#creatingSinceMs.keys()) {
      if (state.volumes.get(id)?.value.status.phase !== 'creating')
        this.#creatingSinceMs.delete(id);
    }
    for (const id of this.#repairs.keys()) if (!state.volumes.has(id)) this.#repairs.delete(id);
    this.#wanted.forget(state);
    this.#keeper.forget(state);
  }
}

function replicasOf(volume: StoredVolume) {
  return placedSegments(volume).flatMap((segment) => segment.replicas);
}

function removedOf(volume: StoredVolume) {
  return volume.status.segments.flatMap((segment) => segment.removed ?? []);
}

/** Every replica that has not failed is in sync, and none is to leave. */
function isWhole(volume: StoredVolume): boolean {
  return volume.status.segments.every((segment) =>
    segment.replicas.every(
      (r) => r.leaving !== true && (r.state === 'failed' || segment.inSync.includes(r.id)),
    ),
  );
}

function creationFailure(
  state: ClusterState,
  volume: StoredVolume,
  ageMs: number,
): { code: string; message: string } | null {
  for (const replica of replicasOf(volume)) {
    const report: ReplicaReport | undefined = state.reports.get(replica.id)?.value;
    const node = nodeName(state, replica.nodeId);
    if (report?.state === 'failed') {
      const path = state.disks.get(replica.diskId)?.value.path ?? replica.diskId;
      return {
        code: report.code,
        message: `disk ${path} of node ${node} could not take its replica: ${report.message}`,
      };
    }
    // it may have been placed there by somebody who did not know, and its node serves nobody any more
    if (isForgotten(state, replica.nodeId)) {
      return { code: 'UNAVAILABLE', message: `node ${node} has left the cluster` };
    }
    if (report?.state === 'ready') continue;
    if (!isUp(state, replica.nodeId)) {
      return { code: 'UNAVAILABLE', message: `node ${node} went down before it had its replica` };
    }
    if (ageMs > createPatienceMs) {
      const seconds = createPatienceMs / 1000;
      const message = `node ${node} did not make its replica within ${seconds} s`;
      return { code: 'UNAVAILABLE', message };
    }
  }
  return null;
}

/** New replicas are all empty, so all are equal: the first in-sync set is all of them. */
function readyRecord(volume: StoredVolume, wallMs: number): StoredVolume {
  const segments = volume.status.segments.map((segment) => ({
    ...segment,
    setRevision: 1,
    changedAtMs: wallMs,
    replicas: segment.replicas.map((replica) => ({ ...replica, state: 'ready' as const })),
    inSync: segment.replicas.map((replica) => replica.id),
  }));
  return { ...volume, status: { ...volume.status, phase: 'ready', segments } };
}

/**
 * The record with replicas marked that their nodes gave up for good (I7), or that are on nodes which are
 * gone for ever; null: nothing new. The set stays as it is: its primary alone changes it (I4).
 */
function failedRecord(state: ClusterState, volume: StoredVolume): StoredVolume | null {
  // one that could not even be made is given up instead
  const isNew = (r: Pick<VolumeReplica, 'id' | 'nodeId' | 'state'>): boolean =>
    r.state === 'ready' &&
    (isForgotten(state, r.nodeId) || state.reports.get(r.id)?.value.state === 'failed');
  if (!replicasOf(volume).some(isNew)) return null;
  const segments = volume.status.segments.map((segment) => ({
    ...segment,
    replicas: segment.replicas.map((r) => (isNew(r) ? { ...r, state: 'failed' as const } : r)),
  }));
  return { ...volume, status: { ...volume.status, segments } };
}

/**
 * Which node should be asked to attach the volume for repair: one with an in-sync replica, when
 * another replica could be brought back or filled, or one that is to leave could go, and nobody is
 * attached who would do it.
 */
function repairer(state: ClusterState, volume: StoredVolume, tries: number): NodeId | null {
  const holder = volume.status.attachment;
  const lease = holder ? (state.leases.get(holder.nodeId)?.value ?? null) : null;
  if (holder && holderLives(holder, lease)) return null;
  for (const segment of volume.status.segments) {
    const canServe = segment.replicas.filter((r) => r.state === 'ready' && isUp(state, r.nodeId));
    const whole = wholeReplicas(segment, volume.status.epoch);
    const sources = canServe.filter((replica) => whole.includes(replica.id));
    // the ones that stay first: the others are about to go
    const isUnwelcome = (r: VolumeReplica): number =>
      Number(r.leaving === true || isDrained(state.nodes.get(r.nodeId)?.value));
    sources.sort((a, b) => isUnwelcome(a) - isUnwelcome(b));
    // another node at each try: the first one may be unable to for a reason of its own
    const source = sources[tries % Math.max(1, sources.length)];
    if (!source) continue;
    const isBehind = (r: VolumeReplica): boolean =>
      r.leaving !== true && !segment.inSync.includes(r.id);
    if (!volume.spec.policy.rebuildPaused && canServe.some(isBehind)) return source.nodeId;
    if (canLeave(segment, sources, volume.spec.replicas)) return source.nodeId;
  }
  return null;
}

/**
 * A primary would take a leaving member out of the set: enough of those that stay are in it, or one of
 * them on its own node.
 */
function canLeave(segment: SegmentStatus, sources: VolumeReplica[], wanted: number): boolean {
  const { replicas, inSync } = segment;
  const leaving = replicas.filter((r) => r.leaving === true && inSync.includes(r.id));
  if (leaving.length === 0) return false;
  const stay = replicas.filter((r) => r.leaving !== true && r.state === 'ready');
  const good = sources.filter((r) => r.leaving !== true);
  if (leaving.some(({ nodeId }) => good.some((r) => r.nodeId === nodeId))) return true;
  return good.length > 0 && nodesOf(good) >= Math.min(wanted, nodesOf(stay));
}
