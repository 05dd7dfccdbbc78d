import { blockBytes } from '@stor/protocol';
import type { ReplicaStore } from '@stor/replicator';

import type { ProcessClock } from '../world/process-clock.ts';
import type { SimScheduler } from '../world/scheduler.ts';
import type { ImageContent, ReplicaView } from './sim-cluster.ts';

/** A replica of a process that may die while it is looked at. */
export function viewOf(
  store: ReplicaStore,
  node: number,
  clock: ProcessClock,
  scheduler: SimScheduler,
): ReplicaView {
  return {
    replicaId: store.replicaId,
    node,
    failed: store.failure?.message ?? null,
    marks: store.marks(),
    highestEpoch: store.highestEpoch,
    setRevision: store.setView?.setRevision ?? 0,
    keptMemory: store.keptMemory,
    content: () => contentOf(store, clock, scheduler),
    snapshots: store.snapshots().map(({ snapshotId: id, state }) => ({ id, state })),
    snapshot: (id) => {
      const view = store.view(id);
      return view ? contentOf(view, clock, scheduler) : Promise.resolve(null);
    },
  };
}

function contentOf(
  image: Pick<ReplicaStore, 'sizeBytes' | 'readUnverified'>,
  clock: ProcessClock,
  scheduler: SimScheduler,
): Promise<ImageContent | null> {
  return new Promise((resolve) => {
    const sizeBytes = Math.ceil(image.sizeBytes / blockBytes) * blockBytes;
    // all of it is filled where it is valid
    const bytes = Buffer.allocUnsafeSlow(sizeBytes);
    const valid = new Uint8Array(sizeBytes / blockBytes);
    const watch = (): void => {
      if (clock.dead) resolve(null);
      else scheduler.at(1_000, watch);
    };
    watch();
    image.readUnverified(0, sizeBytes, bytes, 0, valid, (error) => {
      resolve(error ? null : { bytes, valid });
    });
  });
}
