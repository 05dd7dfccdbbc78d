import type { NodeId, VolumeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { holderLives, wantedNode } from './attachment-rules.ts';
import { wholeReplicas } from './whole-replicas.ts';

/**
 * A volume must be free for this long before its node is asked (ms): a client that comes back to
 * another node wins, and a node that stops gives everything back before its lease ends.
 */
export const reattachDelayMs = 2_000;
/** First and longest wait between two tries to attach one volume where it is wanted (ms). */
export const reattachBackoffMs = 2_000;
export const reattachBackoffMaxMs = 60_000;

interface Memory {
  nodeId: NodeId;
  /** a node that was started again is asked anew */
  agentInstance: string;
  freeSinceMs: number | null;
  heldSinceMs: number | null;
  tries: number;
  notBeforeMs: number;
}

/**
 * Attachments that operators ordered hold until `detach`: when one has ended, its node is asked
 * again as soon as it is up and nobody holds the volume. Nothing is taken from another holder.
 */
export class WantedAttachments {
  readonly #memories = new Map<VolumeId, Memory>();

  /**
   * The node to ask now; `soon`: it is about to be asked for the first time, so nobody else should
   * be; null: nobody is to be asked now. `nowMs` is monotonic.
   */
  plan(
    state: ClusterState,
    volume: StoredVolume,
    nowMs: number,
  ): { nodeId: NodeId } | 'soon' | null {
    const { id } = volume.metadata;
    const nodeId = wantedNode(volume);
    const lease = nodeId === null ? undefined : state.leases.get(nodeId)?.value;
    if (nodeId === null || !lease) {
      this.#memories.delete(id);
      return null;
    }
    const memory = this.#memoryOf(id, nodeId, lease.agentInstance);
    const holder = volume.status.attachment;
    const holderLease = holder ? (state.leases.get(holder.nodeId)?.value ?? null) : null;
    if (holder && holderLives(holder, holderLease)) {
      this.#noteHeld(memory, holder.nodeId, nowMs);
      return null;
    }
    memory.heldSinceMs = null;
    // without its data no node can serve it, and trying would keep it from those that could soon
    memory.freeSinceMs = hasSource(state, volume) ? (memory.freeSinceMs ?? nowMs) : null;
    if (memory.freeSinceMs === null) return null;
    if (nowMs < Math.max(memory.freeSinceMs + reattachDelayMs, memory.notBeforeMs)) {
      return memory.tries === 0 ? 'soon' : null;
    }
    const waitMs = Math.min(reattachBackoffMs * 2 ** memory.tries, reattachBackoffMaxMs);
    memory.tries += 1;
    memory.notBeforeMs = nowMs + waitMs;
    return { nodeId };
  }

  /** It is wanted nowhere, or held where it is wanted, and nothing is counted down or up. */
  mayRest(state: ClusterState, volume: StoredVolume): boolean {
    const nodeId = wantedNode(volume);
    if (nodeId === null) return true;
    const { attachment } = volume.status;
    const lease = state.leases.get(nodeId)?.value ?? null;
    const memory = this.#memories.get(volume.metadata.id);
    const isHeld = attachment?.nodeId === nodeId && holderLives(attachment, lease);
    return isHeld && memory?.tries === 0 && memory.heldSinceMs !== null;
  }

  /** Forgets volumes that are gone. */
  forget(state: ClusterState): void {
    for (const id of this.#memories.keys()) if (!state.volumes.has(id)) this.#memories.delete(id);
  }

  #memoryOf(id: VolumeId, nodeId: NodeId, agentInstance: string): Memory {
    const known = this.#memories.get(id);
    if (known?.nodeId === nodeId && known.agentInstance === agentInstance) return known;
    const fresh: Memory = {
      nodeId,
      agentInstance,
      freeSinceMs: null,
      heldSinceMs: null,
      tries: 0,
      notBeforeMs: 0,
    };
    this.#memories.set(id, fresh);
    return fresh;
  }

  /** The waits grow over attachments that end soon; one that held for long was a success. */
  #noteHeld(memory: Memory, holderId: NodeId, nowMs: number): void {
    memory.freeSinceMs = null;
    if (holderId !== memory.nodeId) {
      memory.heldSinceMs = null;
      return;
    }
    memory.heldSinceMs ??= nowMs;
    if (nowMs - memory.heldSinceMs >= reattachBackoffMaxMs) memory.tries = 0;
  }
}

/** Each segment has an in-sync replica on a node that is up. */
function hasSource(state: ClusterState, volume: StoredVolume): boolean {
  return volume.status.segments.every((segment) =>
    segment.replicas.some(
      (r) =>
        r.state === 'ready' &&
        wholeReplicas(segment, volume.status.epoch).includes(r.id) &&
        isUp(state, r.nodeId),
    ),
  );
}
