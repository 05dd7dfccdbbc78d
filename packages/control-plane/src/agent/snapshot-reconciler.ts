import { StorError } from '@stor/protocol';
import type { DiskId, NodeId, ReplicaId, SnapshotId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort } from '../agent-port.ts';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import { droppedFrom } from '../core/volume/snapshot-rules.ts';
import { snapshotKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { SnapshotRecords } from './snapshot-records.ts';
import type { SnapshotRef } from './snapshot-records.ts';

/** A replica that could not drop is asked again after this (ms): nobody waits for it. */
const retryMs = 10_000;
/** Snapshots that a replica is asked to drop at once, and records changed in one transaction. */
const batch = 64;
/** Other nodes report of the same snapshots at the same moment. */
const maxConflicts = 10;

interface Drop {
  diskId: DiskId;
  replicaId: ReplicaId;
  snapshots: SnapshotRef[];
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
      const segments = state.volumes.get(volumeId)?.value.status.segments ?? [];
      for (const { id: replicaId, nodeId, diskId, state: at } of segments.flatMap(
        (segment) => segment.replicas,
      )) {
        if (nodeId !== this.#nodeId || at !== 'ready') continue;
        if (nowMs < (this.#notBeforeMs.get(replicaId) ?? 0)) continue;
        const mine = deleting.filter(({ value }) => !value.dropped.includes(replicaId));
        const snapshots = mine.slice(0, batch).map(({ value }) => ({ volumeId, id: value.id }));
        if (snapshots.length > 0) drops.push({ diskId, replicaId, snapshots });
      }
    }
    return drops;
  }

  /** True when something was dropped and noted. */
  async #dropAll(drops: readonly Drop[]): Promise<boolean> {
    let isProgress = false;
    for (const { diskId, replicaId, snapshots } of drops) {
      try {
        const ids: SnapshotId[] = snapshots.map(({ id }) => id);
        await this.#agent.dropSnapshots(diskId, replicaId, ids);
        await this.#note(replicaId, snapshots);
        this.#notBeforeMs.delete(replicaId);
        isProgress = true;
      } catch (error) {
        const { message } = StorError.from(error);
        this.#logger.warn({ replicaId, error: message }, 'snapshots not dropped, will retry');
        this.#notBeforeMs.set(replicaId, this.#clock.monotonicMs() + retryMs);
      }
    }
    return isProgress;
  }

  async #note(replicaId: ReplicaId, snapshots: readonly SnapshotRef[]): Promise<void> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const compare: Compare[] = [];
      const operations: Operation[] = [];
      for (const ref of snapshots) {
        const known = await this.#records.read(ref, compare.length > 0);
        const record = known && droppedFrom(known.value, [replicaId]);
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
