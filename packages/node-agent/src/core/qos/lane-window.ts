import { smallRequestCost } from './cost.ts';

/** Never less: one request at a time would leave disks and peers idle between two (cost). */
export const minWindow = 8 * smallRequestCost;
/** Never more: far above what any disk or peer needs (cost). */
export const maxWindow = 64 * 1024 * 1024;
/** To begin with: about what one client has under way with 32 small requests (cost). */
export const firstWindow = 32 * smallRequestCost;
/** How often the window is decided (ms). */
const stepMs = 20;
/** Fewer samples in a step say nothing. */
const minSamples = 8;
/**
 * Above `times` the shortest time, plus the slack, requests wait for each other. Growth of less than the slack (ms) is no
 * queue, whatever it is in parts of a short time.
 */
const usual: Tolerance = { times: 2, slackMs: 0.1 };
/**
 * While somebody with a guarantee uses the lane, who waits behind all that is under way, here and on the peers: its p99 with
 * three replicas beside a client that takes all it gets is 1.6 ms with this, 1.9 ms with the usual one, for 4 to 11 % of
 * that client's throughput.
 */
const besideGuarantee: Tolerance = { times: 1.2, slackMs: 0.05 };
/** One sample counts for at most so much: a stall is no queue. */
const maxStrain = 4;
/** A shortest time is forgotten after two of these (ms): peers and disks change. */
const periodMs = 10_000;
/**
 * At the begin of each period there is little under way for so long, to see the shortest times: under
 * load for ever they would be taken for longer and longer (ms).
 */
const probeMs = 50;

interface Tolerance {
  times: number;
  slackMs: number;
}

/** What a request took, at its shortest, of one kind; longer ones say how many others it waits for. */
export class ShortestTime {
  #period = -1;
  #now = Infinity;
  #before = Infinity;

  /** The shortest one of this period and the one before, this one counted (ms). */
  note(latencyMs: number, period: number): number {
    if (period !== this.#period) {
      this.#before = period === this.#period + 1 ? this.#now : Infinity;
      this.#now = Infinity;
      this.#period = period;
    }
    if (latencyMs < this.#now) this.#now = latencyMs;
    return Math.min(this.#now, this.#before);
  }
}

/**
 * How much work of clients a contended lane has under way at once. It follows latency: with more under
 * way than disks, peers and the event loop can do at a time, requests take longer and nothing gets
 * done sooner; they had better wait where it can still be chosen which goes first.
 */
export class LaneWindow {
  #size = firstWindow;
  #stepAtMs: number;
  #strainSum = 0;
  #samples = 0;
  #wasFull = false;
  #probeUntilMs = -Infinity;
  #period = 0;
  #periodAtMs: number;
  #tolerance = usual;

  constructor(nowMs: number) {
    this.#stepAtMs = nowMs;
    this.#periodAtMs = nowMs;
  }

  /** Of costs, see `costOf`. */
  size(nowMs: number): number {
    return nowMs < this.#probeUntilMs ? minWindow : this.#size;
  }

  /** Somebody with a guarantee uses the lane, or nobody does any more. */
  guard(isGuarded: boolean): void {
    this.#tolerance = isGuarded ? besideGuarantee : usual;
  }

  /** Something waited for room. */
  noteFull(): void {
    this.#wasFull = true;
  }

  /** A request, or the small ones of a turn of the event loop, took so long (ms). */
  sample(shortest: ShortestTime, latencyMs: number, nowMs: number): void {
    const leastMs = shortest.note(latencyMs, this.#period);
    const { times, slackMs } = this.#tolerance;
    this.#strainSum += Math.min(latencyMs / (leastMs * times + slackMs), maxStrain);
    this.#samples += 1;
    if (nowMs - this.#stepAtMs >= stepMs) this.#step(nowMs);
  }

  #step(nowMs: number): void {
    this.#stepAtMs = nowMs;
    if (nowMs - this.#periodAtMs >= periodMs) {
      this.#periodAtMs = nowMs;
      this.#period += 1;
      this.#probeUntilMs = nowMs + probeMs;
    }
    if (this.#samples >= minSamples && nowMs >= this.#probeUntilMs) {
      const strain = this.#strainSum / this.#samples;
      if (strain > 1) this.#size = Math.max(this.#size * 0.9, minWindow);
      else if (this.#wasFull) {
        this.#size = Math.min(this.#size * 1.05 + smallRequestCost, maxWindow);
      }
    }
    this.#strainSum = 0;
    this.#samples = 0;
    this.#wasFull = false;
  }
}
