import type { StorError } from '@stor/protocol';

import type { BufferPool, SharedBytes } from '@stor/runtime';

import type { BlockRequest } from '../block-device.ts';
import type { LockOwner } from '../core/replication/range-lock.ts';
import type { Batch, FrameRef, Outbox } from '../peer/outbox.ts';
import type { StoreDone } from '../replica-store.ts';
import type { Adopt } from './member.ts';

/** Data up to this are copied to where the client wants them (bytes). */
const copiedReadBytes = 64 * 1024;

const noBytes = Buffer.alloc(0);

export type IoKind = 'read' | 'write' | 'zero';

/** One aligned request under way; pooled, because there is one for every client I/O. */
export class IoOp implements LockOwner {
  lockStart = 0;
  lockEnd = 0;
  lockExclusive = true;
  lockSlot = -1;
  kind: IoKind = 'write';
  offset = 0;
  length = 0;
  /** the client's request, or null for an engine's own write */
  request: BlockRequest | null = null;
  /** the engine's own: no policy holds it up */
  isOwn = false;
  /** held since then, as far as was looked; 0: not held, or not looked yet (ms) */
  heldSinceMs = 0;
  /** called in place of `request.done` */
  internalDone: ((error: StorError | null) => void) | null = null;
  fua = false;
  keepAllocated = false;
  bytes: Uint8Array | null = null;
  start = 0;
  /** `bytes` stays as it is until the op is recycled, whatever the client does */
  ownsBytes = false;
  /** unaligned: bytes of the first and last block that come from the disk are still to be read */
  headBytes = 0;
  tailBytes = 0;
  edgesRead = false;
  /** what its reads call when they are over */
  readDone: StoreDone | null = null;
  tailDone: StoreDone | null = null;
  sequence = 0;
  /** the local replica must have it and has not applied it yet */
  localPending = false;
  /** a call of the local store is under way and may use `bytes` */
  localRunning = false;
  localChunks = 0;
  /** the engine's own: frees a chunk that is trimmed in parts, if it still is when this is sent */
  freesChunk = -1;
  /** a member was asked for the room that it needs, and has none */
  roomRefused = false;
  /** decided; kept only until the local store is done with the bytes */
  completed = false;
  /** the answer waits for the local store, which uses the client's bytes */
  answerLater = false;
  failure: StorError | null = null;
  frame: FrameRef | null = null;
  frameBodyBytes = 0;
  readonly #ownFrame = {
    batch: null as Batch | null,
    start: 0,
    end: 0,
    payload: null as Batch | null,
    payloadStart: 0,
    payloadEnd: 0,
  };
  /** the payload's copy, of the lane's pool */
  #pooled: Buffer | null = null;
  /** what the payload arrived in: sent and written from there, without a copy */
  memory: SharedBytes | null = null;
  previous: IoOp | null = null;
  next: IoOp | null = null;
  inPending = false;
  /** a client waits for its answer (`ActiveOps`) */
  isActive = false;
  activeBefore: IoOp | null = null;
  activeAfter: IoOp | null = null;
  onGranted: (op: IoOp) => void;

  constructor(onGranted: (op: IoOp) => void) {
    this.onGranted = onGranted;
  }

  lockGranted(): void {
    this.onGranted(this);
  }

  setRange(kind: IoKind, offset: number, length: number): void {
    this.kind = kind;
    this.offset = offset;
    this.length = length;
    this.lockStart = offset;
    this.lockEnd = offset + length;
    this.lockExclusive = kind !== 'read';
  }

  /** Makes the payload survive the call that brought it. */
  own(buffers: BufferPool, evenRetained = false): void {
    if (this.ownsBytes || !this.bytes || this.kind !== 'write') return;
    if (this.request?.retained === true && !this.frame && !evenRetained) return;
    const copy = buffers.take(this.length);
    this.#pooled = copy;
    copy.set(this.bytes.subarray(this.start, this.start + this.length));
    this.bytes = copy;
    this.start = 0;
    this.ownsBytes = true;
  }

  /** The payload stays where it arrived, whatever the client does. */
  hold(memory: SharedBytes): void {
    this.memory = memory.hold();
    this.ownsBytes = true;
  }

  /** of a read */
  get target(): Uint8Array {
    return this.bytes ?? noBytes;
  }

  /** A client takes whole blocks where they lie, if it can; for small ones a copy is cheaper. */
  get adopt(): Adopt | null {
    const { request } = this;
    if (!request?.adopt || this.length <= copiedReadBytes) return null;
    if (request.offset !== this.offset || request.length !== this.length) return null;
    return (memory, start) => request.adopt?.(memory, start);
  }

  /** Keeps the frame: it is sent again to a member that returns. */
  keepFrame(frame: FrameRef, bodyBytes: number): void {
    const own = this.#ownFrame;
    frame.batch.refs += 1;
    own.batch = frame.batch;
    own.start = frame.start;
    own.end = frame.end;
    own.payload = frame.payload;
    own.payloadStart = frame.payloadStart;
    own.payloadEnd = frame.payloadEnd;
    if (frame.payload) frame.payload.refs += 1;
    this.frame = own as FrameRef;
    this.frameBodyBytes = bodyBytes;
  }

  recycle(outbox: Outbox): void {
    if (this.frame) outbox.release(this.frame.batch);
    if (this.frame?.payload) outbox.release(this.frame.payload);
    this.memory?.release();
    this.memory = null;
    this.#ownFrame.payload = null;
    if (this.#pooled) outbox.buffers.give(this.#pooled);
    this.#pooled = null;
    this.#ownFrame.batch = null;
    this.frame = null;
    this.request = null;
    this.internalDone = null;
    this.bytes = null;
    this.ownsBytes = false;
    this.fua = false;
    this.keepAllocated = false;
    this.isOwn = false;
    this.heldSinceMs = 0;
    this.headBytes = 0;
    this.tailBytes = 0;
    this.edgesRead = false;
    this.readDone = null;
    this.tailDone = null;
    this.sequence = 0;
    this.localPending = false;
    this.localRunning = false;
    this.answerLater = false;
    this.localChunks = 0;
    this.roomRefused = false;
    this.freesChunk = -1;
    this.completed = false;
    this.failure = null;
  }
}

/** The ops that are sent and not answered, in the order of their sequence. */
export class PendingOps {
  head: IoOp | null = null;
  #tail: IoOp | null = null;
  size = 0;

  append(op: IoOp): void {
    op.inPending = true;
    op.previous = this.#tail;
    op.next = null;
    if (this.#tail) this.#tail.next = op;
    else this.head = op;
    this.#tail = op;
    this.size += 1;
  }

  remove(op: IoOp): void {
    if (!op.inPending) return;
    op.inPending = false;
    if (op.previous) op.previous.next = op.next;
    else this.head = op.next;
    if (op.next) op.next.previous = op.previous;
    else this.#tail = op.previous;
    op.previous = null;
    op.next = null;
    this.size -= 1;
  }
}
