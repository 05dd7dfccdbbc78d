import type { StorError } from '@stor/protocol';

import type { BlockDevice } from '../block-device.ts';
import type { PrimaryStatus } from '../replicator-ports.ts';

/** An attached volume on its primary. */
export interface PrimaryVolume extends BlockDevice {
  readonly volumeId: string;
  readonly epoch: number;
  status(): PrimaryStatus;
  /**
   * Refuses new requests, finishes those that were started, flushes, and ends with a checkpoint so
   * that nothing stays marked where possible. Resolves when nothing is under way. Works twice.
   */
  stop(): Promise<void>;
  /**
   * Called once when this primary is over: STALE_EPOCH (a newer one exists), ABORTED (stopped),
   * UNAVAILABLE. Every later request fails with the reason.
   */
  onStopped(listener: (reason: StorError) => void): void;
}
