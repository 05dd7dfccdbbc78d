import type { SnapshotId, VolumeId } from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { SnapshotRecord } from '../../resources/records.ts';
import { isDropped } from '../volume/snapshot-rules.ts';

/** A snapshot that is not ready after this was left behind (ms, from when a leader first saw it). */
export const takePatienceMs = 60_000;
/** One that was taken for a clone and is still there after this was left behind (ms, as above). */
export const hiddenPatienceMs = 120_000;
/**
 * Records that are changed or forgotten in one transaction: each is up to three keys, and etcd takes
 * 128 operations.
 */
const forgetBatch = 40;

export type SnapshotAction =
  /** nobody finishes them: their replicas are to drop what they have */
  | { type: 'give-up-snapshots'; snapshots: SnapshotRecord[]; reason: string }
  /** no replica has them any more; of one volume */
  | { type: 'forget-snapshots'; snapshots: Versioned<SnapshotRecord>[]; withNames: boolean };

/** Finishes what was begun with snapshots. It remembers only since when something has waited. */
export class SnapshotKeeper {
  readonly #sinceMs = new Map<SnapshotId, number>();

  plan(state: ClusterState, nowMs: number): SnapshotAction[] {
    const actions: SnapshotAction[] = [];
    const waiting = new Set<SnapshotId>();
    const late: SnapshotRecord[] = [];
    const left: SnapshotRecord[] = [];
    for (const [volumeId, table] of state.snapshots) {
      const gone = this.#gone(state, volumeId, [...table.values()]);
      if (gone) actions.push(gone);
      // of a volume in the trash nothing is taken, dropped or forgotten
      if (!state.volumes.has(volumeId)) continue;
      for (const { value } of table.values()) {
        const patienceMs = patienceWith(value);
        if (patienceMs === null) continue;
        waiting.add(value.id);
        const sinceMs = this.#sinceMs.get(value.id) ?? nowMs;
        this.#sinceMs.set(value.id, sinceMs);
        if (nowMs - sinceMs < patienceMs) continue;
        (value.state === 'creating' ? late : left).push(value);
      }
    }
    for (const id of this.#sinceMs.keys()) if (!waiting.has(id)) this.#sinceMs.delete(id);
    const seconds = takePatienceMs / 1000;
    if (late.length > 0)
      actions.push({
        type: 'give-up-snapshots',
        snapshots: late.slice(0, forgetBatch),
        reason: `it was not finished within ${seconds} s`,
      });
    if (left.length > 0)
      actions.push({
        type: 'give-up-snapshots',
        snapshots: left.slice(0, forgetBatch),
        reason: 'the clone that it was taken for is made, or was given up',
      });
    return actions;
  }

  #gone(
    state: ClusterState,
    volumeId: VolumeId,
    all: Versioned<SnapshotRecord>[],
  ): SnapshotAction | null {
    if (state.trash.has(volumeId)) return null;
    const volume = state.volumes.get(volumeId)?.value;
    const gone = volume
      ? all.filter(({ value }) => value.state === 'deleting' && isDropped(state, volume, value))
      : all;
    if (gone.length === 0) return null;
    // a live volume's names are free since its snapshots are being deleted
    const withNames = volume === undefined;
    return { type: 'forget-snapshots', snapshots: gone.slice(0, forgetBatch), withNames };
  }
}

/** How long it may stay as it is (ms); null: for ever. */
function patienceWith({ state, isHidden }: SnapshotRecord): number | null {
  if (state === 'creating') return takePatienceMs;
  return isHidden && state === 'ready' ? hiddenPatienceMs : null;
}
