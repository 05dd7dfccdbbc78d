import type { StorError } from '@stor/protocol';
import type { BlockRequest } from '@stor/replicator';
import { costOf } from '../core/qos/cost.ts';
import type { Flow } from '../core/qos/flow.ts';
import type { RequestKind } from '../exports/kept-request.ts';
import { ReadBufferPool } from '../nbd/read-buffer-pool.ts';
import type { QosDevice } from './qos-device.ts';
import { ScheduledRequest, type ScheduledOwner } from './scheduled-request.ts';

const mib = 1024 * 1024;

/** Copies of written bytes that are kept for reuse (bytes). */
const pooledBytes = 8 * mib;
/** Request objects that are kept for reuse. */
const maxPooledRequests = 1_024;
/** How much of a request is begun at once (bytes). */
type PartOf = (flow: Flow, kind: RequestKind, offset: number, length: number) => number;

/** The request objects of one lane, and the copies of what is written that they keep: both are used again. */
export class ScheduledRequests {
  readonly #owner: ScheduledOwner;
  readonly #partOf: PartOf;
  readonly #idle: ScheduledRequest[] = [];
  readonly #copies = new ReadBufferPool(pooledBytes);
  #orders = 0;

  constructor(owner: ScheduledOwner, partOf: PartOf) {
    this.#owner = owner;
    this.#partOf = partOf;
  }

  /** Of what a client asks for. */
  make(
    device: QosDevice,
    kind: RequestKind,
    request: BlockRequest,
    nowMs: number,
  ): ScheduledRequest {
    const scheduled = this.take(device);
    scheduled.of = request;
    scheduled.kind = kind;
    scheduled.isRead = kind === 'read';
    scheduled.offset = request.offset;
    scheduled.length = request.length;
    scheduled.bytes = request.bytes;
    scheduled.start = request.start;
    scheduled.retained = request.retained;
    scheduled.memory = request.retained ? (request.memory ?? null) : null;
    scheduled.fua = request.fua;
    scheduled.noHole = request.noHole;
    scheduled.isRest = false;
    scheduled.leftBytes = 0;
    scheduled.order = this.#orders++;
    const bytes = this.#partOf(device.flow, kind, request.offset, request.length);
    scheduled.cost = costOf(bytes, request.bytes !== null);
    scheduled.countedBytes = countedBytes(kind, request);
    scheduled.queuedMs = nowMs;
    return scheduled;
  }

  /** A write that outlives the call that brought it has its own copy of what is written. */
  keepPayload(scheduled: ScheduledRequest): void {
    const { bytes, start, length } = scheduled;
    if (!bytes || scheduled.retained) return;
    const copy = this.#copies.take(length);
    copy.set(bytes.subarray(start, start + length));
    scheduled.copy = copy;
    scheduled.bytes = copy;
    scheduled.start = 0;
    scheduled.retained = true;
  }

  /** What follows the part that was begun, as a request of its own, with the client to answer. */
  restOf(begun: ScheduledRequest, nowMs: number): ScheduledRequest {
    const { device, kind, length } = begun;
    if (!device) throw new Error('a request without a device has parts');
    const rest = this.take(device);
    rest.of = begun.of;
    rest.kind = kind;
    rest.isRead = begun.isRead;
    rest.offset = begun.offset + length;
    rest.length = begun.leftBytes;
    rest.leftBytes = 0;
    rest.bytes = begun.bytes;
    rest.start = begun.start + length;
    rest.retained = begun.retained;
    rest.memory = begun.memory;
    rest.copy = begun.copy;
    rest.fua = begun.fua;
    rest.noHole = begun.noHole;
    rest.isRest = true;
    rest.cost = costOf(this.#partOf(device.flow, kind, rest.offset, rest.length), true);
    rest.countedBytes = 0;
    rest.queuedMs = nowMs;
    rest.order = begun.order;
    return rest;
  }

  /** Takes what has not begun out of a request: the client is answered when both are done with. */
  cut(begun: ScheduledRequest, nowMs: number): ScheduledRequest {
    const rest = this.restOf(begun, nowMs);
    const { of, copy } = begun;
    if (!of) throw new Error('a request without a client has parts');
    let open = 2;
    let failed: StorError | null = null;
    const both = {
      done: (error: StorError | null): void => {
        failed ??= error;
        open -= 1;
        if (open > 0) return;
        if (copy) this.giveCopy(copy);
        of.done(failed);
      },
    };
    for (const part of [begun, rest]) {
      part.of = both;
      part.copy = null;
      part.leftBytes = 0;
    }
    return rest;
  }

  /** Nobody needs it any more. */
  giveCopy(copy: Parameters<ReadBufferPool['give']>[0]): void {
    this.#copies.give(copy);
  }

  /** An unused one, as the last left it but for the device. */
  take(device: QosDevice): ScheduledRequest {
    const scheduled = this.#idle.pop() ?? new ScheduledRequest(this.#owner);
    scheduled.device = device;
    return scheduled;
  }

  recycle(scheduled: ScheduledRequest): void {
    scheduled.state = 'idle';
    scheduled.device = null;
    if (this.#idle.length < maxPooledRequests) this.#idle.push(scheduled);
  }
}

/**
 * Bytes that limits and guarantees count: those that are read or written. A range that is freed or
 * made a hole costs a request; one that keeps its space is as good as written.
 */
export function countedBytes(kind: RequestKind, { length, noHole }: BlockRequest): number {
  if (kind === 'trim') return 0;
  return kind === 'writeZeroes' && !noHole ? 0 : length;
}
