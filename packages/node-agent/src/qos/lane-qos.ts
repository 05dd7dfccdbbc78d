import { StorError } from '@stor/protocol';
import type { BlockRequest } from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import { costOf, smallRequestCost } from '../core/qos/cost.ts';
import type { Flow, QosItem, ThrottleReason } from '../core/qos/flow.ts';
import { LaneScheduler } from '../core/qos/lane-scheduler.ts';
import { minWindow } from '../core/qos/lane-window.ts';
import { KeptRequest, type RequestKind } from '../exports/kept-request.ts';
import { LaneTenants } from './lane-tenants.ts';
import { LaneTurns, WaitingTurn } from './lane-turns.ts';
import {
  LaneVolume,
  type OpenVolume,
  type QosVolume,
  type VolumeQosReport,
} from './lane-volume.ts';
import type { QosDevice, QosLane } from './qos-device.ts';
import { ScheduledRequest, type ScheduledOwner } from './scheduled-request.ts';
import { countedBytes, ScheduledRequests } from './scheduled-requests.ts';

const mib = 1024 * 1024;

/**
 * Memory of requests of one volume that wait (bytes); with more its connections are not read, so that
 * clients wait instead. Each connection may be beyond it by the request that it is at.
 */
const maxVolumeBytes = 8 * mib;
/** The same for all volumes of a lane together. */
const maxLaneBytes = 64 * mib;
/**
 * Requests of one volume that wait while another one with a guarantee uses the lane; with more its
 * connections are not read. To look at all that has arrived, and to copy it, would take the time that
 * the window keeps free. As many as the smallest window takes, so the lane does not run out of them.
 */
const maxQueuedBesideGuarantee = minWindow / smallRequestCost;
/**
 * While another volume with a guarantee uses the lane, reads and writes go in parts of so much (bytes), one
 * after the other: a whole large one would hold up the event loop for as long as hundreds of small ones.
 */
const partBytes = 64 * 1024;
/**
 * While a volume with a guarantee uses the lane, nothing of others begins in a turn of the event loop that
 * has worked for so long: a request that comes meanwhile waits for the rest of the turn (ms). What the turn took from
 * sockets before comes on top.
 */
const turnBesideGuaranteeMs = 0.02;
/** Timers are no finer (ms). */
const minTimerMs = 1;
/** A timer of the system takes at most 2^31 ms, and one that is longer comes at once; it is set anew then (ms). */
const maxTimerMs = 3_600_000;

/**
 * Quality of service on one lane: all requests of clients pass here on their way to a primary of this
 * lane. A volume that has the lane to itself and no limits pays a comparison per request; nothing is
 * allocated, and no timer runs, unless something waits.
 */
