import type {
  ScrubOrder,
  ScrubProgress,
  SnapshotId,
  StorError,
  VolumeSettings,
} from '@stor/protocol';

import type { BlockDevice } from '../block-device.ts';
import type { PrimaryStatus } from '../replicator-ports.ts';

/**
 * How snapshots are made, by the holder of an order (docs/wire-protocol.md "Snapshots"): hold, prepare,
 * release, seal; then the control plane records the snapshot as ready, and it is confirmed. Several
 * volumes are held together by holding each, and preparing none before all are held.
 *
 * All reject with STALE_EPOCH, ABORTED or UNAVAILABLE when the primary is over, does not serve, or has
 * too few replicas just now: nothing of the order has taken effect then, or it is undone when
 * the same snapshot is dropped. Each may be asked again.
 */
export interface SnapshotOrders {
  /**
   * From now on no write starts; those that were started are finished. Resolves when they are. Reads
   * go on. The hold ends by itself after `holdMs`, counted from this call: TIMEOUT when it is not
   * complete by then. FAILED_PRECONDITION: somebody else holds the volume.
   */
  hold(options: { token: string; holdMs: number }): Promise<void>;
  /**
   * Under the hold `token`: every in-sync replica has the snapshot, durably. FAILED_PRECONDITION
   * when the hold is over. On any error the snapshot is dropped again.
   */
  prepareSnapshot(options: { token: string; snapshotId: SnapshotId }): Promise<void>;
  /**
   * Ends the hold. `intact`: it had lasted until now; otherwise what was prepared under it is void and
   * is being dropped. `heldMs` counts from the call of `hold`.
   */
  release(token: string): { heldMs: number; intact: boolean };
  /** What the snapshot holds is durable on every in-sync replica: it may be recorded as ready. NOT_FOUND. */
  sealSnapshot(snapshotId: SnapshotId): Promise<void>;
  /** The record says `ready`, so the replicas may say so too. NOT_FOUND. */
  confirmSnapshot(snapshotId: SnapshotId): Promise<void>;
  /** No replica that can be reached has it any more. An unknown one is dropped already. */
  dropSnapshot(snapshotId: SnapshotId): Promise<void>;
  /**
   * The volume's content becomes the snapshot's, on every in-sync replica. Holds the volume by itself
   * meanwhile, or under the hold `token` of the caller, which then lasts as long as that takes.
   * NOT_FOUND; FAILED_PRECONDITION when it is not ready. After any other error part of the volume may
   * have been rolled back: ask again.
   */
  rollback(snapshotId: SnapshotId, options?: { token: string }): Promise<void>;
  /**
   * Makes every in-sync replica so large, durably. The device grows when `update` brings the new size
   * of the record. A smaller size: INVALID_ARGUMENT.
   */
  resize(sizeBytes: number): Promise<void>;
  /**
   * What may differ between two images, in whole chunks, ascending and apart. `from` null: an
   * empty one; `to` null: the volume as it is now. NOT_FOUND.
   */
  changedExtents(from: SnapshotId | null, to: SnapshotId | null): Promise<ChangedExtent[]>;
}

export interface ChangedExtent {
  offset: number;
  length: number;
}

/** An attached volume on its primary. */
export interface PrimaryVolume extends BlockDevice, SnapshotOrders {
  readonly volumeId: string;
  readonly epoch: number;
  status(): PrimaryStatus;
  /** Resolves when every request that was started is answered; ask again only after that. */
  idle(): Promise<void>;
  /**
   * What the record says now: policy, replicas that came, go or have gone. Nothing changes when it
   * is of another epoch, or older than what is known. Requests that are held are looked at again.
   */
  update(settings: VolumeSettings): void;
  /**
   * Refuses new requests and finishes those that were started. By default it then ends with a
   * checkpoint, so that nothing stays marked where possible; without, it takes no longer than the
   * requests that are under way, and the next primary has nothing to settle either as long as the
   * members' processes live. Resolves when nothing is under way. Works twice: the first call counts.
   */
  stop(options?: { checkpoint: boolean }): Promise<void>;
  /**
   * Begins a scrub, goes on with it or pauses it, and says how far it is; given again every few
   * seconds, else it stops. Null while the volume does not serve.
   */
  scrub(order: ScrubOrder): ScrubProgress | null;
  /** a scrub is under way, or its end was not heard yet: whoever would detach an unused volume should wait */
  readonly isScrubbing: boolean;
  /**
   * Called once when this primary is over: STALE_EPOCH (a newer one exists), ABORTED (stopped),
   * UNAVAILABLE. Every later request fails with the reason.
   */
  onStopped(listener: (reason: StorError) => void): void;
}
