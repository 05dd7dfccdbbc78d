import type { SnapshotId } from '@stor/protocol';

import type { ChangedExtent, SnapshotOrders } from './primary-volume.ts';

/** A volume that has somebody who carries out its orders. */
export abstract class OrderedVolume implements SnapshotOrders {
  protected abstract readonly orders: SnapshotOrders;

  hold(options: { token: string; holdMs: number }): Promise<void> {
    return this.orders.hold(options);
  }
  prepareSnapshot(options: { token: string; snapshotId: SnapshotId }): Promise<void> {
    return this.orders.prepareSnapshot(options);
  }
  release(token: string): { heldMs: number; intact: boolean } {
    return this.orders.release(token);
  }
  sealSnapshot(snapshotId: SnapshotId): Promise<void> {
    return this.orders.sealSnapshot(snapshotId);
  }
  confirmSnapshot(snapshotId: SnapshotId): Promise<void> {
    return this.orders.confirmSnapshot(snapshotId);
  }
  dropSnapshot(snapshotId: SnapshotId): Promise<void> {
    return this.orders.dropSnapshot(snapshotId);
  }
  rollback(snapshotId: SnapshotId, options?: { token: string }): Promise<void> {
    return this.orders.rollback(snapshotId, options);
  }
  resize(sizeBytes: number): Promise<void> {
    return this.orders.resize(sizeBytes);
  }
  changedExtents(from: SnapshotId | null, to: SnapshotId | null): Promise<ChangedExtent[]> {
    return this.orders.changedExtents(from, to);
  }
}
