import { StorError } from '@stor/protocol';
import type { DiskId, NodeId, ReplicaId, SnapshotId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort, SnapshotDrop } from '../agent-port.ts';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import { droppedFrom } from '../core/volume/snapshot-rules.ts';
import { snapshotKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { SnapshotRecords } from './snapshot-records.ts';
import type { SnapshotRef } from './snapshot-records.ts';

/** A replica that could not drop is asked again after this (ms): nobody waits for it. */
const retryMs = 10_000;
/** Snapshots that a replica is asked to drop at once. */
const batch = 64;
/**
 * Replicas that drop at the same time: their disks make it durable together, and it is noted for all of
 * them at once. Each replica of a volume is named in one record, so notes of single ones get in each
 * other's way, on this node and with those of others.
 */
const replicasAtOnce = 256;
/** Records changed in one transaction: with the ids of 1,280 replicas each has some 30 KiB. */
const recordsAtOnce = 32;
/** Other nodes report of the same snapshots at the same moment. */
const maxConflicts = 10;

const orphansText =
  'snapshots are ready that the records never called so: they are kept, and no record knows them';

interface Drop {
  diskId: DiskId;
  replicaId: ReplicaId;
  snapshots: (SnapshotRef & SnapshotDrop)[];
}

/**
 * Drops snapshots that are being deleted from the replicas of this node, attached or not, and notes
 * that in their records. The primary does the same for its members; both find done what the other did.
 */
export class SnapshotReconciler {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #agent: AgentPort;
  readonly #records: SnapshotRecords;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #notBeforeMs = new Map<ReplicaId, number>();
  readonly #changed: () => void;
  #work: Promise<void> | null = null;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    agent: AgentPort;
    nodeId: NodeId;
    clock: Clock;
    logger: Logger;
    /** called when something has finished and it is worth looking again */
    changed: () => void;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#agent = options.agent;
    this.#records = new SnapshotRecords(options.store);
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#changed = options.changed;
  }

  /** Starts what the state asks for; returns at once. */
  reconcile(): void {
    if (this.#work) return;
    const drops = this.#wanted();
    if (drops.length === 0) return;
    this.#work = this.#dropAll(drops).then((isProgress) => {
      this.#work = null;
      if (isProgress) this.#changed();
    });
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    await this.#work;
  }

  #wanted(): Drop[] {
    const { state } = this.#cache;
    const nowMs = this.#clock.monotonicMs();
    const drops: Drop[] = [];
    for (const [volumeId, table] of state.snapshots) {
      const deleting = [...table.values()].filter(({ value }) => value.state === 'deleting');
      if (deleting.length === 0) continue;
      const left = deleting.map(({ value }) => ({
        drop: { volumeId, id: value.id, neverReady: value.neverReady ?? false },
        by: new Set(value.dropped),
      }));
      const segments = state.volumes.get(volumeId)?.value.status.segments ?? [];
      for (const { id: replicaId, nodeId, diskId, state: at } of segments.flatMap(
        (segment) => segment.replicas,
      )) {
        if (nodeId !== this.#nodeId || at !== 'ready') continue;
        if (nowMs < (this.#notBeforeMs.get(replicaId) ?? 0)) continue;
        const mine = left.filter(({ by }) => !by.has(replicaId));
        const snapshots = mine.slice(0, batch).map(({ drop }) => drop);
        if (snapshots.length > 0) drops.push({ diskId, replicaId, snapshots });
      }
    }
    return drops;
  }

  /** True when something was dropped and noted. */
  async #dropAll(drops: readonly Drop[]): Promise<boolean> {
    let isProgress = false;
    for (let at = 0; at < drops.length; at += replicasAtOnce) {
      const dropped: Drop[] = [];
      const dropping = drops.slice(at, at + replicasAtOnce).map(async (drop) => {
        const { diskId, replicaId, snapshots } = drop;
        try {
          const drops = snapshots.map(({ id, neverReady }) => ({ id, neverReady }));
          const kept = await this.#agent.dropSnapshots(diskId, replicaId, drops);
          if (kept.length > 0) this.#logger.warn({ replicaId, kept }, orphansText);
          dropped.push(drop);
        } catch (error) {
          this.#later([drop], error);
        }
      });
      await Promise.all(dropping);
      if (dropped.length === 0) continue;
      try {
        await this.#note(dropped);
        for (const { replicaId } of dropped) this.#notBeforeMs.delete(replicaId);
        isProgress = true;
      } catch (error) {
        this.#later(dropped, error);
      }
    }
    return isProgress;
  }

  #later(drops: readonly Drop[], error: unknown): void {
    const { message } = StorError.from(error);
    const replicaIds = drops.map(({ replicaId }) => replicaId);
    this.#logger.warn({ replicaIds, error: message }, 'snapshots not dropped, will retry');
    const notBeforeMs = this.#clock.monotonicMs() + retryMs;
    for (const id of replicaIds) this.#notBeforeMs.set(id, notBeforeMs);
  }

  async #note(dropped: readonly Drop[]): Promise<void> {
    const bySnapshot = new Map<SnapshotId, { ref: SnapshotRef; replicas: ReplicaId[] }>();
    for (const { replicaId, snapshots } of dropped) {
      for (const ref of snapshots) {
        const note = bySnapshot.get(ref.id) ?? { ref, replicas: [] };
        note.replicas.push(replicaId);
        bySnapshot.set(ref.id, note);
      }
    }
    const notes = [...bySnapshot.values()];
    for (let at = 0; at < notes.length; at += recordsAtOnce) {
      await this.#write(notes.slice(at, at + recordsAtOnce));
    }
  }

  async #write(notes: readonly { ref: SnapshotRef; replicas: ReplicaId[] }[]): Promise<void> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const compare: Compare[] = [];
      const operations: Operation[] = [];
      for (const [index, { ref, replicas }] of notes.entries()) {
        const known = await this.#records.read(ref, index > 0);
        const record = known && droppedFrom(known.value, replicas);
        if (!known || !record) continue;
        const key = snapshotKey(ref.volumeId, ref.id);
        compare.push({ key, modRevision: known.modRevision });
        operations.push({ type: 'put', key, value: encodeRecord(record) });
      }
      if (operations.length === 0) return;
      const { succeeded } = await this.#store.transact({ compare, operations });
      if (succeeded) return;
    }
    throw new StorError('CONFLICT', 'the records of the snapshots change too often');
  }
}
