import {
  encodePeerHeader,
  peerFlagView,
  peerFrame,
  peerHeaderBytes,
  peerWriteBodyBytes,
  blockBytes,
  type PeerFrameType,
} from '@stor/protocol';
import { BufferPool, type Clock, type SharedBytes, type StreamSocket } from '@stor/runtime';

import { batchBytes, maxSpareBatches, maxSpareBufferBytes } from '../replication/limits.ts';

/** Bytes that several sockets send and several writes may send again; counted, then reused. */
export interface Batch {
  readonly bytes: Buffer;
  used: number;
  refs: number;
  /** a single large frame in a buffer of the pool */
  readonly isPooled: boolean;
  /** what a large payload arrived in; null: the memory is the outbox's */
  readonly memory: SharedBytes | null;
}

interface Range {
  batch: Batch;
  start: number;
  end: number;
}

/** Where the last encoded frame lies. */
export interface FrameRef {
  batch: Batch;
  start: number;
  end: number;
  /** where its payload follows when that is not in the batch itself */
  payload: Batch | null;
  payloadStart: number;
  payloadEnd: number;
}

/** What one connection sends in this turn: ranges of batches, joined where they touch. */
export class LinkOutput {
  readonly #outbox: Outbox;
  readonly #socket: StreamSocket;
  #ranges: Range[] = [];
  #sent = new Set<Range>();
  #closed = false;
  /** bytes queued or written that the kernel has not taken */
  pendingBytes = 0;
  onDrained: () => void = () => {};

  constructor(outbox: Outbox, socket: StreamSocket) {
    this.#outbox = outbox;
    this.#socket = socket;
  }

  /** of the lane */
  get buffers(): BufferPool {
    return this.#outbox.buffers;
  }

  queueFrame(frame: FrameRef): void {
    this.queue(frame.batch, frame.start, frame.end);
    if (frame.payload) this.queue(frame.payload, frame.payloadStart, frame.payloadEnd);
  }

  queue(batch: Batch, start: number, end: number): void {
    if (this.#closed) return;
    this.pendingBytes += end - start;
    const count = this.#ranges.length;
    // not the index -1, which makes every later access here slow
    const last = count > 0 ? this.#ranges[count - 1] : undefined;
    if (last && last.batch === batch && last.end === start) {
      last.end = end;
      return;
    }
    if (count === 0) this.#outbox.schedule(this);
    batch.refs += 1;
    this.#ranges.push({ batch, start, end });
  }

  /** A small frame of this connection alone. */
  send(
    type: PeerFrameType,
    flags: number,
    segment: number,
    channel: number,
    sequence: number,
    offset: number,
    length: number,
    body: Uint8Array | null,
  ): void {
    if (this.#closed) return;
    const frame = this.#outbox.encode(
      type,
      flags,
      segment,
      channel,
      sequence,
      offset,
      length,
      body,
    );
    this.queue(frame.batch, frame.start, frame.end);
  }

  /** Gives everything queued to the socket: one system call for one range. */
  flush(): void {
    const ranges = this.#ranges;
    if (ranges.length === 0) return;
    this.#ranges = [];
    if (ranges.length > 1) this.#socket.cork();
    for (const range of ranges) {
      this.#sent.add(range);
      this.#socket.write(range.batch.bytes.subarray(range.start, range.end), () => {
        this.#written(range);
      });
    }
    if (ranges.length > 1) this.#socket.uncork();
  }

  /** The connection is over: nothing of it is needed any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const range of this.#ranges) this.#outbox.release(range.batch);
    for (const range of this.#sent) this.#outbox.release(range.batch);
    this.#ranges = [];
    this.#sent.clear();
    this.pendingBytes = 0;
  }

  #written(range: Range): void {
    if (!this.#sent.delete(range)) return;
    this.pendingBytes -= range.end - range.start;
    this.#outbox.release(range.batch);
    this.onDrained();
  }
}

/**
 * The frames that a lane sends. A frame is encoded once, whoever gets it; frames of one event-loop
 * turn lie side by side, so each connection sends them with one write at the end of the turn. A
 * write keeps its frame until every member has it: a member that returns is sent the same bytes.
 */
