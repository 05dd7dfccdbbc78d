/**
 * A client that asks again within this after its last request asks one after another (ms). A request that waits for
 * a disk (FLUSH, FUA) says nothing about its client, and is too long to be waited for without sleep.
 */
const shortCycleMs = 0.4;
/** So many of them in a row, on balance, and it is waited for without sleep. */
const pollsFrom = 32;
/** More good cycles than this are not remembered. */
const mostScore = 64;
/** One longer cycle undoes so many short ones: a client with pauses is not waited for. */
const longCycleCost = 16;
/** After so much time of waiting without sleep it is looked whether somebody else would have needed the core (ms). */
const spanMs = 100;
/**
 * Who waits for a core for more than this part of the time has none to give away. Short waits are part of it: the
 * kernel likes to begin a client on the core of the lane that woke it, and moves it to another one later.
 */
const mostQueued = 0.25;
/** How long there is no waiting without sleep after that; twice as long each time (ms). */
const firstRestMs = 1_000;
const longestRestMs = 64_000;
/** So much waiting without sleep that harmed nobody, and the next rest is a short one again (ms). */
const calmMs = 10_000;
/** A clock that stands still must not keep the loop for ever: more turns than fit into a short cycle. */
const maxTurns = 400;

/**
 * When a lane waits for its only client by looking again and again, in place of sleeping until the kernel wakes it.
 * A client that sends one request after another (the log of a database) makes the lane sleep and wake for each, and
 * once more for each write with replicas. A waking takes 20 to 50 us in a virtual machine, of 50 that a
 * request takes, or 200. Looking costs a core for as long as the client goes on like this, and about as much CPU
 * time for each request as the wakings do.
 *
 * On a machine without a free core it is a loss: whoever uses up its share is made to wait, for milliseconds. So it
 * ends when the thread has waited for a core itself, for a second at first, for a minute later. (The kernel waits
 * for its virtual machines in the same manner: Documentation/virt/kvm/halt-polling.rst.)
 */
export class BusyPollRule {
  #score = 0;
  #aloneMs = -Infinity;
  #waitsForDisk = false;
  #turns = 0;
  #isPolling = false;
  /** since when this span runs, and how long the thread had waited for a core before */
  #sinceMs = 0;
  #queuedBeforeMs = 0;
  /** of the spans since the last judgement */
  #polledMs = 0;
  #queuedMs = 0;
  #calmMs = 0;
  #restMs = firstRestMs;
  #restUntilMs = -Infinity;

  /** A request came, and it is the only one. True: what follows is worth waiting for without sleep (`begin`). */
  alone(nowMs: number, waitsForDisk: boolean): boolean {
    const cycleMs = nowMs - this.#aloneMs;
    // a database writes and syncs in turn: the cycle of the sync must not make its writes look slow
    if (!this.#waitsForDisk) this.#rate(cycleMs);
    this.#aloneMs = nowMs;
    this.#waitsForDisk = waitsForDisk;
    this.#turns = 0;
    return this.#isWorth && nowMs >= this.#restUntilMs;
  }

  /** There are others. */
  crowded(): void {
    this.#score = 0;
  }

  /** `queuedMs`: how long the thread has waited for a core in all its life. */
  begin(nowMs: number, queuedMs: number): void {
    this.#isPolling = true;
    this.#sinceMs = nowMs;
    this.#queuedBeforeMs = queuedMs;
  }

  /** A turn of the loop is over. False: it goes to sleep (`end`). */
  goesOn(nowMs: number): boolean {
    this.#turns += 1;
    return this.#isWorth && nowMs - this.#aloneMs <= shortCycleMs && this.#turns < maxTurns;
  }

  /** The span has been so long that it is time for `end`, and a new one when it returns true. */
  isLong(nowMs: number): boolean {
    return nowMs - this.#sinceMs >= spanMs;
  }

  /** It was waited without sleep since `begin`. False: not again now. */
  end(nowMs: number, queuedMs: number): boolean {
    if (!this.#isPolling) return false;
    this.#isPolling = false;
    this.#polledMs += nowMs - this.#sinceMs;
    this.#queuedMs += queuedMs - this.#queuedBeforeMs;
    if (this.#polledMs < spanMs) return true;
    const isTooMuch = this.#queuedMs > mostQueued * this.#polledMs;
    if (isTooMuch) this.#rest(nowMs);
    else this.#calm(this.#polledMs);
    this.#polledMs = 0;
    this.#queuedMs = 0;
    return !isTooMuch;
  }

  get #isWorth(): boolean {
    return !this.#waitsForDisk && this.#score >= pollsFrom;
  }

  #rate(cycleMs: number): void {
    if (cycleMs <= shortCycleMs) this.#score = Math.min(this.#score + 1, mostScore);
    else this.#score = Math.max(this.#score - longCycleCost, 0);
  }

  #rest(nowMs: number): void {
    this.#restUntilMs = nowMs + this.#restMs;
    this.#restMs = Math.min(2 * this.#restMs, longestRestMs);
    this.#calmMs = 0;
    this.#score = 0;
  }

  #calm(polledMs: number): void {
    this.#calmMs += polledMs;
    if (this.#calmMs >= calmMs) this.#restMs = firstRestMs;
  }
}
