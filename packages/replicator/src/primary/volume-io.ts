import { StorError, blockBytes } from '@stor/protocol';

import type { BlockRequest, Extent } from '../block-device.ts';
import { ActiveOps } from './active-ops.ts';
import { extentsOf, holeBytesOf } from './allocated-extents.ts';
import { BlockRepair } from './block-repair.ts';
import { freeTrimmed } from './free-trimmed.ts';
import { HeldRequests } from './held-requests.ts';
import { FlushRounds } from './flush-rounds.ts';
import type { ForegroundProbe } from './foreground-probe.ts';
import { IoOp, type IoKind } from './io-op.ts';
import { ReadPath } from './read-path.ts';
import type { IntegrityLog } from './integrity-log.ts';
import { ReadRepair } from './read-repair.ts';
import type { Segment, SegmentPart } from './segment.ts';
import { Settler } from './settler.ts';
import { WritePath } from './write-path.ts';

/** Ops kept for reuse; more than clients keep in flight. */
const maxPooledOps = 1_024;

type Done = (error: StorError | null) => void;

/**
 * Requests of clients: settled, locked, made of whole blocks, then given to the read or write path.
 * Writes that the failure mode does not allow now are set aside before they hold a range: reads,
 * settle and resync go on meanwhile. Every request is answered exactly once, also when the primary
 * stops under it.
 */