export class Outbox {
  readonly #clock: Clock;
  #current: Batch;
  #spare: Batch[] = [];
  #dirty: LinkOutput[] = [];
  #isScheduled = false;
  readonly #frame: FrameRef;
  /** for large frames, and for payloads that outlive the call that brought them */
  readonly buffers = new BufferPool(maxSpareBufferBytes);

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#current = {
      bytes: Buffer.allocUnsafeSlow(batchBytes),
      used: 0,
      refs: 1,
      isPooled: false,
      memory: null,
    };
    this.#frame = {
      ...{ batch: this.#current, start: 0, end: 0 },
      ...{ payload: null, payloadStart: 0, payloadEnd: 0 },
    };
  }

  /**
   * Nothing was given to it in this turn, and no member still needs what was before: what comes now may
   * leave at once (`flush`), and what follows it leaves at the end of the turn.
   */
  get isIdle(): boolean {
    return !this.#isScheduled && this.#current.refs === 1;
  }

  schedule(output: LinkOutput): void {
    this.#dirty.push(output);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#clock.endOfTurn(() => {
      this.#isScheduled = false;
      this.flush();
    });
  }

  /** Sends all there is, before the end of the turn. */
  flush(): void {
    const dirty = this.#dirty;
    this.#dirty = [];
    for (const output of dirty) output.flush();
    // nobody needs what lies in it: start at the front again, in memory that is still in the cache
    if (this.#current.refs === 1) this.#current.used = 0;
  }

  release(batch: Batch): void {
    batch.refs -= 1;
    if (batch.refs > 0) return;
    batch.used = 0;
    if (batch.memory) batch.memory.release();
    else if (batch.isPooled) this.buffers.give(batch.bytes);
    else if (this.#spare.length < maxSpareBatches) this.#spare.push(batch);
  }

  /** The returned object is reused by the next call. */
  encode(
    type: PeerFrameType,
    flags: number,
    segment: number,
    channel: number,
    sequence: number,
    offset: number,
    length: number,
    body: Uint8Array | null,
  ): FrameRef {
    const bodyBytes = body ? body.length : 0;
    const frame = this.#reserve(peerHeaderBytes + bodyBytes);
    const { bytes } = frame.batch;
    encodePeerHeader(
      bytes,
      frame.start,
      type,
      flags,
      segment,
      channel,
      sequence,
      offset,
      length,
      bodyBytes,
    );
    if (body) bytes.set(body, frame.start + peerHeaderBytes);
    return frame;
  }

  /** A write: header, block sums, blocks; the payload's one copy. */
  encodeWrite(
    segment: number,
    channel: number,
    sequence: number,
    offset: number,
    length: number,
    payload: Uint8Array,
    payloadStart: number,
    sums: Uint32Array,
    /** what `peerFlagView` asks for; null: the live image */
    view: Uint8Array | null = null,
  ): FrameRef {
    const bodyBytes = peerWriteBodyBytes(length) + (view?.length ?? 0);
    const frame = this.#reserve(peerHeaderBytes + bodyBytes);
    const { bytes } = frame.batch;
    const type = peerFrame.write;
    encodePeerHeader(
      bytes,
      frame.start,
      type,
      view ? peerFlagView : 0,
      segment,
      channel,
      sequence,
      offset,
      length,
      bodyBytes,
    );
    let at = frame.start + peerHeaderBytes;
    if (view) {
      bytes.set(view, at);
      at += view.length;
    }
    const blocks = length / blockBytes;
    at = writeSums(bytes, at, sums, blocks);
    bytes.set(payload.subarray(payloadStart, payloadStart + length), at);
    return frame;
  }

  /** As `encodeWrite`, with the payload sent from where it lies; `memory` is held until all have it. */
  encodeWriteFrom(
    segment: number,
    channel: number,
    sequence: number,
    offset: number,
    length: number,
    memory: SharedBytes,
    payloadStart: number,
    sums: Uint32Array,
  ): FrameRef {
    const bodyBytes = peerWriteBodyBytes(length);
    const frame = this.#reserve(peerHeaderBytes + bodyBytes - length);
    const { bytes } = frame.batch;
    const at = frame.start;
    const type = peerFrame.write;
    encodePeerHeader(bytes, at, type, 0, segment, channel, sequence, offset, length, bodyBytes);
    writeSums(bytes, at + peerHeaderBytes, sums, length / blockBytes);
    const held = memory.hold();
    frame.payload = { bytes: held.bytes, used: length, refs: 0, isPooled: false, memory: held };
    frame.payloadStart = payloadStart;
    frame.payloadEnd = payloadStart + length;
    return frame;
  }

  #reserve(length: number): FrameRef {
    this.#frame.payload = null;
    if (length > batchBytes / 2) {
      // the frame's users hold the only references: nothing is appended to it
      this.#frame.batch = {
        bytes: this.buffers.take(length),
        used: length,
        refs: 0,
        isPooled: true,
        memory: null,
      };
      this.#frame.start = 0;
      this.#frame.end = length;
      return this.#frame;
    }
    if (this.#current.used + length > batchBytes) {
      const full = this.#current;
      this.#current = this.#spare.pop() ?? {
        bytes: Buffer.allocUnsafeSlow(batchBytes),
        used: 0,
        refs: 0,
        isPooled: false,
        memory: null,
      };
      this.#current.refs = 1;
      this.release(full);
    }
    this.#frame.batch = this.#current;
    this.#frame.start = this.#current.used;
    this.#current.used += length;
    this.#frame.end = this.#current.used;
    return this.#frame;
  }
}

/** Returns where the payload begins. */
function writeSums(bytes: Buffer, start: number, sums: Uint32Array, blocks: number): number {
  let at = start;
  for (let block = 0; block < blocks; block++) at = bytes.writeUInt32BE(sums[block] ?? 0, at);
  return at;
}
