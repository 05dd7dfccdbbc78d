import { chunkBytes, defaultQosWeight } from '@stor/protocol';
import type { Flow, QosItem, ThrottleReason } from './flow.ts';
import { costOf, smallRequestCost } from './cost.ts';
import { LaneWindow, ShortestTime } from './lane-window.ts';

/** A flow that asked for something within this time uses the lane (ms). */
export const activeMs = 100;
/** How often it is looked who still does (ms). */
const sweepMs = 20;
/** A flow that others leave no room for so long gets one request under way all the same (ms). */
const maxWaitMs = 1_000;
/** What a flow of the default weight gets in one round: a small request (cost). */
const quantum = smallRequestCost;
/** What a flow went out of turn is held against it so far: others may only have been slow (cost). */
const maxDebt = 16 * 1024 * 1024;
/**
 * What background work has under way while clients use the lane: four chunks, as many as one replica
 * that is filled needs to keep a disk and a link busy; each class has at least one (cost).
 */
const backgroundBesideClients = 4 * costOf(chunkBytes, true);
/** The same while they do not: beyond this nothing goes faster, and classes can still be weighed (cost). */
const backgroundAlone = 64 * costOf(chunkBytes, true);
/** Sums of fractions are not exact (cost). */
const rounding = 0.001;

/**
 * Which request of a lane goes next. As long as one flow has the lane to itself nothing but its own
 * limits holds it. When several use it, a window bounds what is under way, and what waits goes
 * in this order: flows below their guarantee, then all by deficit round robin. When the window is
 * full, what fits into half of its flow's share goes all the same: those who fill it may be slow.
 * Nothing waits while there is room and its limits let it go.
 *
 * Background work takes its turns beside all clients together, by the weights of their classes. What
 * it has under way fills no room of clients, for it lasts long; it has a bound of its own.
 */
export class LaneScheduler {
  readonly window: LaneWindow;
  /** flows with requests that wait; the order of their turns */
  readonly #ring: Flow[] = [];
  /** whose turn it is; the next one to arrive at is behind it */
  #cursor = -1;
  readonly #active: Flow[] = [];
  /** of these, how many have a guarantee */
  #activeGuaranteed = 0;
  /** of clients */
  #activeWeight = 0;
  #activeClients = 0;
  /** of the class of all clients together, beside the other classes */
  #clientsWeight = defaultQosWeight;
  #sweptMs: number;
  #underWay = 0;
  /** of that, what went first by a guarantee */
  #guaranteed = 0;
  /** of background work, which is not part of the others */
  #background = 0;
  #heldBytes = 0;
  readonly #shortestTurn = new ShortestTime();

  constructor(nowMs: number) {
    this.window = new LaneWindow(nowMs);
    this.#sweptMs = nowMs;
  }

  /** Several flows use the lane. */
  get isContended(): boolean {
    return this.#active.length > 1;
  }

  /** The flow that has the lane to itself, if one has. */
  get sole(): Flow | null {
    return this.#active.length === 1 ? (this.#active[0] ?? null) : null;
  }

  /** Another flow than this one uses the lane, and has a guarantee: what is begun at once is to be short. */
  isBesideGuarantee(flow: Flow): boolean {
    return this.#activeGuaranteed > (flow.isSeenGuaranteed ? 1 : 0);
  }

  /** A flow with a guarantee uses the lane. */
  get hasGuaranteed(): boolean {
    return this.#activeGuaranteed > 0;
  }

  /** memory that queued requests hold (bytes) */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  get hasQueued(): boolean {
    return this.#ring.length > 0;
  }

  /** Cost under way, of requests that went while the lane was contended or had waited. */
  get underWay(): number {
    return this.#underWay;
  }