export class LaneQos implements QosLane, ScheduledOwner {
  /** what the cluster does for itself */
  readonly turns: LaneTurns;
  readonly #clock: Clock;
  readonly #scheduler: LaneScheduler;
  readonly #volumes = new Set<LaneVolume>();
  readonly #tenants = new LaneTenants();
  readonly #requests: ScheduledRequests;
  #isPumping = false;
  #cancelTimer: () => void = () => {};
  #timerAtMs = Infinity;
  // what was done in this turn of the event loop: others have waited for it, so it counts until the end
  #turn = 0;
  #turnIsPlanned = false;
  #turnSinceMs = 0;
  readonly #turnDone: ScheduledRequest[] = [];
  /** a part of them is under way, others follow */
  readonly #begun = new Set<ScheduledRequest>();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#scheduler = new LaneScheduler(clock.monotonicMs());
    this.#requests = new ScheduledRequests(this, (flow, kind, offset, length) =>
      this.#partOf(flow, kind, offset, length),
    );
    this.turns = new LaneTurns({
      scheduler: this.#scheduler,
      clock,
      queued: (nowMs) => {
        this.#watch(nowMs);
      },
      changed: () => {
        this.#pump();
      },
    });
  }

  /** Nothing goes any more; what waits is not wanted. */
  close(): void {
    this.#isPumping = true;
    this.#cancelTimer();
  }

  open(volume: OpenVolume): QosVolume {
    const opened = new LaneVolume(volume, {
      lane: this,
      scheduler: this.#scheduler,
      clock: this.#clock,
      tenants: this.#tenants,
      changed: () => {
        this.#pump();
      },
      closed: (flow) => {
        this.#volumes.delete(opened);
        this.#refuse(flow, volume.name);
      },
    });
    this.#volumes.add(opened);
    return opened;
  }

  /** Several share the lane, as far as is known. */
  get isShared(): boolean {
    return this.#scheduler.isContended;
  }

  reports(): VolumeQosReport[] {
    const nowMs = this.#clock.monotonicMs();
    return [...this.#volumes].map((volume) => volume.report(nowMs));
  }

  /** Volumes of a tenant are on so many lanes of this node, which divide what the node may use. */
  spreadTenant(name: string, lanes: number): void {
    this.#tenants.spread(name, lanes, this.#clock.monotonicMs());
    for (const volume of this.#volumes) volume.tenantChanged(name);
  }

  // what devices ask

  isFull(flow: Flow): boolean {
    if (!flow.isQueued) return false;
    const isMuch = flow.queued >= maxQueuedBesideGuarantee;
    if (isMuch && this.#scheduler.isBesideGuarantee(flow)) return true;
    return flow.heldBytes >= maxVolumeBytes || this.#scheduler.heldBytes >= maxLaneBytes;
  }

  readInline(
    device: QosDevice,
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
  ): boolean {
    const { flow } = device;
    const nowMs = this.#clock.monotonicMs();
    const scheduler = this.#scheduler;
    scheduler.see(flow, nowMs);
    if (flow.isFree) return device.target.readInline(offset, length, target, start);
    // `read` is called for it next, and waits
    const cost = costOf(length, true);
    if (scheduler.refusal(flow, true, cost, nowMs) || this.#isTurnOver(flow, nowMs)) return false;
    if (!device.target.readInline(offset, length, target, start)) return false;
    const isGuaranteed = scheduler.charge(flow, true, length, nowMs);
    if (!scheduler.isContended) return true;
    const done = this.#requests.take(device);
    done.state = 'started';
    done.cost = cost;
    done.isGuaranteed = isGuaranteed;
    scheduler.began(flow, done.cost, isGuaranteed);
    this.#planTurn(nowMs);
    this.#turnDone.push(done);
    return true;
  }

  submit(device: QosDevice, kind: RequestKind, request: BlockRequest): void {
    const { flow, target } = device;
    const nowMs = this.#clock.monotonicMs();
    const scheduler = this.#scheduler;
    scheduler.see(flow, nowMs);
    if (flow.isFree) {
      target[kind](request);
      return;
    }
    const isRead = kind === 'read';
    const bytes = this.#partOf(flow, kind, request.offset, request.length);
    const cost = costOf(bytes, request.bytes !== null);
    let refusal = scheduler.refusal(flow, isRead, cost, nowMs);
    if (!refusal && this.#isTurnOver(flow, nowMs)) refusal = 'contention';
    if (!refusal && !scheduler.isContended) {
      scheduler.charge(flow, isRead, countedBytes(kind, request), nowMs);
      target[kind](request);
      return;
    }
    const scheduled = this.#requests.make(device, kind, request, nowMs);
    if (refusal) this.#queue(scheduled, refusal);
    else {
      // what follows its first part needs the payload later
      if (bytes < request.length) this.#requests.keepPayload(scheduled);
      this.#start(scheduled, nowMs);
    }
  }

  takeBack(device: QosDevice): KeptRequest[] {
    const isOf = (item: QosItem): item is ScheduledRequest =>
      item instanceof ScheduledRequest && item.device === device;
    const taken = this.#scheduler.takeBack(device.flow, isOf);
    for (const begun of this.#begun) {
      if (begun.device === device) taken.push(this.#cut(begun));
    }
    taken.sort((a, b) => a.order - b.order);
    return taken.map((request) => {
      request.state = 'taken';
      return KeptRequest.of(request.kind, request);
    });
  }

  // what becomes of requests

  completed(scheduled: ScheduledRequest, error: StorError | null): void {
    const { of, copy, device, state } = scheduled;
    const flow = device?.flow;
    if (!of || !flow) throw new Error('a request without a client was finished');
    const goesOn = scheduled.leftBytes > 0 && state === 'started' && !error;
    if (scheduled.leftBytes > 0) this.#begun.delete(scheduled);
    if (goesOn) {
      const rest = this.#requests.restOf(scheduled, this.#clock.monotonicMs());
      this.#enqueue(rest, 'contention');
    } else if (copy) this.#requests.giveCopy(copy);
    scheduled.of = null;
    scheduled.copy = null;
    scheduled.bytes = null;
    scheduled.memory = null;
    if (state === 'taken') this.#requests.recycle(scheduled);
    else if (scheduled.turn === this.#turn) this.#turnDone.push(scheduled);
    else {
      const nowMs = this.#clock.monotonicMs();
      this.#scheduler.ended(flow, scheduled.cost, scheduled.isGuaranteed);
      this.#scheduler.tookMs(scheduled, nowMs - scheduled.startedMs, nowMs);
      this.#requests.recycle(scheduled);
    }
    if (!goesOn) of.done(error);
    this.#pump();
  }

  /** How much of a request is begun at once (bytes). */
  #partOf(flow: Flow, kind: RequestKind, offset: number, length: number): number {
    if (length <= partBytes || (kind !== 'read' && kind !== 'write')) return length;
    if (!this.#scheduler.isBesideGuarantee(flow)) return length;
    return Math.min(length, partBytes - (offset % partBytes));
  }

  /** Takes what has not begun out of a request. */
  #cut(begun: ScheduledRequest): ScheduledRequest {
    this.#begun.delete(begun);
    return this.#requests.cut(begun, this.#clock.monotonicMs());
  }

  #queue(scheduled: ScheduledRequest, reason: ThrottleReason): void {
    this.#enqueue(scheduled, reason);
    this.#watch(scheduled.queuedMs);
  }

  #enqueue(scheduled: ScheduledRequest, reason: ThrottleReason): void {
    this.#requests.keepPayload(scheduled);
    scheduled.heldBytes = scheduled.bytes ? scheduled.length : 0;
    scheduled.reason = reason;
    scheduled.state = 'queued';
    this.#scheduler.enqueue(scheduled);
  }

  #start(scheduled: ScheduledRequest, nowMs: number): void {
    const { device, kind, isRead, length, countedBytes: counted } = scheduled;
    if (!device) throw new Error('a request without a device was started');
    const { flow, target } = device;
    const scheduler = this.#scheduler;
    scheduled.state = 'started';
    scheduled.startedMs = nowMs;
    scheduled.turn = this.#turn;
    scheduled.isGuaranteed = scheduled.isRest
      ? scheduler.goes(flow, nowMs)
      : scheduler.charge(flow, isRead, counted, nowMs);
    // who is there may have changed since it was queued
    const bytes = this.#partOf(flow, kind, scheduled.offset, length);
    if (length > partBytes) scheduled.cost = costOf(bytes, scheduled.bytes !== null);
    if (bytes < length) {
      scheduled.leftBytes = length - bytes;
      scheduled.length = bytes;
      this.#begun.add(scheduled);
    }
    scheduler.began(flow, scheduled.cost, scheduled.isGuaranteed);
    this.#planTurn(nowMs);
    target[kind](scheduled);
  }

  /** Starts what may go. */
  #pump(): void {
    if (this.#isPumping || !this.#scheduler.hasQueued) return;
    this.#isPumping = true;
    let nowMs = this.#clock.monotonicMs();
    try {
      for (; ; nowMs = this.#clock.monotonicMs()) {
        // the end of the turn, which is planned, comes back here
        const isOver = this.#isOverFor(this.#scheduler.hasGuaranteed, nowMs);
        const item = this.#scheduler.next(nowMs, isOver);
        if (!item && isOver) return;
        if (item instanceof ScheduledRequest) this.#start(item, nowMs);
        else if (item instanceof WaitingTurn) this.turns.start(item, nowMs);
        else break;
      }
    } finally {
      this.#isPumping = false;
    }
    // as `next` saw it: what is ready a moment later must not be taken for what waits for room
    this.#watch(nowMs);
  }

  /** Nothing more of this flow begins in this turn. */
  #isTurnOver(flow: Flow, nowMs: number): boolean {
    return this.#isOverFor(this.#scheduler.isBesideGuarantee(flow), nowMs);
  }

  #isOverFor(isBesideGuarantee: boolean, nowMs: number): boolean {
    if (!isBesideGuarantee || !this.#turnIsPlanned) return false;
    return nowMs - this.#turnSinceMs >= turnBesideGuaranteeMs;
  }

  /** Comes back when limits let the next one go. */
  #watch(nowMs: number): void {
    if (this.#isPumping) return;
    const wakeMs = this.#scheduler.wakeMs(nowMs);
    if (wakeMs >= this.#timerAtMs) return;
    this.#cancelTimer();
    const delayMs = Math.min(Math.max(minTimerMs, Math.ceil(wakeMs - nowMs)), maxTimerMs);
    this.#timerAtMs = Math.min(wakeMs, nowMs + delayMs);
    this.#cancelTimer = this.#clock.after(delayMs, this.#wake);
  }

  readonly #wake = (): void => {
    this.#timerAtMs = Infinity;
    this.#pump();
  };

  #planTurn(nowMs: number): void {
    if (this.#turnIsPlanned) return;
    this.#turnIsPlanned = true;
    this.#turnSinceMs = nowMs;
    this.#clock.endOfTurn(this.#endTurn);
  }

  readonly #endTurn = (): void => {
    this.#turnIsPlanned = false;
    this.#turn += 1;
    if (this.#turnDone.length > 0) this.#endDone();
    this.#pump();
  };

  #endDone(): void {
    const nowMs = this.#clock.monotonicMs();
    for (const done of this.#turnDone) {
      this.#scheduler.ended(done.flow, done.cost, done.isGuaranteed);
      this.#requests.recycle(done);
    }
    this.#turnDone.length = 0;
    this.#scheduler.turnTookMs(nowMs - this.#turnSinceMs, nowMs);
  }

  #refuse(flow: Flow, name: string): void {
    const error = new StorError('UNAVAILABLE', `volume ${name} is not served here any more`);
    const isOurs = (item: QosItem): item is ScheduledRequest => item instanceof ScheduledRequest;
    const left = this.#scheduler.takeBack(flow, isOurs);
    this.#scheduler.remove(flow);
    for (const begun of this.#begun) if (begun.device?.flow === flow) left.push(this.#cut(begun));
    for (const request of left) {
      request.state = 'taken';
      request.done(error);
    }
    this.#pump();
    if (this.#scheduler.hasQueued) return;
    this.#cancelTimer();
    this.#timerAtMs = Infinity;
  }
}
