import { StorError } from '@stor/protocol';

import type { FlushRounds } from './flush-rounds.ts';
import type { IoOp } from './io-op.ts';
import type { ReadPath } from './read-path.ts';
import type { Segment } from './segment.ts';
import type { Settler } from './settler.ts';
import { remove, type WritePath } from './write-path.ts';

type Done = (error: StorError | null) => void;

/** What waits for leases, or for a member that can answer. */
export interface LeaseWaiter {
  /** null: a question about extents */
  op: IoOp | null;
  again: () => void;
  fail: (error: StorError) => void;
  /** as far as was looked; 0: not looked yet (ms) */
  heldSinceMs: number;
}

export interface HeldRequestsOptions {
  readonly segment: Segment;
  readonly reads: ReadPath;
  readonly writes: WritePath;
  readonly flushes: FlushRounds;
  /** clients' ops that are not answered */
  readonly active: Iterable<IoOp>;
  /** Answers an op with an error and gives its range back. */
  readonly fail: (op: IoOp, error: StorError) => void;
  readonly settler: Settler;
  /** Goes on with an op whose range is settled. */
  readonly settled: (op: IoOp) => void;
}

/**
 * Requests of clients that wait for members, leases or settling, and what bounds that: `ioTimeoutMs`,
 * `onLoss: error`, and the end of the primary. A request is answered early only where nothing of it
 * can happen later, or where its range stays locked until the members are equal there.
 */
export class HeldRequests {
  readonly #options: HeldRequestsOptions;
  /** until their chunks are settled */
  readonly #unsettled = new Set<IoOp>();
  leases: LeaseWaiter[] = [];
  /** writes that hold no range, and flushes behind them, until enough members are in sync */
  #parked: IoOp[] = [];
  #parkedFlushes: { done: Done; heldSinceMs: number }[] = [];
  #isTiming = false;

  constructor(options: HeldRequestsOptions) {
    this.#options = options;
  }

  awaitSettled(op: IoOp): void {
    const { segment, settler, settled } = this.#options;
    op.own(segment.options.outbox.buffers);
    this.#unsettled.add(op);
    settler.whenSettled(op.offset, op.length, () => {
      if (this.#unsettled.delete(op)) settled(op);
    });
  }

  get parkedFlushes(): number {
    return this.#parkedFlushes.length;
  }

  park(op: IoOp): void {
    const { lock, options } = this.#options.segment;
    op.own(options.outbox.buffers);
    // what its edges were read from may be written before it has its turn
    op.edgesRead = false;
    this.#parked.push(op);
    lock.release(op);
  }

  takeParked(): IoOp[] {
    const parked = this.#parked;
    this.#parked = [];
    return parked;
  }

  parkFlush(done: Done): void {
    this.#parkedFlushes.push({ done, heldSinceMs: 0 });
  }

  takeFlushes(): Done[] {
    const flushes = this.#parkedFlushes;
    this.#parkedFlushes = [];
    return flushes.map(({ done }) => done);
  }

  takeLeases(): LeaseWaiter[] {
    const waiting = this.leases;
    this.leases = [];
    return waiting;
  }

  hasUnacknowledged(): boolean {
    for (const op of this.#options.active) if (op.kind !== 'read' && !op.isOwn) return true;
    return false;
  }

  /** Answers with an error what the rule refuses now. */
  refuse(error: StorError): void {
    const { rule } = this.#options.segment;
    for (const op of [...this.#options.active]) {
      // what all that are left have got is answered by the write path in a moment
      const isWaiting = !op.inPending || rule.refusesReads;
      const isRefused = op.kind !== 'read' || rule.refusesReads;
      if (!op.isOwn && isWaiting && isRefused) this.giveUp(op, error);
    }
    if (rule.refusesReads) this.#giveUpOthers(() => true, error);
  }

  /** Answers with an error whatever can be. */
  giveUpAll(error: StorError): void {
    for (const op of [...this.#options.active]) if (!op.isOwn) this.giveUp(op, error);
    this.#giveUpOthers(() => true, error);
  }

  /** Bounds how long a hold may keep a request. */
  tick(nowMs: number): void {
    const { segment, active } = this.#options;
    const { ioTimeoutMs } = segment.policy;
    if (ioTimeoutMs === 0 || (segment.rule.writes === 'start' && segment.leased)) {
      if (this.#isTiming) this.#forget();
      return;
    }
    this.#isTiming = true;
    const why = segment.explainHold();
    const error = new StorError(
      'TIMEOUT',
      `${why}: that took longer than the io-timeout of ${ioTimeoutMs} ms`,
    );
    const isOver = (each: { heldSinceMs: number }): boolean => {
      if (each.heldSinceMs === 0) each.heldSinceMs = nowMs;
      return nowMs - each.heldSinceMs >= ioTimeoutMs;
    };
    for (const op of [...active]) if (!op.isOwn && isOver(op)) this.giveUp(op, error);
    this.#giveUpOthers(isOver, error);
  }

  /** Answers an op with an error wherever it waits; nothing happens where it cannot be stopped. */
  giveUp(op: IoOp, error: StorError): void {
    const { segment, reads, writes, fail } = this.#options;
    const lease = this.leases.find((waiter) => waiter.op === op);
    if (lease) {
      remove(this.leases, lease);
      lease.fail(error);
    } else if (segment.lock.cancel(op) || this.#unsettled.delete(op) || remove(this.#parked, op)) {
      fail(op, error);
    } else if (op.readDone ?? op.tailDone) {
      const { readDone, tailDone } = op;
      if (readDone) reads.giveUp(readDone, error);
      if (tailDone) reads.giveUp(tailDone, error);
    } else writes.giveUp(op, error);
  }

  /** The primary stops: all that waits here is answered. */
  abandon(reason: StorError): void {
    for (const op of [...this.#options.active]) {
      if (this.#options.segment.lock.cancel(op) || remove(this.#parked, op)) {
        this.#options.fail(op, reason);
      }
    }
    for (const done of this.takeFlushes()) done(reason);
  }

  /** Flushes and questions about extents. */
  #giveUpOthers(isOver: (each: { heldSinceMs: number }) => boolean, error: StorError): void {
    this.#options.flushes.giveUp(isOver, error);
    const flushes = this.#parkedFlushes.filter(isOver);
    this.#parkedFlushes = this.#parkedFlushes.filter((each) => !flushes.includes(each));
    for (const { done } of flushes) done(error);
    const extents = this.leases.filter((each) => !each.op && isOver(each));
    this.leases = this.leases.filter((each) => !extents.includes(each));
    for (const { fail } of extents) fail(error);
  }

  #forget(): void {
    this.#isTiming = false;
    for (const op of this.#options.active) op.heldSinceMs = 0;
    for (const each of [...this.#parkedFlushes, ...this.leases]) each.heldSinceMs = 0;
    this.#options.flushes.forgetHolds();
  }
}
