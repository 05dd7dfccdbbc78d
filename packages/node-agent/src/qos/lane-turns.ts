import {
  backgroundClasses,
  defaultQosClasses,
  type BackgroundClass,
  type QosClass,
} from '@stor/protocol';
import type { BackgroundTurn, BackgroundTurns } from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import { costOf } from '../core/qos/cost.ts';
import { Flow, type QosItem, type ThrottleReason } from '../core/qos/flow.ts';
import type { LaneScheduler } from '../core/qos/lane-scheduler.ts';

/** Turns of one class that wait; with more they are not held back, so that none is lost. */
const maxWaiting = 4_096;

/** What one class of background work has done on a lane, and waited for. */
export interface ClassQosReport {
  class: BackgroundClass;
  weight: number;
  /** of this lane; 0: none */
  iops: number;
  bps: number;
  operations: number;
  bytes: number;
  queued: number;
  throttledRequests: Record<ThrottleReason, number>;
  throttledMs: Record<ThrottleReason, number>;
}

export interface LaneTurnsParts {
  scheduler: LaneScheduler;
  clock: Clock;
  /** something was queued, and nothing else may happen for a while */
  queued: (nowMs: number) => void;
  /** there may be room, or limits are others */
  changed: () => void;
}

/** A piece of background work that waits for its turn. */
export class WaitingTurn implements QosItem {
  readonly flow: Flow;
  readonly isRead = true;
  readonly heldBytes = 0;
  readonly isRest = false;
  readonly bytes: number;
  readonly cost: number;
  readonly queuedMs: number;
  reason: ThrottleReason = 'contention';
  readonly isWanted: () => boolean;
  readonly begin: (turn: BackgroundTurn) => void;

  constructor(
    flow: Flow,
    bytes: number,
    queuedMs: number,
    isWanted: () => boolean,
    begin: (turn: BackgroundTurn) => void,
  ) {
    this.flow = flow;
    this.bytes = bytes;
    this.cost = costOf(bytes, true);
    this.queuedMs = queuedMs;
    this.isWanted = isWanted;
    this.begin = begin;
  }
}

interface ClassFlow {
  readonly flow: Flow;
  iops: number;
  bps: number;
  operations: number;
  bytes: number;
}

/** Background work on one lane: a flow for each class, beside those of the volumes. */
export class LaneTurns implements BackgroundTurns {
  readonly #parts: LaneTurnsParts;
  readonly #classes = new Map<BackgroundClass, ClassFlow>();

  constructor(parts: LaneTurnsParts) {
    this.#parts = parts;
    for (const name of backgroundClasses) {
      const counts = { iops: 0, bps: 0, operations: 0, bytes: 0 };
      this.#classes.set(name, { flow: new Flow(name), ...counts });
    }
    this.update(defaultQosClasses, 1);
  }

  ask(
    ofClass: BackgroundClass,
    bytes: number,
    isWanted: () => boolean,
    begin: (turn: BackgroundTurn) => void,
  ): void {
    const { scheduler, clock } = this.#parts;
    const { flow } = this.#of(ofClass);
    const nowMs = clock.monotonicMs();
    scheduler.see(flow, nowMs);
    const waiting = new WaitingTurn(flow, bytes, nowMs, isWanted, begin);
    const refusal = scheduler.refusal(flow, true, waiting.cost, nowMs);
    if (!refusal || flow.queued >= maxWaiting) {
      this.start(waiting, nowMs);
      return;
    }
    waiting.reason = refusal;
    scheduler.enqueue(waiting);
    this.#parts.queued(nowMs);
  }

  take(ofClass: BackgroundClass, bytes: number): BackgroundTurn {
    const nowMs = this.#parts.clock.monotonicMs();
    const counted = this.#of(ofClass);
    this.#parts.scheduler.see(counted.flow, nowMs);
    return this.#begun(counted, bytes, costOf(bytes, true), nowMs);
  }

  /** Its turn has come. Who has given up meanwhile costs nothing. */
  start(waiting: WaitingTurn, nowMs: number): void {
    if (!waiting.isWanted()) return;
    const counted = [...this.#classes.values()].find(({ flow }) => flow === waiting.flow);
    if (!counted) throw new Error('a turn of another lane has come');
    waiting.begin(this.#begun(counted, waiting.bytes, waiting.cost, nowMs));
  }

  /** What holds from now on; a node's limits are divided equally among its lanes. */
  update(classes: readonly QosClass[], lanes: number): void {
    const { scheduler, clock } = this.#parts;
    const nowMs = clock.monotonicMs();
    for (const { name, weight, iops, bps } of classes) {
      if (name === 'client') {
        scheduler.weighClients(weight);
        continue;
      }
      const counted = this.#of(name);
      counted.iops = iops > 0 ? Math.max(1, Math.floor(iops / lanes)) : 0;
      counted.bps = bps > 0 ? Math.max(1, Math.floor(bps / lanes)) : 0;
      counted.flow.limits.update({ iops: counted.iops, bps: counted.bps }, nowMs);
      scheduler.changed(counted.flow, weight);
    }
    this.#parts.changed();
  }

  reports(): ClassQosReport[] {
    return [...this.#classes].map(([name, { flow, iops, bps, operations, bytes }]) => ({
      class: name,
      weight: flow.weight,
      iops,
      bps,
      operations,
      bytes,
      queued: flow.queued,
      throttledRequests: { ...flow.throttled.requests },
      throttledMs: { ...flow.throttled.ms },
    }));
  }

  #begun(counted: ClassFlow, bytes: number, cost: number, nowMs: number): BackgroundTurn {
    const { scheduler, changed } = this.#parts;
    const { flow } = counted;
    scheduler.charge(flow, true, bytes, nowMs);
    scheduler.began(flow, cost, false);
    counted.operations += 1;
    counted.bytes += bytes;
    let isOver = false;
    return {
      end: () => {
        if (isOver) return;
        isOver = true;
        scheduler.ended(flow, cost, false);
        changed();
      },
    };
  }

  #of(ofClass: BackgroundClass): ClassFlow {
    const counted = this.#classes.get(ofClass);
    if (!counted) throw new Error(`there is no class ${ofClass}`);
    return counted;
  }
}
