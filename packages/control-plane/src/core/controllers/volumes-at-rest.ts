import type { NodeId, VolumeId } from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { DiskRecord, StoredVolume } from '../../resources/records.ts';
import { failedReports, volumesOn } from '../../resources/state-index.ts';
import { isUnsettled } from '../../resources/volume-table.ts';
import { cordonOf } from '../node/node-intent.ts';
import { isGood, liesOnDraining } from './replica-rules.ts';
import type { ReplicaFacts } from './replica-rules.ts';

/**
 * A volume at rest is looked at closely again after this (ms): whatever a change of something else may
 * mean for it, and this file does not know of, is found then.
 */
export const restMs = 30_000;
/** At most so many of those in one look, so that they spread over that time. */
export const maxLooksAgain = 500;

/**
 * Remembers volumes at which nothing is to be done, as long as neither their record nor a node or disk
 * of theirs nor a report of a failure says something new. In a large cluster that is nearly all, and a
 * look that judged each anew would take longer than what there is to do.
 */
export class VolumesAtRest {
  readonly #resting = new Map<VolumeId, { record: StoredVolume; sinceMs: number }>();
  readonly #nodes = new Map<NodeId, { record: unknown; lease: unknown }>();
  readonly #disks = new Map<string, { record: DiskRecord; facts: string; nodeId: NodeId }>();
  #looksAgain = 0;

  /** Call at the beginning of each look. `nowMs` is monotonic, as everywhere here. */
  begin(state: ClusterState): void {
    this.#looksAgain = maxLooksAgain;
    for (const nodeId of this.#changedHosts(state)) {
      for (const { value } of volumesOn(state.volumes, nodeId)) {
        this.#resting.delete(value.metadata.id);
      }
    }
    for (const { value } of failedReports(state.reports)) this.#resting.delete(value.volumeId);
    if (this.#resting.size <= state.volumes.size) return;
    for (const id of this.#resting.keys()) if (!state.volumes.has(id)) this.#resting.delete(id);
  }

  /** Nothing is to be done at this volume. */
  has({ value }: Versioned<StoredVolume>, nowMs: number): boolean {
    const rest = this.#resting.get(value.metadata.id);
    if (rest?.record !== value) return false;
    if (nowMs - rest.sinceMs < restMs) return true;
    this.#looksAgain -= 1;
    return this.#looksAgain < 0;
  }

  /** It was looked at closely, and nothing was to be done. */
  note({ value }: Versioned<StoredVolume>, nowMs: number): void {
    this.#resting.set(value.metadata.id, { record: value, sinceMs: nowMs });
  }

  /** Nodes of which the record, the lease or a disk says something new. */
  #changedHosts(state: ClusterState): Set<NodeId> {
    const changed = new Set<NodeId>();
    for (const [id, { value: record }] of state.nodes) {
      const lease = state.leases.get(id)?.value;
      const known = this.#nodes.get(id);
      if (known?.record === record && known.lease === lease) continue;
      this.#nodes.set(id, { record, lease });
      changed.add(id);
    }
    for (const id of this.#nodes.keys()) {
      if (state.nodes.has(id)) continue;
      this.#nodes.delete(id);
      changed.add(id);
    }
    for (const [id, { value: record }] of state.disks) {
      const known = this.#disks.get(id);
      if (known?.record === record) continue;
      const facts = factsOf(record);
      this.#disks.set(id, { record, facts, nodeId: record.nodeId });
      if (known?.facts === facts) continue;
      changed.add(record.nodeId);
      if (known) changed.add(known.nodeId);
    }
    for (const [id, { nodeId }] of this.#disks) {
      if (state.disks.has(id)) continue;
      this.#disks.delete(id);
      changed.add(nodeId);
    }
    return changed;
  }
}

/** What a disk's record says besides how full it is, which it says again every few seconds. */
function factsOf(record: DiskRecord): string {
  const { capacityBytes: _c, usedBytes: _u, freeBytes: _f, replicaBytes: _r, ...rest } = record;
  return JSON.stringify(rest);
}

/**
 * Every replica that is wanted is there, good and to stay, and no operator wants anything of its nodes:
 * then nothing is to be done until something changes.
 */
export function mayRest(facts: ReplicaFacts): boolean {
  const { state, volume } = facts;
  if (isUnsettled(volume) || volume.status.message !== '') return false;
  const isFine = (nodeId: NodeId): boolean => cordonOf(state.nodes.get(nodeId)?.value) === null;
  const { attachment } = volume.status;
  if (attachment && !isFine(attachment.nodeId)) return false;
  return volume.status.segments.every((segment) =>
    segment.replicas.every(
      (replica) =>
        isGood(segment, replica, facts) &&
        !liesOnDraining(replica, facts) &&
        isFine(replica.nodeId),
    ),
  );
}
