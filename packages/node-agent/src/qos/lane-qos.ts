import { StorError, defaultQosWeight, type VolumeQos } from '@stor/protocol';
import type { BlockDevice, BlockRequest } from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import { costOf } from '../core/qos/cost.ts';
import { Flow, type QosClass, type QosItem, type ThrottleReason } from '../core/qos/flow.ts';
import { Guarantee } from '../core/qos/guarantee.ts';
import { LaneScheduler } from '../core/qos/lane-scheduler.ts';
import { LimitSet } from '../core/qos/limit-set.ts';
import { KeptRequest, type RequestKind } from '../exports/kept-request.ts';
import { ReadBufferPool } from '../nbd/read-buffer-pool.ts';
import { QosDevice, type QosLane } from './qos-device.ts';
import { ScheduledRequest, type ScheduledOwner } from './scheduled-request.ts';

const mib = 1024 * 1024;

/**
 * Memory of requests of one volume that wait (bytes); with more its connections are not read, so that
 * clients wait instead. Each connection may be beyond it by the request that it is at.
 */
const maxVolumeBytes = 8 * mib;
/** The same for all volumes of a lane together. */
const maxLaneBytes = 64 * mib;
/** Copies of written bytes that are kept for reuse (bytes). */
const pooledBytes = 8 * mib;
/** Request objects that are kept for reuse. */
const maxPooledRequests = 1_024;
/** Timers are no finer (ms). */
const minTimerMs = 1;

/** What is known of a volume's quality of service, for those who watch it. */
export interface VolumeQosReport {
  volumeId: string;
  name: string;
  qos: VolumeQos;
  queued: number;
  throttledRequests: Record<ThrottleReason, number>;
  throttledMs: Record<ThrottleReason, number>;
  /** left for bursts, as part of what may be saved; null: the volume has none */
  burstCredits: number | null;
}

/** The volume that is being served, as its lane shares itself among volumes. */
export interface QosVolume {
  /** What its record says now; an older one than the last changes nothing. */
  update(qos: VolumeQos | undefined, resourceVersion: number): void;
  /** For one user, of the clients unless it says otherwise. */
  device(primary: BlockDevice, ofClass?: QosClass): QosDevice;
  /** Nothing of it comes any more. What still waits is refused. Works twice. */
  close(): void;
}

export interface OpenVolume {
  volumeId: string;
  name: string;
  qos?: VolumeQos;
  resourceVersion: number;
}

/**
 * Quality of service on one lane: all requests of clients pass here on their way to a primary of this
 * lane. A volume that has the lane to itself and no limits pays a comparison per request; nothing is
 * allocated, and no timer runs, unless something waits.
 */
