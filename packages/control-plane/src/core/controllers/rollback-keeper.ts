import type { VolumeId } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { unsettledVolumes } from '../../resources/state-index.ts';

/** The node that was asked for a rollback has so long to finish it before the leader does (ms). */
export const rollbackPatienceMs = 5_000;
/** First and longest wait between two tries to finish one (ms). */
export const rollbackBackoffMs = 2_000;
export const rollbackBackoffMaxMs = 30_000;

interface Memory {
  id: string;
  tries: number;
  notBeforeMs: number;
}

/** Which rollbacks are to be carried on: whoever began them may be dead, and clients wait. */
export class RollbackKeeper {
  readonly #memories = new Map<VolumeId, Memory>();

  /** `nowMs` is monotonic. */
  plan(state: ClusterState, nowMs: number): VolumeId[] {
    const due: VolumeId[] = [];
    for (const id of this.#memories.keys())
      if (!state.volumes.get(id)?.value.status.rollback) this.#memories.delete(id);
    for (const { value } of unsettledVolumes(state.volumes)) {
      const volumeId = value.metadata.id;
      const { rollback } = value.status;
      if (!rollback) continue;
      let memory = this.#memories.get(volumeId);
      if (memory?.id !== rollback.id) {
        memory = { id: rollback.id, tries: 0, notBeforeMs: nowMs + rollbackPatienceMs };
        this.#memories.set(volumeId, memory);
      }
      if (nowMs < memory.notBeforeMs) continue;
      const waitMs = Math.min(rollbackBackoffMs * 2 ** memory.tries, rollbackBackoffMaxMs);
      memory.tries += 1;
      memory.notBeforeMs = nowMs + waitMs;
      due.push(volumeId);
    }
    return due;
  }
}
