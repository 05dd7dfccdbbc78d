const mib = 1024 * 1024;

/** A resync always makes progress: even a busy disk gives it this much (bytes read or written/s). */
export const minResyncRate = 4 * mib;
/** More than any disk or network here takes. */
export const maxResyncRate = 8_192 * mib;
/** To begin with, before anything was measured. */
export const startResyncRate = 64 * mib;
/** How often the rate is decided (ms). */
export const paceStepMs = 250;
/** Above this strain clients are being hurt: the rate falls. */
export const maxStrain = 1.5;
/** Below this there is room for more. */
export const easyStrain = 1.2;
/** While clients work, resync stops so often for so long, to learn their latency without it (ms). */
export const restEveryMs = 10_000;
export const restMs = 250;
/** What may be started at once after a pause, in time of the rate (ms). */
const burstMs = 50;

/** What the clients of one volume feel. */
export interface Foreground {
  isActive: boolean;
  /** see ForegroundMeter; null: not known */
  strain: number | null;
}

/**
 * How fast resyncs of one lane may go: all of them share one budget, and the volume that suffers
 * most decides. The rate falls by parts when clients' latency grows beyond what it is without
 * resync, rises slowly while there is room, and fast when no client asks for anything.
 */
export class ResyncPace {
  #rate = startResyncRate;
  #tokens = 0;
  #filledMs: number;
  #stepMs: number;
  #usedBytes = 0;
  #worst: number | null = null;
  /** clients were seen in this step; and in the one before */
  #seesClients = false;
  #hasClients = false;
  #restFromMs: number;
  #inFlight = 0;
  #quietSinceMs: number;

  constructor(nowMs: number) {
    this.#filledMs = nowMs;
    this.#stepMs = nowMs;
    this.#quietSinceMs = nowMs;
    this.#restFromMs = nowMs + paceStepMs;
  }

  /** bytes read or written per second */
  get rate(): number {
    return this.#rate;
  }

  /** Nothing of any resync was under way since then; a request that began later felt none. */
  get quietSinceMs(): number {
    return this.#inFlight > 0 ? Infinity : this.#quietSinceMs;
  }

  /** What one volume's clients feel; called for each of them again and again. */
  report({ isActive, strain }: Foreground, nowMs: number): void {
    this.#seesClients ||= isActive;
    if (strain !== null) this.#worst = Math.max(this.#worst ?? 0, strain);
    if (nowMs - this.#stepMs >= paceStepMs) this.#step(nowMs);
  }

  /**
   * Takes the price of a piece of work; 0: it may start, and `ended` must follow. Else the time
   * until it is worth asking again (ms).
   */
  begin(bytes: number, nowMs: number): number {
    const restLeftMs = this.#restLeftMs(nowMs);
    if (restLeftMs > 0) return restLeftMs;
    this.#fill(nowMs);
    // what a piece costs is known when it is done, so a debt is possible; it is waited for
    if (this.#tokens <= 0) return Math.ceil((-this.#tokens * 1_000) / this.#rate) + 1;
    this.#tokens -= bytes;
    this.#usedBytes += bytes;
    this.#inFlight += 1;
    return 0;
  }

  /** As `begin`, for work that must not wait: clients are held until it is done. */
  beginAtOnce(bytes: number): void {
    this.#tokens -= bytes;
    this.#usedBytes += bytes;
    this.#inFlight += 1;
  }

  /** The piece is over; `moreBytes`: what it cost beyond the price that it began with. */
  ended(moreBytes: number, nowMs: number): void {
    this.#tokens -= moreBytes;
    this.#usedBytes += moreBytes;
    this.#inFlight -= 1;
    if (this.#inFlight === 0) this.#quietSinceMs = nowMs;
  }

  #restLeftMs(nowMs: number): number {
    if (nowMs < this.#restFromMs) return 0;
    // nobody is there whose latency could be learned
    if (!this.#hasClients || nowMs >= this.#restFromMs + restMs) {
      this.#restFromMs = nowMs + restEveryMs;
      return 0;
    }
    return this.#restFromMs + restMs - nowMs;
  }

  #fill(nowMs: number): void {
    const most = Math.max((this.#rate * burstMs) / 1_000, 1);
    const gained = (this.#rate * (nowMs - this.#filledMs)) / 1_000;
    this.#tokens = Math.min(this.#tokens + gained, most);
    this.#filledMs = nowMs;
  }

  #step(nowMs: number): void {
    this.#fill(nowMs);
    const usedRate = (this.#usedBytes * 1_000) / Math.max(1, nowMs - this.#stepMs);
    // a rate that is not used says nothing: growing it would only make it slow to fall
    const isUsed = usedRate * 2 > this.#rate;
    let rate = this.#rate;
    this.#hasClients = this.#seesClients;
    if (!this.#hasClients) rate = isUsed ? rate * 2 : rate;
    else if (this.#worst === null) rate = Math.min(rate, startResyncRate);
    else if (this.#worst > maxStrain) rate = Math.min(rate, usedRate || rate) * 0.7;
    else if (this.#worst < easyStrain && isUsed) rate *= 1.15;
    this.#rate = Math.min(Math.max(rate, minResyncRate), maxResyncRate);
    // a debt is paid at the rate of now, and not for minutes
    this.#tokens = Math.max(this.#tokens, -this.#rate);
    this.#usedBytes = 0;
    this.#worst = null;
    this.#seesClients = false;
    this.#stepMs = nowMs;
  }
}
