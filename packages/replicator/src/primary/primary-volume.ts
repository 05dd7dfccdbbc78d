import type { ScrubOrder, ScrubProgress, StorError, VolumeSettings } from '@stor/protocol';

import type { BlockDevice } from '../block-device.ts';
import type { PrimaryStatus } from '../replicator-ports.ts';

/** An attached volume on its primary. */
export interface PrimaryVolume extends BlockDevice {
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
  /** a scrub is under way: whoever would detach an unused volume should wait */
  readonly isScrubbing: boolean;
  /**
   * Called once when this primary is over: STALE_EPOCH (a newer one exists), ABORTED (stopped),
   * UNAVAILABLE. Every later request fails with the reason.
   */
  onStopped(listener: (reason: StorError) => void): void;
}