export class LaneQos implements QosLane, ScheduledOwner {
  readonly #clock: Clock;
  readonly #scheduler: LaneScheduler;
  readonly #volumes = new Set<Volume>();
  readonly #tenants = new Map<string, Tenant>();
  readonly #idle: ScheduledRequest[] = [];
  readonly #copies = new ReadBufferPool(pooledBytes);
  #orders = 0;
  #isPumping = false;
  #cancelTimer: () => void = () => {};
  #timerAtMs = Infinity;
  // what was done in this turn of the event loop: others have waited for it, so it counts until the end
  #turn = 0;
  #turnIsPlanned = false;
  #turnSinceMs = 0;
  readonly #turnDone: ScheduledRequest[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#scheduler = new LaneScheduler(clock.monotonicMs());
  }

  open(volume: OpenVolume): QosVolume {
    const opened = new Volume(volume, {
      lane: this,
      scheduler: this.#scheduler,
      clock: this.#clock,
      tenant: (name) => this.#tenant(name),
      leaveTenant: (name) => {
        this.#leaveTenant(name);
      },
      changed: () => {
        this.#pump();
      },
      closed: (flows) => {
        this.#volumes.delete(opened);
        this.#refuse(flows, volume.name);
      },
    });
    this.#volumes.add(opened);
    return opened;
  }

  reports(): VolumeQosReport[] {
    const nowMs = this.#clock.monotonicMs();
    return [...this.#volumes].map((volume) => volume.report(nowMs));
  }

  // what devices ask

  isFull(flow: Flow): boolean {
    if (flow.heldBytes === 0) return false;
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
    if (scheduler.refusal(flow, true, cost, nowMs)) return false;
    if (!device.target.readInline(offset, length, target, start)) return false;
    const isGuaranteed = scheduler.charge(flow, true, length, nowMs);
    if (!scheduler.isContended) return true;
    const done = this.#take(device);
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
    const cost = costOf(request.length, request.bytes !== null);
    const refusal = scheduler.refusal(flow, isRead, cost, nowMs);
    if (!refusal && !scheduler.isContended) {
      scheduler.charge(flow, isRead, countedBytes(kind, request), nowMs);
      target[kind](request);
      return;
    }
    const scheduled = this.#scheduled(device, kind, request, nowMs);
    if (refusal) this.#queue(scheduled, refusal);
    else this.#start(scheduled, nowMs);
  }

  takeBack(device: QosDevice): KeptRequest[] {
    const isOf = (item: QosItem): item is ScheduledRequest =>
      item instanceof ScheduledRequest && item.device === device;
    const taken = this.#scheduler.takeBack(device.flow, isOf);
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
    if (copy) this.#copies.give(copy);
    scheduled.of = null;
    scheduled.copy = null;
    scheduled.bytes = null;
    if (state === 'taken') this.#recycle(scheduled);
    else if (scheduled.turn === this.#turn) this.#turnDone.push(scheduled);
    else {
      const nowMs = this.#clock.monotonicMs();
      this.#scheduler.ended(flow, scheduled.cost, scheduled.isGuaranteed);
      this.#scheduler.tookMs(scheduled, nowMs - scheduled.startedMs, nowMs);
      this.#recycle(scheduled);
    }
    of.done(error);
    this.#pump();
  }

  #scheduled(
    device: QosDevice,
    kind: RequestKind,
    request: BlockRequest,
    nowMs: number,
  ): ScheduledRequest {
    const scheduled = this.#take(device);
    scheduled.of = request;
    scheduled.kind = kind;
    scheduled.isRead = kind === 'read';
    scheduled.offset = request.offset;
    scheduled.length = request.length;
    scheduled.bytes = request.bytes;
    scheduled.start = request.start;
    scheduled.retained = request.retained;
    scheduled.fua = request.fua;
    scheduled.noHole = request.noHole;
    scheduled.cost = costOf(request.length, request.bytes !== null);
    scheduled.countedBytes = countedBytes(kind, request);
    scheduled.queuedMs = nowMs;
    return scheduled;
  }

  #queue(scheduled: ScheduledRequest, reason: ThrottleReason): void {
    const { bytes, start, length } = scheduled;
    if (bytes && !scheduled.retained) {
      const copy = this.#copies.take(length);
      copy.set(bytes.subarray(start, start + length));
      scheduled.copy = copy;
      scheduled.bytes = copy;
      scheduled.start = 0;
      scheduled.retained = true;
    }
    scheduled.heldBytes = bytes ? length : 0;
    scheduled.reason = reason;
    scheduled.order = this.#orders++;
    scheduled.state = 'queued';
    this.#scheduler.enqueue(scheduled);
    this.#watch(scheduled.queuedMs);
  }

  #start(scheduled: ScheduledRequest, nowMs: number): void {
    const { device, kind, isRead, countedBytes: bytes } = scheduled;
    if (!device) throw new Error('a request without a device was started');
    const { flow, target } = device;
    scheduled.state = 'started';
    scheduled.startedMs = nowMs;
    scheduled.turn = this.#turn;
    scheduled.isGuaranteed = this.#scheduler.charge(flow, isRead, bytes, nowMs);
    this.#scheduler.began(flow, scheduled.cost, scheduled.isGuaranteed);
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
        const item = this.#scheduler.next(nowMs);
        if (!(item instanceof ScheduledRequest)) break;
        this.#start(item, nowMs);
      }
    } finally {
      this.#isPumping = false;
    }
    // as `next` saw it: what is ready a moment later must not be taken for what waits for room
    this.#watch(nowMs);
  }

  /** Comes back when limits let the next one go. */
  #watch(nowMs: number): void {
    if (this.#isPumping) return;
    const wakeMs = this.#scheduler.wakeMs(nowMs);
    if (wakeMs >= this.#timerAtMs) return;
    this.#cancelTimer();
    this.#timerAtMs = wakeMs;
    const delayMs = Math.max(minTimerMs, Math.ceil(wakeMs - nowMs));
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
    if (this.#turnDone.length === 0) return;
    const nowMs = this.#clock.monotonicMs();
    for (const done of this.#turnDone) {
      this.#scheduler.ended(done.flow, done.cost, done.isGuaranteed);
      this.#recycle(done);
    }
    this.#turnDone.length = 0;
    this.#scheduler.turnTookMs(nowMs - this.#turnSinceMs, nowMs);
    this.#pump();
  };

  #take(device: QosDevice): ScheduledRequest {
    const scheduled = this.#idle.pop() ?? new ScheduledRequest(this);
    scheduled.device = device;
    return scheduled;
  }

  #recycle(scheduled: ScheduledRequest): void {
    scheduled.state = 'idle';
    scheduled.device = null;
    if (this.#idle.length < maxPooledRequests) this.#idle.push(scheduled);
  }

  #refuse(flows: readonly Flow[], name: string): void {
    const error = new StorError('UNAVAILABLE', `volume ${name} is not served here any more`);
    const isOurs = (item: QosItem): item is ScheduledRequest => item instanceof ScheduledRequest;
    for (const flow of flows) {
      const left = this.#scheduler.takeBack(flow, isOurs);
      this.#scheduler.remove(flow);
      for (const request of left) {
        request.state = 'taken';
        request.done(error);
      }
    }
    this.#pump();
    if (this.#scheduler.hasQueued) return;
    this.#cancelTimer();
    this.#timerAtMs = Infinity;
  }

  #tenant(name: string): LimitSet {
    const tenant = this.#tenants.get(name) ?? { limits: new LimitSet(), users: 0 };
    tenant.users += 1;
    this.#tenants.set(name, tenant);
    return tenant.limits;
  }

  #leaveTenant(name: string): void {
    const tenant = this.#tenants.get(name);
    if (!tenant) return;
    tenant.users -= 1;
    if (tenant.users === 0) this.#tenants.delete(name);
  }
}

