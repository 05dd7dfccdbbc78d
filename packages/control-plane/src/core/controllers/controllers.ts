import type { Attachment, NodeId, ReplicaId, VolumeId } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { ReplicaReport, StoredVolume } from '../../resources/records.ts';
import { holderLives } from './attachment-rules.ts';

/** A creation that is not finished after this is rolled back (ms, from when a leader first saw it). */
export const createPatienceMs = 60_000;
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
  | { type: 'finish-delete'; volume: Versioned<StoredVolume>; replicaIds: ReplicaId[] }
  | { type: 'ask-attach'; volumeId: VolumeId; nodeId: NodeId; mode: Attachment['mode'] };

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

  /** `nowMs` is monotonic. */
  plan(state: ClusterState, nowMs: number): Action[] {
    const actions: Action[] = [];
    this.#forget(state);
    for (const volume of state.volumes.values()) {
      const action =
        volume.value.status.phase === 'creating'
          ? this.#planCreation(state, volume, nowMs)
          : this.#planReady(state, volume, nowMs);
      if (action) actions.push(action);
    }
    for (const volume of state.deleted.values()) {
      const replicaIds = replicasOf(volume.value).map((replica) => replica.id);
      const gone = replicaIds.every((id) => state.reports.get(id)?.value.state === 'deleted');
      if (gone) actions.push({ type: 'finish-delete', volume, replicaIds });
    }
    return actions;
  }

  #planCreation(
    state: ClusterState,
    volume: Versioned<StoredVolume>,
    nowMs: number,
  ): Action | null {
    const { id } = volume.value.metadata;
    const sinceMs = this.#creatingSinceMs.get(id) ?? nowMs;
    this.#creatingSinceMs.set(id, sinceMs);
    const failure = creationFailure(state, volume.value, nowMs - sinceMs);
    if (failure) return { type: 'roll-back', volume, failure };
    const replicas = replicasOf(volume.value);
    if (!replicas.every((r) => state.reports.get(r.id)?.value.state === 'ready')) return null;
    return { type: 'mark-ready', volume, record: readyRecord(volume.value) };
  }

  #planReady(state: ClusterState, volume: Versioned<StoredVolume>, nowMs: number): Action | null {
    const failed = failedRecord(state, volume.value);
    if (failed) return { type: 'mark-failed', volume, record: failed };
    const { id } = volume.value.metadata;
    const wanted = wantedAttach(state, volume.value, this.#repairs.get(id)?.tries ?? 0);
    if (!wanted) {
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
    return { type: 'ask-attach', volumeId: id, ...wanted };
  }

  #forget(state: ClusterState): void {
    for (const id of this.#creatingSinceMs.keys()) {
      if (state.volumes.get(id)?.value.status.phase !== 'creating')
        this.#creatingSinceMs.delete(id);
    }
    for (const id of this.#repairs.keys()) if (!state.volumes.has(id)) this.#repairs.delete(id);
  }
}

function replicasOf(volume: StoredVolume) {
  return volume.status.segments.flatMap((segment) => segment.replicas);
}

/** Every replica that has not failed is in sync. */
function isWhole(volume: StoredVolume): boolean {
  return volume.status.segments.every((segment) =>
    segment.replicas.every((r) => r.state === 'failed' || segment.inSync.includes(r.id)),
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
function readyRecord(volume: StoredVolume): StoredVolume {
  const segments = volume.status.segments.map((segment) => ({
    ...segment,
    setRevision: 1,
    replicas: segment.replicas.map((replica) => ({ ...replica, state: 'ready' as const })),
    inSync: segment.replicas.map((replica) => replica.id),
  }));
  return { ...volume, status: { ...volume.status, phase: 'ready', segments } };
}

/** The record with replicas marked that their nodes gave up for good (I7); null: nothing new. */
function failedRecord(state: ClusterState, volume: StoredVolume): StoredVolume | null {
  const isNew = (r: { id: ReplicaId; state: string }): boolean =>
    r.state !== 'failed' && state.reports.get(r.id)?.value.state === 'failed';
  if (!replicasOf(volume).some(isNew)) return null;
  const segments = volume.status.segments.map((segment) => ({
    ...segment,
    replicas: segment.replicas.map((r) => (isNew(r) ? { ...r, state: 'failed' as const } : r)),
  }));
  return { ...volume, status: { ...volume.status, segments } };
}

/**
 * Whether some node should be asked to attach the volume: the node of a manual attachment whose
 * agent was started again, or a node with an in-sync replica when another replica could be brought
 * back and nobody is attached who would do it.
 */
function wantedAttach(
  state: ClusterState,
  volume: StoredVolume,
  tries: number,
): { nodeId: NodeId; mode: Attachment['mode'] } | null {
  const holder = volume.status.attachment;
  if (holder) {
    const lease = state.leases.get(holder.nodeId)?.value ?? null;
    if (holderLives(holder, lease)) return null;
    if (holder.mode === 'manual' && lease) return { nodeId: holder.nodeId, mode: 'manual' };
  }
  for (const segment of volume.status.segments) {
    const canServe = segment.replicas.filter((r) => r.state === 'ready' && isUp(state, r.nodeId));
    const sources = canServe.filter((replica) => segment.inSync.includes(replica.id));
    // another node at each try: the first one may be unable to for a reason of its own
    const source = sources[tries % Math.max(1, sources.length)];
    if (source && sources.length < canServe.length)
      return { nodeId: source.nodeId, mode: 'repair' };
  }
  return null;
}
