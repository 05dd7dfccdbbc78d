import type { NbdLimits } from './nbd-limits.ts';

export type UnfinishedLimits = Pick<NbdLimits, 'requestMs' | 'requestBytesPerMs'>;

/**
 * The request of one connection that has begun to arrive and is not there as a whole. A client may be
 * idle for as long as it likes, but not half-way through a request: that holds memory, and no live
 * client does it. Time in which the server itself does not read does not count.
 */
export class UnfinishedRequest {
  readonly #limits: UnfinishedLimits;
  #isBegun = false;
  #begunMs = 0;
  #heardMs = 0;
  #bytes = 0;

  constructor(limits: UnfinishedLimits) {
    this.#limits = limits;
  }

  /** Everything that has arrived was taken, or the server does not read. */
  none(): void {
    this.#isBegun = false;
  }

  /** Bytes came, and a request of so many in all is left unfinished; `isNew`: not the one of before. */
  heard(nowMs: number, bytes: number, isNew: boolean): void {
    if (isNew || !this.#isBegun) this.#begunMs = nowMs;
    this.#isBegun = true;
    this.#heardMs = nowMs;
    this.#bytes = bytes;
  }

  /** Its client has gone silent, or sends more slowly than any that works. */
  isLate(nowMs: number): boolean {
    if (!this.#isBegun) return false;
    const { requestMs, requestBytesPerMs } = this.#limits;
    const allowedMs = requestMs + this.#bytes / requestBytesPerMs;
    return nowMs - this.#heardMs >= requestMs || nowMs - this.#begunMs >= allowedMs;
  }
}
