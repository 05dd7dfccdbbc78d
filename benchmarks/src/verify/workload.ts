import { sectorBytes } from './stamp.ts';

export interface WorkloadRequest {
  offset: number;
  length: number;
  /** WRITE_ZEROES instead of WRITE */
  zero: boolean;
}

const blockBytes = 4096;
/** Part of the requests that meet in a few blocks, so that requests in flight overlap often. */
const hotShare = 0.1;
const hotBytes = 256 * 1024;
const zeroShare = 0.03;
const wholeBlockShare = 0.8;

/** Draws requests of 512 B to 64 KiB, mostly whole blocks of 4 KiB, from a seed. */
export class WorkloadPicker {
  static readonly maxRequestBytes = 64 * 1024;
  readonly #offset: number;
  readonly #length: number;
  #state: number;

  constructor(seed: number, offset: number, length: number) {
    if (offset % blockBytes !== 0 || length % blockBytes !== 0 || length < hotBytes) {
      throw new Error(`range ${offset}+${length} is not made of whole blocks, or is too small`);
    }
    this.#offset = offset;
    this.#length = length;
    this.#state = (seed ^ 0x2545f491) | 1;
  }

  next(): WorkloadRequest {
    const kind = this.#random();
    const range = this.#random() < hotShare ? hotBytes : this.#length;
    if (kind < zeroShare) return this.#place(range, this.#integer(1, 16) * blockBytes, true);
    if (kind < wholeBlockShare) return this.#place(range, blockBytes, false);
    if (kind < 0.9) return this.#place(range, this.#integer(1, 16) * sectorBytes, false);
    return this.#place(range, this.#integer(2, 16) * blockBytes, false);
  }

  #place(range: number, length: number, zero: boolean): WorkloadRequest {
    const unit = length % blockBytes === 0 && this.#random() < 0.9 ? blockBytes : sectorBytes;
    const last = Math.floor((range - length) / unit);
    return { offset: this.#offset + this.#integer(0, last) * unit, length, zero };
  }

  /** an integer in [lowest, highest] */
  #integer(lowest: number, highest: number): number {
    return lowest + Math.floor(this.#random() * (highest - lowest + 1));
  }

  /** xorshift32: the same seed gives the same requests */
  #random(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) / 2 ** 32;
  }
}