/** Buckets that the volumes of one tenant share; kept as long as one of them is served. */
interface Tenant {
  limits: LimitSet;
  users: number;
}

interface VolumeParts {
  lane: QosLane;
  scheduler: LaneScheduler;
  clock: Clock;
  tenant: (name: string) => LimitSet;
  leaveTenant: (name: string) => void;
  changed: () => void;
  closed: (flows: readonly Flow[]) => void;
}

class Volume implements QosVolume {
  readonly #facts: OpenVolume;
  readonly #parts: VolumeParts;
  readonly #flows = new Map<QosClass, Flow>();
  readonly #clients: Flow;
  #version: number;
  #tenant: string | null = null;
  #isClosed = false;

  constructor(facts: OpenVolume, parts: VolumeParts) {
    this.#facts = facts;
    this.#parts = parts;
    this.#version = facts.resourceVersion;
    this.#clients = new Flow('client');
    this.#flows.set('client', this.#clients);
    this.#set(facts.qos ?? {});
  }

  update(qos: VolumeQos | undefined, resourceVersion: number): void {
    if (this.#isClosed || resourceVersion < this.#version) return;
    this.#version = resourceVersion;
    this.#set(qos ?? {});
    this.#parts.changed();
  }

  device(primary: BlockDevice, ofClass: QosClass = 'client'): QosDevice {
    let flow = this.#flows.get(ofClass);
    if (!flow) {
      flow = new Flow(ofClass);
      this.#flows.set(ofClass, flow);
    }
    return new QosDevice(this.#parts.lane, flow, primary);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#tenant !== null) this.#parts.leaveTenant(this.#tenant);
    this.#parts.closed([...this.#flows.values()]);
  }

  report(nowMs: number): VolumeQosReport {
    const { throttled, limits, qos, queued } = this.#clients;
    return {
      volumeId: this.#facts.volumeId,
      name: this.#facts.name,
      qos,
      queued,
      throttledRequests: { ...throttled.requests },
      throttledMs: { ...throttled.ms },
      burstCredits: limits.credits(nowMs),
    };
  }

  #set(qos: VolumeQos): void {
    const { scheduler, clock } = this.#parts;
    const flow = this.#clients;
    const nowMs = clock.monotonicMs();
    const { minIops = 0, minBps = 0, tenant } = qos;
    const before = flow.qos;
    flow.qos = qos;
    flow.limits.update(qos, nowMs);
    if (minIops !== (before.minIops ?? 0) || minBps !== (before.minBps ?? 0)) {
      flow.guarantee = minIops > 0 || minBps > 0 ? new Guarantee(minIops, minBps, nowMs) : null;
    }
    const name = tenant?.name ?? null;
    if (name !== this.#tenant) {
      if (this.#tenant !== null) this.#parts.leaveTenant(this.#tenant);
      flow.shared = name === null ? null : this.#parts.tenant(name);
      this.#tenant = name;
    }
    if (tenant) flow.shared?.update(tenant.share, nowMs);
    scheduler.changed(flow, qos.weight ?? defaultQosWeight);
  }
}

/**
 * Bytes that limits and guarantees count: those that are read or written. A range that is freed or
 * made a hole costs a request; one that keeps its space is as good as written.
 */
function countedBytes(kind: RequestKind, { length, noHole }: BlockRequest): number {
  if (kind === 'trim') return 0;
  return kind === 'writeZeroes' && !noHole ? 0 : length;
}
