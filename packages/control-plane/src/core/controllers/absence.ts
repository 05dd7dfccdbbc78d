import type { DiskId, NodeId, VolumeReplica } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { NodeRecord } from '../../resources/records.ts';
import { isInMaintenance } from '../node/node-intent.ts';

/**
 * A leader must itself have seen a node or disk away for this long (ms) before its replicas count as
 * lost, however long ago the records say it went: after a power cut of the whole cluster the nodes
 * come back one by one, and wall clocks may jump.
 */
export const leaderGraceMs = 60_000;

/** Now, by two clocks: the wall clock is compared with what records say, the other never jumps. */
export interface Now {
  monotonicMs: number;
  wallMs: number;
}

/** A change of a node's record: down since then; null: it is up again. */
export interface AbsenceNote {
  node: Versioned<NodeRecord>;
  downSinceMs: number | null;
}

/** Since when nodes and disks are away. Only when this leader first saw it is kept here. */
export class Absence {
  readonly #nodes = new Map<NodeId, number>();
  readonly #disks = new Map<DiskId, number>();

  /** Call at each look, before the questions; returns what the records do not say yet. */
  look(state: ClusterState, now: Now): AbsenceNote[] {
    const notes: AbsenceNote[] = [];
    for (const [id, node] of state.nodes) {
      const { downSinceMs } = node.value;
      if (isUp(state, id)) {
        this.#nodes.delete(id);
        if (downSinceMs !== undefined) notes.push({ node, downSinceMs: null });
        continue;
      }
      if (!this.#nodes.has(id)) this.#nodes.set(id, now.monotonicMs);
      if (downSinceMs === undefined) notes.push({ node, downSinceMs: now.wallMs });
    }
    for (const id of this.#nodes.keys()) if (!state.nodes.has(id)) this.#nodes.delete(id);
    for (const [id, disk] of state.disks) {
      if (disk.value.unusableSinceMs === undefined) this.#disks.delete(id);
      else if (!this.#disks.has(id)) this.#disks.set(id, now.monotonicMs);
    }
    for (const id of this.#disks.keys()) if (!state.disks.has(id)) this.#disks.delete(id);
    return notes;
  }

  /** The replica failed for good, or has been away for longer than `waitMs`. */
  isLost(state: ClusterState, replica: VolumeReplica, waitMs: number, now: Now): boolean {
    if (replica.state === 'failed') return true;
    const node = state.nodes.get(replica.nodeId)?.value;
    // somebody works on it and says when it is back
    if (isInMaintenance(node, now.wallMs)) return false;
    const { downSinceMs } = node ?? {};
    const seenDownMs = this.#nodes.get(replica.nodeId);
    if (isOver({ recordedMs: downSinceMs, seenMs: seenDownMs }, waitMs, now)) return true;
    const { unusableSinceMs } = state.disks.get(replica.diskId)?.value ?? {};
    const seenDiskMs = this.#disks.get(replica.diskId);
    return isOver({ recordedMs: unusableSinceMs, seenMs: seenDiskMs }, waitMs, now);
  }
}

function isOver(
  since: { recordedMs: number | undefined; seenMs: number | undefined },
  waitMs: number,
  now: Now,
): boolean {
  if (since.recordedMs === undefined || since.seenMs === undefined) return false;
  const seenLongEnough = now.monotonicMs - since.seenMs >= Math.min(waitMs, leaderGraceMs);
  return seenLongEnough && now.wallMs - since.recordedMs >= waitMs;
}