  /** A request of the flow has come. */
  see(flow: Flow, nowMs: number): void {
    flow.seenMs = nowMs;
    if (!flow.isActive) {
      // whoever had the lane to itself was not looked at: it may have used it until now
      const { sole } = this;
      if (sole) {
        sole.seenMs = nowMs;
        sole.isFree = false;
      }
      flow.isActive = true;
      this.#active.push(flow);
      if (!flow.isBackground) {
        this.#activeClients += 1;
        this.#activeWeight += flow.weight;
      }
      this.#countGuaranteed(flow);
    }
    if (nowMs - this.#sweptMs >= sweepMs) this.#sweep(nowMs);
    flow.isFree = this.#active.length === 1 && !flow.isQueued && flow.isUnlimited;
  }

  /** Why a request may not go at once, or null: then it does, and is counted by `began`. */
  refusal(flow: Flow, isRead: boolean, cost: number, nowMs: number): ThrottleReason | null {
    const waiting = flow.rests.head ?? (isRead ? flow.reads : flow.writes).head;
    if (waiting) return waiting.reason;
    const refused = flow.refusal(isRead, nowMs);
    if (refused) return refused;
    return !this.isContended || this.#hasRoom(flow, cost, nowMs) ? null : 'contention';
  }

  /** A request goes: its flow has had it. True when it went on account of a guarantee. */
  charge(flow: Flow, isRead: boolean, bytes: number, nowMs: number): boolean {
    const { used } = flow;
    if (isRead) {
      used.readOps += 1;
      used.readBytes += bytes;
    } else {
      used.writeOps += 1;
      used.writeBytes += bytes;
    }
    flow.limits.take(isRead, bytes);
    flow.shared?.take(isRead, bytes);
    const isFirst = this.goes(flow, nowMs);
    const { guarantee } = flow;
    if (!guarantee) return false;
    guarantee.take(bytes, nowMs);
    if (isFirst) guarantee.wentFirst(bytes);
    return isFirst;
  }

  /** The same for a later part of a request, which was counted with its first one. */
  goes(flow: Flow, nowMs: number): boolean {
    flow.wentMs = nowMs;
    return this.isContended && flow.guarantee?.isBelow(nowMs) === true;
  }

  /** It is under way from now until `ended`. */
  began(flow: Flow, cost: number, isGuaranteed: boolean): void {
    flow.underWay += cost;
    if (flow.isBackground) {
      this.#background += cost;
      return;
    }
    this.#underWay += cost;
    if (isGuaranteed) this.#guaranteed += cost;
  }

  ended(flow: Flow, cost: number, isGuaranteed: boolean): void {
    flow.underWay -= cost;
    if (flow.isBackground) {
      this.#background -= cost;
      return;
    }
    this.#underWay -= cost;
    if (isGuaranteed) this.#guaranteed -= cost;
  }

  /** A request that did not end in its own turn took so long. */
  tookMs(item: QosItem, latencyMs: number, nowMs: number): void {
    this.window.sample(item.flow.shortest(item.isRead, item.cost), latencyMs, nowMs);
  }

  /** A turn of the event loop in which requests were done at once took so long. */
  turnTookMs(latencyMs: number, nowMs: number): void {
    this.window.sample(this.#shortestTurn, latencyMs, nowMs);
  }

  enqueue(item: QosItem): void {
    const { flow } = item;
    flow.queueOf(item).push(item);
    flow.heldBytes += item.heldBytes;
    this.#heldBytes += item.heldBytes;
    if (!item.isRest) flow.throttled.requests[item.reason] += 1;
    // the other direction may be free to go
    flow.gateMs = -Infinity;
    if (flow.isQueued) return;
    flow.isQueued = true;
    flow.deficit = 0;
    if (flow.guarantee) this.#catchUp(flow.guarantee);
    this.#ring.push(flow);
  }

  /**
   * Takes out the request that goes next; null: nothing may go now. `onlyGuaranteed`: of others than
   * those below their guarantee nothing may.
   */
  next(nowMs: number, onlyGuaranteed = false): QosItem | null {
    if (this.#ring.length === 0) return null;
    const flow = this.#choose(nowMs, onlyGuaranteed);
    const item = flow?.ready(nowMs);
    if (!flow || !item) return null;
    flow.queueOf(item).shift();
    flow.throttled.ms[item.reason] += nowMs - item.queuedMs;
    this.#left(item);
    return item;
  }

  /** Takes out those of a flow that `isWanted`; they never went. */
  takeBack<T extends QosItem>(flow: Flow, isWanted: (item: QosItem) => item is T): T[] {
    const { reads, writes, rests } = flow;
    const items = [reads, writes, rests].flatMap((queue) => queue.take(isWanted)) as T[];
    for (const item of items) this.#left(item);
    return items;
  }

  /** When the next one may go although nothing has ended (ms); Infinity: none. */
  wakeMs(nowMs: number): number {
    let soonest = Infinity;
    const hasRoom = !this.isContended || this.#underWay < this.window.size(nowMs);
    for (const flow of this.#ring) {
      const item = flow.ready(nowMs);
      // time has passed since `next` was asked
      if (item && hasRoom && this.#fits(item)) return nowMs;
      // one that is ready waits for room, of which others tell when they end; they may not
      const wakeMs = item ? this.#patienceMs(flow, nowMs) : flow.gateMs;
      soonest = Math.min(soonest, wakeMs);
    }
    return soonest;
  }

  /** Its limits, weight or guarantee have changed. */
  changed(flow: Flow, weight: number): void {
    if (flow.isActive && !flow.isBackground) this.#activeWeight += weight - flow.weight;
    flow.weight = weight;
    flow.gateMs = -Infinity;
    flow.isFree = false;
    if (flow.isActive) this.#countGuaranteed(flow);
    if (flow.guarantee) this.#catchUp(flow.guarantee);
  }

  /** What all clients together weigh beside the classes of background work. */
  weighClients(weight: number): void {
    this.#clientsWeight = weight;
  }

  /** Nothing of it comes any more; its queues are empty. */
  remove(flow: Flow): void {
    flow.isFree = false;
    this.#dropActive(flow);
    this.#dropQueued(flow);
  }

  #left({ flow, heldBytes }: QosItem): void {
    flow.heldBytes -= heldBytes;
    this.#heldBytes -= heldBytes;
    if (flow.queued === 0) this.#dropQueued(flow);
  }

  #dropQueued(flow: Flow): void {
    const at = this.#ring.indexOf(flow);
    if (at < 0) return;
    flow.isQueued = false;
    this.#ring.splice(at, 1);
    if (at <= this.#cursor) this.#cursor -= 1;
  }

  #dropActive(flow: Flow): void {
    const at = this.#active.indexOf(flow);
    if (at < 0) return;
    flow.isActive = false;
    this.#active.splice(at, 1);
    if (!flow.isBackground) {
      this.#activeClients -= 1;
      this.#activeWeight -= flow.weight;
    }
    this.#setGuaranteed(flow, false);
  }

  #countGuaranteed(flow: Flow): void {
    this.#setGuaranteed(flow, flow.guarantee !== null);
  }

  #setGuaranteed(flow: Flow, has: boolean): void {
    if (has === flow.isSeenGuaranteed) return;
    flow.isSeenGuaranteed = has;
    this.#activeGuaranteed += has ? 1 : -1;
    this.window.guard(this.hasGuaranteed);
  }

