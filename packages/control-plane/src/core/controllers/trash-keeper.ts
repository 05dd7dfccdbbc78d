import type { VolumeId } from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';

/** How much of a volume's time in the trash a change of leader may forget (ms): it stays longer then. */
export const trashNoteMs = 600_000;
/** ... and at least so much, however short it is kept (ms): each note is a write to the store. */
export const trashNoteMinMs = 60_000;
/** Two looks are seconds apart: what is longer was no time of leading, and does not count (ms). */
export const trashLookMaxMs = 60_000;

export type TrashAction =
  /** its time is over */
  | { type: 'empty-trash'; volume: Versioned<StoredVolume> }
  /** to be recorded, for the next leader */
  | { type: 'note-trash-age'; volume: Versioned<StoredVolume>; agedMs: number };

interface Memory {
  /** what the record said at the last look */
  notedMs: number;
  /** counted since then */
  moreMs: number;
  seenMs: number;
}

/**
 * Which volumes have been in the trash for long enough. Their time is counted by the clocks of leaders that
 * never jump, and recorded now and then; wall clocks are not asked, because one that is wrong by days
 * would delete for good what is still wanted.
 */
export class TrashKeeper {
  readonly #memories = new Map<VolumeId, Memory>();

  /** `nowMs` is monotonic. */
  plan(state: ClusterState, nowMs: number): TrashAction[] {
    for (const id of this.#memories.keys()) if (!state.trash.has(id)) this.#memories.delete(id);
    const actions: TrashAction[] = [];
    for (const [id, volume] of state.trash) {
      const { trash } = volume.value;
      if (!trash) continue;
      const keepMs = trash.keptUntilMs - trash.deletedAtMs;
      const moreMs = this.#count(id, trash.agedMs ?? 0, nowMs);
      const agedMs = (trash.agedMs ?? 0) + moreMs;
      const noteMs = Math.min(trashNoteMs, Math.max(trashNoteMinMs, keepMs / 10));
      if (agedMs >= keepMs) actions.push({ type: 'empty-trash', volume });
      else if (moreMs >= noteMs) actions.push({ type: 'note-trash-age', volume, agedMs });
    }
    return actions;
  }

  /** What this leader has counted and the record does not say (ms). */
  #count(id: VolumeId, notedMs: number, nowMs: number): number {
    const memory = this.#memories.get(id) ?? { notedMs, moreMs: 0, seenMs: nowMs };
    this.#memories.set(id, memory);
    memory.moreMs += Math.min(nowMs - memory.seenMs, trashLookMaxMs);
    // what was noted since the last look, here or by a leader before
    memory.moreMs = Math.max(0, memory.moreMs - Math.max(0, notedMs - memory.notedMs));
    memory.notedMs = notedMs;
    memory.seenMs = nowMs;
    return memory.moreMs;
  }
}