export class VolumeIo implements SegmentPart {
  readonly writes: WritePath;
  readonly reads: ReadPath;
  readonly blocks: BlockRepair;
  readonly repair: ReadRepair;
  readonly flushes: FlushRounds;
  readonly settler: Settler;
  /** writes that were refused because some replica had no room */
  noSpaceWrites = 0;
  /** tells resync what it does to clients; null: nobody asks */
  probe: ForegroundProbe | null = null;
  readonly #segment: Segment;
  readonly #pool: IoOp[] = [];
  /** clients' ops that are not answered */
  readonly #active = new ActiveOps();
  readonly #held: HeldRequests;
  #failure: StorError | null = null;
  #onIdle: (() => void)[] = [];
  readonly #granted = (op: IoOp): void => {
    this.#run(op);
  };

  constructor(segment: Segment, log: IntegrityLog, onSettled: () => void) {
    this.#segment = segment;
    this.reads = new ReadPath(segment);
    this.blocks = new BlockRepair(segment, log);
    this.repair = new ReadRepair(segment, this.blocks);
    this.reads.onBad = (member, offset, length) => {
      this.repair.note(member, offset, length);
    };
    this.flushes = new FlushRounds(segment);
    this.writes = new WritePath(segment, {
      answer: (op, error) => {
        this.#answer(op, error);
      },
      answerEarly: (op, error) => {
        this.#answerEarly(op, error);
      },
      releaseRange: (op) => {
        this.#segment.lock.release(op);
      },
      refusal: () => this.#refusal(),
      noSpace: (member) => {
        this.noSpaceWrites += 1;
        log.noSpace(segment.options.volumeId, member);
      },
      trimmed: (chunk) => {
        freeTrimmed(segment, chunk, (offset, length, done) => {
          this.#writeAll(offset, length, null, done, chunk);
        });
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
    this.#held = new HeldRequests({
      segment,
      reads: this.reads,
      writes: this.writes,
      flushes: this.flushes,
      active: this.#active,
      settler: this.settler,
      settled: (op) => {
        this.#route(op);
      },
      fail: (op, error) => {
        this.#answer(op, error);
        this.#recycle(op);
      },
    });
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
    return this.#active.size + this.flushes.inFlight + this.#held.parkedFlushes;
  }

  /** Resolves when every request is answered and no write is under way. */
  idle(): Promise<void> {
    if (this.isIdle) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle.push(resolve);
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
      if (request.memory) op.hold(request.memory);
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
    const { rule } = this.#segment;
    if (rule.refusesReads) done(this.#refusal());
    else if (rule.writes === 'park' && this.#held.hasUnacknowledged()) {
      this.#held.parkFlush(done);
    } else this.#flush(done);
  }

  #flush(done: Done): void {
    this.probe?.beginFlush(done);
    this.flushes.flush((error) => {
      this.probe?.end(done);
      done(error);
      this.#checkIdle();
    });
  }

  /** The members or the policy changed: what waits may go on, or must be set aside or refused. */
  membersChanged(): void {
    const { rule } = this.#segment;
    if (rule.writes === 'start') {
      for (const op of this.#held.takeParked()) this.#route(op);
      this.#releaseFlushes();
    } else if (rule.writes === 'park') {
      for (const op of this.writes.takeHeld()) this.#held.park(op);
    } else if (rule.writes === 'refuse') {
      this.#held.refuse(this.#refusal());
      this.#releaseFlushes();
    }
  }

  tick(nowMs: number): void {
    this.#held.tick(nowMs);
    if (this.#held.parkedFlushes > 0 && !this.#held.hasUnacknowledged()) this.#releaseFlushes();
    this.#checkIdle();
  }

  /** Answers what is held for more than a moment: the volume is to stop. */
  giveUpHeld(error: StorError): void {
    const { rule, membership } = this.#segment;
    const isSoonOver = rule.writes === 'wait' && membership?.suspended !== true;
    if (rule.writes === 'start' || isSoonOver) return;
    this.#held.giveUpAll(error);
    this.#checkIdle();
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    if (this.#failure || this.settler.blocks(offset, length)) return false;
    const isRead = this.reads.readInline(offset, length, target, start);
    if (isRead && this.probe) this.probe.sawInline = true;
    return isRead;
  }

  /** See BlockDevice; what `extents` calls a hole, at once. */
  holeBytes(offset: number, length: number): number {
    if (this.#failure || this.settler.active) return 0;
    return holeBytesOf(this.#segment, offset, length);
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
      if (this.#segment.rule.refusesReads) done(this.#refusal(), []);
      else {
        const again = (): void => {
          this.extents(offset, length, limit, done);
        };
        const fail = (error: StorError): void => {
          done(error, []);
        };
        this.#held.leases.push({ op: null, again, fail, heldSinceMs: 0 });
      }
      return;
    }
    // before it is settled nobody can say what is a hole: calling it data is always right
    if (this.settler.active) done(null, [{ offset, length, allocated: true }]);
    else done(null, extentsOf(source, this.#segment.lock, offset, length, limit));
  }

  /** Fails all that is under way and all that comes. */
  abandon(reason: StorError): void {
    if (this.#failure) return;
    this.#failure = reason;
    this.#held.abandon(reason);
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
    if (request) this.probe?.begin(op, kind, length);
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
    if (!this.#isAllowed(op)) return;
    if (this.settler.blocks(op.offset, op.length)) this.#held.awaitSettled(op);
    else if (this.#segment.lock.acquire(op)) this.#run(op);
    else op.own(this.#segment.options.outbox.buffers);
  }

  #run(op: IoOp): void {
    if (this.#failure) this.#fail(op);
    else if (!this.#isAllowed(op)) return;
    else if (op.kind === 'read') this.#startRead(op);
    else if (!op.edgesRead && (op.headBytes > 0 || op.tailBytes > 0)) this.#readEdges(op);
    else this.writes.start(op);
  }

  #startRead(op: IoOp): void {
    op.readDone = (error) => {
      this.#readDone(op, error);
    };
    this.reads.read(op.offset, op.length, op.target, op.start, op.readDone, op.adopt);
  }

  /** Sets a client's request aside, or answers it with an error, when the failure mode says so. */
  #isAllowed(op: IoOp): boolean {
    const { rule } = this.#segment;
    if (rule.writes === 'start' || op.isOwn) return true;
    if (op.kind === 'read' ? rule.refusesReads : rule.writes === 'refuse') {
      this.#answer(op, this.#refusal());
      this.#recycle(op);
      return false;
    }
    if (op.kind === 'read' || rule.writes !== 'park') return true;
    this.#held.park(op);
    return false;
  }

  #releaseFlushes(): void {
    for (const done of this.#held.takeFlushes()) this.flush(done);
  }

  #refusal(): StorError {
    return new StorError('FAILED_PRECONDITION', this.#segment.explainHold());
  }

  /** A read is answered only under valid leases: a newer primary may have been let in (I6). */
  #readDone(op: IoOp, error: StorError | null): void {
    if (!error && !this.#failure && !this.#segment.leased) {
      const again = (failed: StorError | null = null): void => {
        this.#readDone(op, failed);
      };
      if (this.#held.leases.length === 0) {
        this.#segment.options.logger.debug({}, 'reads wait for a lease');
      }
      this.#held.leases.push({ op, again, fail: again, heldSinceMs: 0 });
      return;
    }
    const { request } = op;
    if (!error && request?.bytes && op.bytes && op.bytes !== request.bytes) {
      const from = request.offset - op.offset;
      request.bytes.set(op.bytes.subarray(from, from + request.length), request.start);
    }
    this.#answer(op, this.#failure ?? error);
    this.#recycle(op);
  }

  #lookForLease(): void {
    if (this.#held.leases.length === 0) return;
    if (!this.#failure && !this.#segment.leased) return;
    for (const { again } of this.#held.takeLeases()) again();
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
      op.edgesRead = true;
      op.readDone = null;
      op.tailDone = null;
      const failure = failed ?? this.#failure;
      if (!failure) {
        this.#run(op);
        return;
      }
      this.#answer(op, failure);
      this.#recycle(op);
    };
    const block = Buffer.allocUnsafe(2 * blockBytes);
    const fetched = (error: StorError | null, at: number, from: number, to: number): void => {
      if (!error && bytes) bytes.set(block.subarray(from, to), at);
      over(error);
    };
    if (headBytes > 0) {
      open += 1;
      op.readDone = (error) => {
        op.readDone = null;
        fetched(error, 0, 0, headBytes);
      };
    }
    if (tailBytes > 0) {
      open += 1;
      op.tailDone = (error) => {
        op.tailDone = null;
        fetched(error, op.length - tailBytes, 2 * blockBytes - tailBytes, 2 * blockBytes);
      };
    }
    const { readDone, tailDone } = op;
    if (readDone) this.reads.read(op.offset, blockBytes, block, 0, readDone);
    if (tailDone) this.reads.read(lastBlock, blockBytes, block, blockBytes, tailDone);
    over(null);
  }

  /** A settle's own write: its range is locked by the settler. */
  #writeAll(
    offset: number,
    length: number,
    bytes: Uint8Array | null,
    done: Done,
    freesChunk = -1,
  ): void {
    const op = this.#take(bytes ? 'write' : 'zero', offset, length, null);
    op.bytes = bytes;
    op.start = 0;
    op.ownsBytes = true;
    op.internalDone = done;
    op.isOwn = true;
    op.freesChunk = freesChunk;
    if (this.#failure) this.#fail(op);
    else this.writes.start(op);
  }

  #fail(op: IoOp): void {
    this.#answer(op, this.#failure ?? new StorError('ABORTED', 'the primary has stopped'));
    this.#recycle(op);
  }

  /** The write goes on and keeps its range: some member may have it, so all must get it. */
  #answerEarly(op: IoOp, error: StorError): void {
    const { request, internalDone } = op;
    this.#active.delete(op);
    this.probe?.end(op);
    op.request = null;
    op.internalDone = null;
    op.fua = false;
    if (internalDone) internalDone(error);
    else request?.done(error);
    this.#checkIdle();
  }

  #answer(op: IoOp, error: StorError | null): void {
    const { request, internalDone, fua } = op;
    this.#active.delete(op);
    if (request) this.probe?.end(op);
    this.#segment.lock.release(op);
    if (internalDone) internalDone(error);
    else if (request) {
      if (fua && !error) this.flush(request.done.bind(request));
      else request.done(error);
    }
    this.#checkIdle();
  }

  get isIdle(): boolean {
    return this.inFlight === 0 && this.writes.inFlight === 0;
  }

  #checkIdle(): void {
    if (!this.isIdle) return;
    const idle = this.#onIdle;
    if (idle.length === 0) return;
    this.#onIdle = [];
    for (const each of idle) each();
  }
}