  #sweep(nowMs: number): void {
    this.#sweptMs = nowMs;
    for (const flow of [...this.#active]) {
      const isIdle = flow.queued === 0 && flow.underWay <= 0;
      if (isIdle && nowMs - flow.seenMs > activeMs) this.#dropActive(flow);
    }
  }

  #hasRoom(flow: Flow, cost: number, nowMs: number): boolean {
    const size = this.window.size(nowMs);
    if (flow.isBackground) return this.#underWay < size && this.#hasBackgroundRoom(flow, cost);
    if (this.#underWay < size) return true;
    const isBelow = flow.guarantee?.isBelow(nowMs) === true;
    if (isBelow ? this.#guaranteed < size : this.#hasOwnRoom(flow, cost, size)) return true;
    this.window.noteFull();
    return false;
  }

  #hasBackgroundRoom(flow: Flow, cost: number): boolean {
    const most = this.#activeClients > 0 ? backgroundBesideClients : backgroundAlone;
    return flow.underWay === 0 || this.#background + cost <= most;
  }

  /** There is room for it, unless clients have filled the window. */
  #fits({ flow, cost }: QosItem): boolean {
    return !flow.isBackground || this.#hasBackgroundRoom(flow, cost);
  }

  /** The request of a flow that would go in its turn. */
  #candidate(flow: Flow, nowMs: number): QosItem | null {
    const item = flow.ready(nowMs);
    return item && this.#fits(item) ? item : null;
  }

  /** However slow the others are, half of its share is its own. */
  #hasOwnRoom(flow: Flow, cost: number, size: number): boolean {
    return flow.underWay + cost <= (size * flow.weight) / this.#activeWeight / 2;
  }

  /** Others have all the room and do not end: the first request of a flow does not wait for them. */
  #waitsTooLong(flow: Flow, nowMs: number): boolean {
    return flow.underWay === 0 && nowMs >= flow.waitsSinceMs + maxWaitMs;
  }

  #patienceMs(flow: Flow, nowMs: number): number {
    return flow.underWay > 0 ? Infinity : Math.max(flow.waitsSinceMs + maxWaitMs, nowMs);
  }

  #choose(nowMs: number, onlyGuaranteed: boolean): Flow | null {
    const size = this.isContended ? this.window.size(nowMs) : Infinity;
    const first = this.#guaranteed < size ? this.#firstGuaranteed(nowMs) : null;
    if (first || onlyGuaranteed) return first;
    if (this.#underWay < size) return this.#inTurn(nowMs);
    for (const flow of this.#ring) {
      const item = flow.ready(nowMs);
      if (!item) continue;
      if (!flow.isBackground) this.window.noteFull();
      const isBelow = flow.guarantee?.isBelow(nowMs) === true;
      const mayHave = !flow.isBackground && !isBelow;
      const hasOwn = mayHave && this.#hasOwnRoom(flow, item.cost, size);
      if (!hasOwn && !this.#waitsTooLong(flow, nowMs)) continue;
      // its turn comes the later
      flow.deficit = Math.max(flow.deficit - item.cost, -maxDebt);
      return flow;
    }
    return null;
  }

  #firstGuaranteed(nowMs: number): Flow | null {
    let first: Flow | null = null;
    let leastTag = Infinity;
    for (const flow of this.#ring) {
      const { guarantee } = flow;
      if (!guarantee || guarantee.tag >= leastTag) continue;
      if (!guarantee.isBelow(nowMs) || !flow.ready(nowMs)) continue;
      first = flow;
      leastTag = guarantee.tag;
    }
    return first;
  }

  /** Deficit round robin. */
  #inTurn(nowMs: number): Flow | null {
    const current = this.#ring[this.#cursor];
    if (current && this.#affords(current, nowMs)) return current;
    // no more than two rounds: after the first it is known how many are needed
    for (let round = 0; round < 2; round++) {
      for (let count = this.#ring.length; count > 0; count--) {
        this.#cursor = (this.#cursor + 1) % this.#ring.length;
        const flow = this.#ring[this.#cursor];
        if (!flow || !this.#candidate(flow, nowMs)) continue;
        flow.deficit += this.#quantumOf(flow);
        if (this.#affords(flow, nowMs)) return flow;
      }
      this.#skipRounds(nowMs);
    }
    return null;
  }

  #affords(flow: Flow, nowMs: number): boolean {
    const item = this.#candidate(flow, nowMs);
    if (!item || flow.deficit < item.cost - rounding) return false;
    flow.deficit -= item.cost;
    return true;
  }

  /** Gives everybody what all the rounds would in which nobody has enough. */
  #skipRounds(nowMs: number): void {
    let rounds = Infinity;
    for (const flow of this.#ring) {
      const item = this.#candidate(flow, nowMs);
      if (!item) continue;
      rounds = Math.min(rounds, Math.ceil((item.cost - flow.deficit) / this.#quantumOf(flow)));
    }
    if (rounds === Infinity || rounds <= 1) return;
    for (const flow of this.#ring) {
      if (this.#candidate(flow, nowMs)) flow.deficit += this.#quantumOf(flow) * (rounds - 1);
    }
  }

  /** However many volumes there are, a class has its share beside all of them. */
  #quantumOf(flow: Flow): number {
    if (!flow.isBackground) return (quantum * flow.weight) / defaultQosWeight;
    const clients = this.#activeClients > 0 ? this.#activeWeight : defaultQosWeight;
    return (quantum * clients * flow.weight) / this.#clientsWeight / defaultQosWeight;
  }

  /** One that comes anew has no claim on what the others had meanwhile. */
  #catchUp(guarantee: { tag: number }): void {
    let least = Infinity;
    for (const flow of this.#ring) {
      if (flow.guarantee && flow.guarantee !== guarantee) {
        least = Math.min(least, flow.guarantee.tag);
      }
    }
    if (least !== Infinity) guarantee.tag = Math.max(guarantee.tag, least);
  }
}
