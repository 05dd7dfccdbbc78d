import { defaultQosWeight, type QosClassName, type VolumeQos } from '@stor/protocol';
import { smallRequestCost } from './cost.ts';
import type { Guarantee } from './guarantee.ts';
import { ShortestTime } from './lane-window.ts';
import { LimitSet } from './limit-set.ts';

/** Why a request waits. */
export const throttleReasons = ['limit', 'tenant', 'contention'] as const;
export type ThrottleReason = (typeof throttleReasons)[number];

/** A request as the scheduler sees it. */
export interface QosItem {
  readonly flow: Flow;
  readonly isRead: boolean;
  /** see `costOf` */
  readonly cost: number;
  /** of memory that it holds while it waits (bytes) */
  readonly heldBytes: number;
  readonly queuedMs: number;
  readonly reason: ThrottleReason;
  /** of a request that was counted when its first part went: no limit holds it back */
  readonly isRest: boolean;
}

/** Requests of one direction in the order of their arrival. */
export class ItemQueue<T> {
  #items: T[] = [];
  #first = 0;

  get length(): number {
    return this.#items.length - this.#first;
  }
  get head(): T | undefined {
    return this.#items[this.#first];
  }
  push(item: T): void {
    this.#items.push(item);
  }
  shift(): void {
    this.#first += 1;
    if (this.#first === this.#items.length) {
      this.#items = [];
      this.#first = 0;
    } else if (this.#first >= 1_024) {
      this.#items.splice(0, this.#first);
      this.#first = 0;
    }
  }
  /** Takes out those that `isWanted`, in order. */
  take(isWanted: (item: T) => boolean): T[] {
    const all = this.#items.slice(this.#first);
    this.#items = all.filter((item) => !isWanted(item));
    this.#first = 0;
    return all.filter(isWanted);
  }
}

/** Requests that are held back on their own account, since the flow began. */
export interface ThrottleCounters {
  requests: Record<ThrottleReason, number>;
  ms: Record<ThrottleReason, number>;
}

/** What shares a lane: the clients of one volume, or all work of one other class. */
export class Flow {
  readonly class: QosClassName;
  readonly limits = new LimitSet();
  /** shared with other volumes of the tenant */
  shared: LimitSet | null = null;
  qos: VolumeQos = {};
  weight = defaultQosWeight;
  guarantee: Guarantee | null = null;

  readonly reads = new ItemQueue<QosItem>();
  readonly writes = new ItemQueue<QosItem>();
  /** of requests that have begun; they come before others */
  readonly rests = new ItemQueue<QosItem>();
  /** memory that its queued requests hold (bytes) */
  heldBytes = 0;
  /** cost under way */
  underWay = 0;
  /** of deficit round robin (cost) */
  deficit = 0;
  /** nothing of its queues can go before (ms); by its limits and by those it shares */
  gateMs = -Infinity;
  isQueued = false;
  /** its last request came then (ms) */
  seenMs = -Infinity;
  isActive = false;
  /** the lane counts it among those with a guarantee */
  isSeenGuaranteed = false;
  /** its last request was started then (ms) */
  wentMs = -Infinity;
  /**
   * It has the lane to itself and no limits: its requests pass without a look at them, which is why
   * it is not known when the last one was.
   */
  isFree = false;
  /** what limits have counted: operations and bytes, of each direction */
  readonly used = { readOps: 0, writeOps: 0, readBytes: 0, writeBytes: 0 };
  readonly throttled: ThrottleCounters = {
    requests: { limit: 0, tenant: 0, contention: 0 },
    ms: { limit: 0, tenant: 0, contention: 0 },
  };

  /** by direction and size: a long request is no sign of a queue */
  readonly #shortest: (ShortestTime | undefined)[] = [];

  constructor(ofClass: QosClassName) {
    this.class = ofClass;
  }

  /** It is no client: it takes its turn, and none of the room that clients have. */
  get isBackground(): boolean {
    return this.class !== 'client';
  }

  /** What requests like this one took at their shortest. */
  shortest(isRead: boolean, cost: number): ShortestTime {
    const size = 32 - Math.clz32(cost / smallRequestCost);
    const index = isRead ? size : size + 32;
    return (this.#shortest[index] ??= new ShortestTime());
  }

  get queued(): number {
    return this.reads.length + this.writes.length + this.rests.length;
  }

  /** What the oldest request that waits waits for; null: none waits. */
  get waitsFor(): ThrottleReason | null {
    const heads = [this.rests.head, this.reads.head, this.writes.head];
    const waiting = heads.filter((head) => head !== undefined);
    waiting.sort((a, b) => a.queuedMs - b.queuedMs);
    return waiting[0]?.reason ?? null;
  }

  /** Since when something waits and nothing goes (ms). */
  get waitsSinceMs(): number {
    let oldestMs = Infinity;
    for (const { head } of [this.reads, this.writes, this.rests]) {
      oldestMs = Math.min(oldestMs, head?.queuedMs ?? Infinity);
    }
    return Math.max(oldestMs, this.wentMs);
  }

  /** It need be asked nothing as long as it has the lane to itself. */
  get isUnlimited(): boolean {
    return this.limits.isEmpty && (this.shared?.isEmpty ?? true);
  }

  queueOf({ isRest, isRead }: QosItem): ItemQueue<QosItem> {
    if (isRest) return this.rests;
    return isRead ? this.reads : this.writes;
  }

  /** Why a request of this direction may not go by the limits, or null. */
  refusal(isRead: boolean, nowMs: number): ThrottleReason | null {
    if (this.limits.waitMs(isRead, nowMs) > 0) return 'limit';
    if (this.shared && this.shared.waitMs(isRead, nowMs) > 0) return 'tenant';
    return null;
  }

  /** The request that goes next; null: limits allow none before `gateMs`. */
  ready(nowMs: number): QosItem | null {
    const rest = this.rests.head;
    if (rest) return rest;
    if (nowMs < this.gateMs) return null;
    const read = this.reads.head;
    const write = this.writes.head;
    const readMs = read ? this.#waitMs(true, nowMs) : Infinity;
    const writeMs = write ? this.#waitMs(false, nowMs) : Infinity;
    if (read && readMs === 0 && (writeMs > 0 || !write || read.queuedMs <= write.queuedMs)) {
      return read;
    }
    if (write && writeMs === 0) return write;
    this.gateMs = nowMs + Math.min(readMs, writeMs);
    return null;
  }

  #waitMs(isRead: boolean, nowMs: number): number {
    const shared = this.shared?.waitMs(isRead, nowMs) ?? 0;
    return Math.max(this.limits.waitMs(isRead, nowMs), shared);
  }
}
