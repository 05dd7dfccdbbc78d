import type { Random } from '@stor/runtime';

import type { DiskStore, DiskUsage, ReplicaIdentity, ReplicaStore } from '../replica-store.ts';
import { MemoryReplicaState } from './memory-replica-state.ts';
import { MemoryReplicaStore } from './memory-replica-store.ts';
import type { ProcessClock } from './sim-clock.ts';

/** A disk of MemoryReplicaStores. `states` outlives it: give them to the disk of the next process. */
export class MemoryDiskStore implements DiskStore {
  readonly diskId: string;
  readonly path: string;
  readonly failure = null;
  readonly #replicas = new Map<string, MemoryReplicaStore>();
  readonly #clock: ProcessClock;
  readonly #random: Random;

  constructor(
    diskId: string,
    states: readonly MemoryReplicaState[],
    clock: ProcessClock,
    random: Random,
  ) {
    this.diskId = diskId;
    this.path = `/memory/${diskId}`;
    this.#clock = clock;
    this.#random = random;
    for (const state of states) this.open(state);
  }

  replicas(): MemoryReplicaStore[] {
    return [...this.#replicas.values()];
  }
  replica(id: string): MemoryReplicaStore | null {
    return this.#replicas.get(id) ?? null;
  }
  createReplica(identity: ReplicaIdentity): Promise<ReplicaStore> {
    return Promise.resolve(this.open(new MemoryReplicaState(identity)));
  }
  deleteReplica(id: string): Promise<void> {
    this.#replicas.delete(id);
    return Promise.resolve();
  }
  usage(): Promise<DiskUsage> {
    const usedBytes = this.replicas().reduce((sum, each) => sum + each.allocatedBytes, 0);
    const capacityBytes = 2 ** 40;
    const freeBytes = capacityBytes - usedBytes;
    return Promise.resolve({ capacityBytes, usedBytes, freeBytes, reservedBytes: 0 });
  }
  probe(): Promise<void> {
    return Promise.resolve();
  }
  close(): Promise<void> {
    for (const { state } of this.#replicas.values()) {
      state.unflushed.clear();
      state.clean = true;
    }
    return Promise.resolve();
  }
  /** kill -9 */
  crash(): void {
    for (const replica of this.#replicas.values()) replica.crash();
  }

  open(state: MemoryReplicaState): MemoryReplicaStore {
    const store = new MemoryReplicaStore(state, this.diskId, this.#clock, this.#random);
    this.#replicas.set(store.replicaId, store);
    return store;
  }
}
