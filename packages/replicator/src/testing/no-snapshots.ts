import { StorError } from '@stor/protocol';

import type { ChangedExtent, SnapshotOrders } from '../primary/primary-volume.ts';

/** For models of primaries that are about other things. */
export class NoSnapshots implements SnapshotOrders {
  hold(): Promise<void> {
    return refused();
  }
  prepareSnapshot(): Promise<void> {
    return refused();
  }
  release(): { heldMs: number; intact: boolean } {
    return { heldMs: 0, intact: false };
  }
  sealSnapshot(): Promise<void> {
    return refused();
  }
  confirmSnapshot(): Promise<void> {
    return refused();
  }
  dropSnapshot(): Promise<void> {
    return refused();
  }
  rollback(): Promise<void> {
    return refused();
  }
  resize(): Promise<void> {
    return refused();
  }
  changedExtents(): Promise<ChangedExtent[]> {
    return refused();
  }
}

function refused(): Promise<never> {
  return Promise.reject(new StorError('FAILED_PRECONDITION', 'this model has no snapshots'));
}
