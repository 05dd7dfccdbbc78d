import { StorError, blockBytes, chunkBytes } from '@stor/protocol';

import type { BlockRequest, Extent } from '../block-device.ts';
import { FlushRounds } from './flush-rounds.ts';
import { IoOp, type IoKind } from './io-op.ts';
import { ReadPath } from './read-path.ts';
import type { Segment } from './segment.ts';
import { Settler } from './settler.ts';
import { WritePath, type BrokenOnPurpose } from './write-path.ts';

/** Ops kept for reuse; more than clients keep in flight. */
const maxPooledOps = 1_024;

type Done = (error: StorError | null) => void;

/**
 * Requests of clients: settled, locked, made of whole blocks, then given to the read or write path.
 * Every request is answered exactly once, also when the primary stops under it.
 */
export class VolumeIo {
  readonly writes: WritePath;
  readonly reads: ReadPath;
  readonly flushes: FlushRounds;
  readonly settler: Settler;
  readonly #segment: Segment;
  readonly #pool: IoOp[] = [];
  /** clients' ops that are not answered */
  readonly #active = new Set<IoOp>();
  #waitingForLease: (() => void)[] = [];
  #failure: StorError | null = null;
  #onIdle: (() => void) | null = null;
  readonly #granted = (op: IoOp): void => {
    this.#run(op);
  };

  constructor(segment: Segment, broken: BrokenOnPurpose, onSettled: () => void) {
    this.#segment = segment;
    this.reads = new ReadPath(segment);
    this.flushes = new FlushRounds(segment);
    this.writes = new WritePath(segment, broken, {
      answer: (op, error) => {
        this.#answer(op, error);
      },
      recycle: (op) => {
        this.#recycle(op);
      },
    });
    this.settler = new Settler(
      segment,
      (offset, length, bytes, done) => {
        this.#writeAll(offset, length, bytes, done);
      },
      onSettled,
    );
    this.writes.afterPump.push(
      () => {
        this.flushes.look();
      },
      () => {
        this.#lookForLease();
      },
    );
    segment.setProgress(() => {
      this.writes.pump();
    });
  }

  get inFlight(): number {
    return this.#active.size + this.flushes.inFlight;
  }

  /** Resolves when every request is answered. */
  idle(): Promise<void> {
    if (this.inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }

  read(request: BlockRequest): void {
    const { offset, length } = request;
    const first = Math.floor(offset / blockBytes) * blockBytes;
    const end = Math.ceil((offset + length) / blockBytes) * blockBytes;
    const op = this.#take('read', first, end - first, request);
    const aligned = first === offset && end === offset + length;
    op.bytes = aligned ? request.bytes : Buffer.allocUnsafe(end - first);
    op.start = aligned ? request.start : 0;
    this.#route(op);
  }

  write(request: BlockRequest): void {
    const { offset, length, bytes } = request;
    if (!bytes) {
      request.done(new StorError('INVALID_ARGUMENT', 'a write without bytes'));
      return;
    }
    const first = Math.floor(offset / blockBytes) * blockBytes;
    const end = Math.ceil((offset + length) / blockBytes) * blockBytes;
    const op = this.#take('write', first, end - first, request);
    op.fua = request.fua;
    if (first === offset && end === offset + length) {
      op.bytes = bytes;
      op.start = request.start;
    } else this.#widen(op, offset, length, bytes, request.start);
    this.#route(op);
  }

  /** Whole blocks are zeroed in place; the ends of an unaligned range are written as zeros. */
  zero(request: BlockRequest, keepAllocated: boolean, edges: boolean): void {
    const { offset, length } = request;
    const end = offset + length;
    const first = Math.min(Math.ceil(offset / blockBytes) * blockBytes, end);
    const last = Math.max(Math.floor(end / blockBytes) * blockBytes, first);
    const parts: { kind: IoKind; offset: number; length: number }[] = [];
    if (last > first) parts.push({ kind: 'zero', offset: first, length: last - first });
    if (edges && first > offset) parts.push({ kind: 'write', offset, length: first - offset });
    if (edges && end > last) parts.push({ kind: 'write', offset: last, length: end - last });
    let open = parts.length + 1;
    let failed: StorError | null = null;
    const over = (error: StorError | null): void => {
      failed ??= error;
      open -= 1;
      if (open > 0) return;
      if (failed || !request.fua) request.done(failed);
      else this.flush(request.done.bind(request));
    };
    for (const part of parts) {
      if (part.kind === 'zero') {
        const op = this.#take('zero', part.offset, part.length, null);
        op.keepAllocated = keepAllocated;
        op.internalDone = over;
        this.#route(op);
      } else this.#zeroPart(part.offset, part.length, over);
    }
    over(null);
  }

  flush(done: Done): void {
    if (this.#failure) {
      done(this.#failure);
      return;
    }
    this.flushes.flush((error) => {
      done(error);
      this.#checkIdle();
    });
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    const segment = this.#segment;
    if (!segment.localIsInSync || this.#failure || !segment.leased) return false;
    if (offset % blockBytes !== 0 || length % blockBytes !== 0) return false;
    const session = segment.local?.session;
    if (!session?.alive || this.settler.blocks(offset, length)) return false;
    if (!segment.lock.isReadable(offset, offset + length)) return false;
    return session.store.readInline(offset, length, target, start);
  }

  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    if (this.#failure) {
      done(this.#failure, []);
      return;
    }
    const source = this.#segment.sources()[0];
    if (!source || !this.#segment.leased) {
      this.#waitingForLease.push(() => {
        this.extents(offset, length, limit, done);
      });
      return;
    }
    // before it is settled nobody can say what is a hole: calling it data is always right
    if (this.settler.active) done(null, [{ offset, length, allocated: true }]);
    else done(null, extentsOf(source, offset, length, limit));
  }

  /** Fails all that is under way and all that comes. */
  abandon(reason: StorError): void {
    if (this.#failure) return;
    this.#failure = reason;
    for (const op of [...this.#active]) {
      if (this.#segment.lock.cancel(op)) this.#fail(op);
    }
    this.writes.abandon(reason);
    this.reads.abandon(reason);
    this.flushes.abandon(reason);
    this.settler.abandon();
    this.#lookForLease();
  }

  #take(kind: IoKind, offset: number, length: number, request: BlockRequest | null): IoOp {
    const op = this.#pool.pop() ?? new IoOp(this.#granted);
    op.setRange(kind, offset, length);
    op.request = request;
    this.#active.add(op);
    return op;
  }

  #recycle(op: IoOp): void {
    op.recycle(this.#segment.options.outbox);
    if (this.#pool.length < maxPooledOps) this.#pool.push(op);
  }

  /** Settles, then locks. */
  #route(op: IoOp): void {
    if (this.#failure) {
      this.#fail(op);
      return;
    }
    if (this.settler.blocks(op.offset, op.length)) {
      op.own(this.#segment.options.outbox.buffers);
      this.settler.whenSettled(op.offset, op.length, () => {
        this.#route(op);
      });
      return;
    }
    if (this.#segment.lock.acquire(op)) this.#run(op);
    else op.own(this.#segment.options.outbox.buffers);
  }

  #run(op: IoOp): void {
    if (this.#failure) this.#fail(op);
    else if (op.kind === 'read') {
      this.reads.read(op.offset, op.length, op.bytes ?? Buffer.alloc(0), op.start, (error) => {
        this.#readDone(op, error);
      });
    } else if (op.headBytes > 0 || op.tailBytes > 0) this.#readEdges(op);
    else this.writes.start(op);
  }

  /** A read is answered only under valid leases: a newer primary may have been let in (I6). */
  #readDone(op: IoOp, error: StorError | null): void {
    if (!error && !this.#failure && !this.#segment.leased) {
      this.#waitingForLease.push(() => {
        this.#readDone(op, null);
      });
      return;
    }
    const { request } = op;
    if (!error && request?.bytes && op.bytes && op.bytes !== request.bytes) {
      const from = request.offset - op.offset;
      request.bytes.set(op.bytes.subarray(from, from + request.length), request.start);
    }
    this.#answer(op, error ?? this.#failure);
    this.#recycle(op);
  }

  #lookForLease(): void {
    if (this.#waitingForLease.length === 0) return;
    if (!this.#failure && !this.#segment.leased) return;
    const waiting = this.#waitingForLease;
    this.#waitingForLease = [];
    for (const again of waiting) again();
  }

  /** An unaligned payload in a buffer of whole blocks; its first and last come from the disk. */
  #widen(op: IoOp, offset: number, length: number, bytes: Uint8Array | null, start: number): void {
    const whole = Buffer.alloc(op.length);
    op.headBytes = offset - op.offset;
    op.tailBytes = op.offset + op.length - offset - length;
    if (bytes) whole.set(bytes.subarray(start, start + length), op.headBytes);
    op.bytes = whole;
    op.start = 0;
    op.ownsBytes = true;
  }

  #zeroPart(offset: number, length: number, over: Done): void {
    const first = Math.floor(offset / blockBytes) * blockBytes;
    const end = Math.ceil((offset + length) / blockBytes) * blockBytes;
    const op = this.#take('write', first, end - first, null);
    op.internalDone = over;
    this.#widen(op, offset, length, null, 0);
    this.#route(op);
  }

  /** Read-modify-write under the exclusive lock, so that members always get whole blocks. */
  #readEdges(op: IoOp): void {
    const { headBytes, tailBytes, bytes } = op;
    const lastBlock = op.offset + op.length - blockBytes;
    let open = 1;
    let failed: StorError | null = null;
    const over = (error: StorError | null): void => {
      failed ??= error;
      open -= 1;
      if (open > 0) return;
      op.headBytes = 0;
      op.tailBytes = 0;
      const failure = failed ?? this.#failure;
      if (!failure) {
        this.writes.start(op);
        return;
      }
      this.#answer(op, failure);
      this.#recycle(op);
    };
    const fetch = (offset: number, from: number, to: number): void => {
      open += 1;
      const block = Buffer.allocUnsafe(blockBytes);
      this.reads.read(offset, blockBytes, block, 0, (error) => {
        if (!error && bytes) bytes.set(block.subarray(from, to), offset - op.offset + from);
        over(error);
      });
    };
    if (headBytes > 0) fetch(op.offset, 0, headBytes);
    if (tailBytes > 0) fetch(lastBlock, blockBytes - tailBytes, blockBytes);
    over(null);
  }

  /** A settle's own write: its range is locked by the settler. */
  #writeAll(offset: number, length: number, bytes: Uint8Array | null, done: Done): void {
    const op = this.#take(bytes ? 'write' : 'zero', offset, length, null);
    op.bytes = bytes;
    op.start = 0;
    op.ownsBytes = true;
    op.internalDone = done;
    if (this.#failure) this.#fail(op);
    else this.writes.start(op);
  }

  #fail(op: IoOp): void {
    this.#answer(op, this.#failure ?? new StorError('ABORTED', 'the primary has stopped'));
    this.#recycle(op);
  }

  #answer(op: IoOp, error: StorError | null): void {
    const { request, internalDone, fua } = op;
    this.#active.delete(op);
    this.#segment.lock.release(op);
    if (internalDone) internalDone(error);
    else if (request) {
      if (fua && !error) this.flush(request.done.bind(request));
      else request.done(error);
    }
    this.#checkIdle();
  }

  #checkIdle(): void {
    if (this.inFlight > 0) return;
    const idle = this.#onIdle;
    this.#onIdle = null;
    idle?.();
  }
}

/** What takes space at a member, clipped to the range; at most `limit` extents. */
function extentsOf(
  source: NonNullable<ReturnType<Segment['sources']>[0]>,
  offset: number,
  length: number,
  limit: number,
): Extent[] {
  const end = offset + length;
  const { allocated } = source;
  const extents: Extent[] = [];
  for (let at = offset; at < end && extents.length <= limit;) {
    const next = Math.min(end, (Math.floor(at / chunkBytes) + 1) * chunkBytes);
    const isAllocated = allocated?.has(Math.floor(at / chunkBytes)) ?? true;
    const last = extents[extents.length - 1];
    if (last && last.allocated === isAllocated) last.length += next - at;
    else extents.push({ offset: at, length: next - at, allocated: isAllocated });
    at = next;
  }
  return extents.slice(0, limit);
}
