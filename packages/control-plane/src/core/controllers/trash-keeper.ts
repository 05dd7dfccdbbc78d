import type { VolumeId } from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { leaderGraceMs } from './absence.ts';
import type { Now } from './absence.ts';

/**
 * Which volumes have been in the trash for long enough. What the records say is compared with the
 * wall clock, which may be wrong when a host starts: a leader must itself have seen a volume there
 * for a while before it counts.
 */
export class TrashKeeper {
  readonly #sinceMs = new Map<VolumeId, number>();

  due(state: ClusterState, now: Now): Versioned<StoredVolume>[] {
    for (const id of this.#sinceMs.keys()) if (!state.trash.has(id)) this.#sinceMs.delete(id);
    const due: Versioned<StoredVolume>[] = [];
    for (const [id, volume] of state.trash) {
      const sinceMs = this.#sinceMs.get(id) ?? now.monotonicMs;
      this.#sinceMs.set(id, sinceMs);
      const { trash } = volume.value;
      if (!trash || now.wallMs < trash.keptUntilMs) continue;
      const keepMs = trash.keptUntilMs - trash.deletedAtMs;
      if (now.monotonicMs - sinceMs >= Math.min(keepMs, leaderGraceMs)) due.push(volume);
    }
    return due;
  }
}
