import type { StorError } from '@stor/protocol';
import type { BlockRequest } from '@stor/replicator';
import type { SharedBytes } from '@stor/runtime';
import type { Flow, QosItem, ThrottleReason } from '../core/qos/flow.ts';
import type { RequestKind } from '../exports/kept-request.ts';
import type { QosDevice } from './qos-device.ts';

/** Who is told that a request is finished. */
export interface ScheduledOwner {
  completed(request: ScheduledRequest, error: StorError | null): void;
}

/** Stands for a request of a client while it waits and while it is under way; used again and again. */
export class ScheduledRequest implements BlockRequest, QosItem {
  offset = 0;
  length = 0;
  bytes: Uint8Array | null = null;
  start = 0;
  retained = false;
  memory: SharedBytes | null = null;
  fua = false;
  noHole = false;

  kind: RequestKind = 'read';
  device: QosDevice | null = null;
  isRead = false;
  cost = 0;
  /** bytes that count against limits and guarantees */
  countedBytes = 0;
  heldBytes = 0;
  queuedMs = 0;
  reason: ThrottleReason = 'limit';
  /** place among all that waited */
  order = 0;
  startedMs = 0;
  /** of the event loop, in which it was started */
  turn = 0;
  isGuaranteed = false;
  /** what a queued write was copied to */
  copy: Buffer | null = null;
  /** taken: it waits somewhere else now, or has been refused there */
  state: 'idle' | 'queued' | 'started' | 'taken' = 'idle';
  of: { done(error: StorError | null): void } | null = null;
  /** what follows this part of a large request (bytes) */
  leftBytes = 0;
  isRest = false;
  readonly #owner: ScheduledOwner;

  constructor(owner: ScheduledOwner) {
    this.#owner = owner;
  }

  get flow(): Flow {
    if (!this.device) throw new Error('a request that is not in use was scheduled');
    return this.device.flow;
  }

  done(error: StorError | null): void {
    if (this.state !== 'started' && this.state !== 'taken') {
      throw new Error('a block device finished a request twice');
    }
    this.#owner.completed(this, error);
  }
}
