import type { NodeId, VolumeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import type { Now } from '../controllers/absence.ts';
import { holderLives } from '../controllers/attachment-rules.ts';
import { begun, nextDueMs, scrubSettings } from './scrub-record.ts';
import type { ScrubRecord } from './scrub-record.ts';

/** Scrubs that the schedule lets run at a time: volumes that are late do not begin all at once. */
export const maxScheduledScrubs = 4;
/** A volume must be free for so long before a node is asked (ms): clients come first. */
export const scrubAttachDelayMs = 2_000;
/** First and longest wait between two tries to attach one volume for its scrub (ms). */
export const scrubBackoffMs = 5_000;
export const scrubBackoffMaxMs = 300_000;
/** After a search that found no scrub due, before the next one, for each volume (ms). */
const searchPaceMs = 1;

export type ScrubAction =
  | { type: 'put-scrub'; record: ScrubRecord; modRevision: number }
  | { type: 'forget-scrub'; volumeId: VolumeId; modRevision: number }
  | {
      type: 'ask-attach';
      volumeId: VolumeId;
      nodeId: NodeId;
      mode: 'repair';
      onlyIfWanted: false;
    };

interface Memory {
  wantedSinceMs: number;
  tries: number;
  notBeforeMs: number;
}

/**
 * Begins scrubs that are due, and has volumes attached that are scrubbed and attached nowhere.
 * Level-triggered, as the other controllers; it remembers only since when something has waited.
 */
export class ScrubPlanner {
  readonly #memories = new Map<VolumeId, Memory>();
  #nextSearchMs = -Infinity;

  plan(state: ClusterState, now: Now): ScrubAction[] {
    const actions: ScrubAction[] = [];
    for (const [volumeId, { modRevision }] of state.scrubs) {
      if (!state.volumes.has(volumeId))
        actions.push({ type: 'forget-scrub', volumeId, modRevision });
    }
    for (const id of this.#memories.keys()) {
      if (!state.volumes.has(id) || !state.scrubs.get(id)?.value.run) this.#memories.delete(id);
    }
    for (const [id, scrub] of state.scrubs) {
      const volume = state.volumes.get(id)?.value;
      if (volume?.status.phase !== 'ready') continue;
      const attach = scrub.value.run && this.#attach(state, volume, scrub, now.monotonicMs);
      if (attach) actions.push(attach);
    }
    return [...actions, ...this.#begin(state, now)];
  }

  /** Those that are due, as many as may run; after a search for nothing the next one waits a little. */
  #begin(state: ClusterState, now: Now): ScrubAction[] {
    let running = 0;
    for (const { value } of state.scrubs.values()) if (value.run && !value.run.paused) running += 1;
    if (running >= maxScheduledScrubs || now.monotonicMs < this.#nextSearchMs) return [];
    const due: { atMs: number; action: ScrubAction }[] = [];
    const settings = scrubSettings(state);
    for (const { value: volume } of state.volumes.values()) {
      if (volume.status.phase !== 'ready') continue;
      const scrub = state.scrubs.get(volume.metadata.id) ?? null;
      const atMs = nextDueMs(scrub?.value ?? null, volume, settings);
      if (atMs === null || atMs > now.wallMs) continue;
      const begin = { reason: 'schedule' as const, nowWallMs: now.wallMs };
      const record = begun(scrub?.value ?? null, volume.metadata.id, begin);
      const modRevision = scrub?.modRevision ?? 0;
      due.push({ atMs, action: { type: 'put-scrub', record, modRevision } });
    }
    if (due.length === 0) this.#nextSearchMs = now.monotonicMs + state.volumes.size * searchPaceMs;
    // the one that is late by most comes first
    due.sort((a, b) => a.atMs - b.atMs);
    return due.slice(0, maxScheduledScrubs - running).map(({ action }) => action);
  }

  #attach(
    state: ClusterState,
    volume: StoredVolume,
    scrub: Versioned<ScrubRecord>,
    nowMs: number,
  ): ScrubAction | null {
    const { id } = volume.metadata;
    const holder = volume.status.attachment;
    const lease = holder ? (state.leases.get(holder.nodeId)?.value ?? null) : null;
    const isHeld = holder !== null && holderLives(holder, lease);
    if (isHeld || scrub.value.run?.paused !== false) {
      // kept while it is attached: one that gives up in vain must not begin at the shortest wait
      const memory = this.#memories.get(id);
      if (memory) memory.wantedSinceMs = nowMs;
      return null;
    }
    const memory = this.#memories.get(id) ?? { wantedSinceMs: nowMs, tries: 0, notBeforeMs: 0 };
    this.#memories.set(id, memory);
    const nodeId = scrubber(state, volume, memory.tries);
    if (nodeId === null) return null;
    if (nowMs < Math.max(memory.wantedSinceMs + scrubAttachDelayMs, memory.notBeforeMs))
      return null;
    memory.notBeforeMs = nowMs + Math.min(scrubBackoffMs * 2 ** memory.tries, scrubBackoffMaxMs);
    memory.tries += 1;
    return { type: 'ask-attach', volumeId: id, nodeId, mode: 'repair', onlyIfWanted: false };
  }
}

/** A node with an in-sync replica, another one at each try; null: some segment cannot be served. */
function scrubber(state: ClusterState, volume: StoredVolume, tries: number): NodeId | null {
  const sources = volume.status.segments.map((segment) =>
    segment.replicas
      .filter((r) => r.state === 'ready' && isUp(state, r.nodeId))
      .filter((r) => segment.inSync.includes(r.id)),
  );
  if (sources.some((replicas) => replicas.length === 0)) return null;
  const nodes = [...new Set(sources.flat().map((replica) => replica.nodeId))];
  return nodes[tries % Math.max(1, nodes.length)] ?? null;
}
