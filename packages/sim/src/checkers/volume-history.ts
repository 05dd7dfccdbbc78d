import { blockBytes } from '@stor/protocol';

import { SectorHistory, type SectorWrite } from './sector-history.ts';

export const sectorBytes = 512;
/** One mistake shows in many sectors. */
const maxProblems = 10;
const sectorsPerBlock = blockBytes / sectorBytes;

/** A write under way: what it does to each sector. */
export interface WriteToken {
  from: number;
  to: number;
  value: number;
  writes: SectorWrite[];
}

/** Histories of the sectors of one volume that were ever written, and its flushes. */
export class VolumeHistory {
  readonly #sectors = new Map<number, SectorHistory>();
  readonly #problems: string[] = [];
  readonly #onProblem: (problem: string) => void;
  #clock = 0;
  #value = 0;
  #flushedAt = -1;
  #eras = 0;

  /** `onProblem` hears of each as soon as it is seen. */
  constructor(onProblem: (problem: string) => void = () => {}) {
    this.#onProblem = onProblem;
  }

  get problems(): readonly string[] {
    return this.#problems;
  }
  get eras(): number {
    return this.#eras;
  }
  /** sectors ever written, ascending */
  touched(): number[] {
    return [...this.#sectors.keys()].sort((a, b) => a - b);
  }

  now(): number {
    return ++this.#clock;
  }

  /** A write of a value of its own, or of zeros, to sectors [from, to). */
  begin(from: number, to: number, isZero: boolean, fua: boolean): WriteToken {
    const at = this.now();
    const value = isZero ? 0 : ++this.#value;
    const writes: SectorWrite[] = [];
    for (let sector = from; sector < to; sector++) {
      const block = Math.floor(sector / sectorsPerBlock) * sectorsPerBlock;
      const isWhole = block >= from && block + sectorsPerBlock <= to;
      writes.push(this.#sector(sector).started(value, at, fua, isWhole));
    }
    return { from, to, value, writes };
  }

  acknowledged(token: WriteToken): void {
    const at = this.now();
    for (const [i, write] of token.writes.entries()) {
      this.#sector(token.from + i).acknowledged(write, at);
    }
  }

  /** `startAt`: `now()` when the FLUSH was sent. */
  flushed(startAt: number): void {
    this.#flushedAt = Math.max(this.#flushedAt, startAt);
  }

  /** Bytes of sectors [from, to), read between `startAt` and now. */
  read(from: number, to: number, bytes: Buffer, startAt: number): void {
    const endAt = this.now();
    let whole = 0;
    for (let sector = from; sector < to; sector++) {
      if (sector % sectorsPerBlock === 0) whole = 0;
      const at = (sector - from) * sectorBytes;
      const value = valueOf(bytes, at, sector);
      if (value === null) {
        this.#fault(`sector ${sector} is torn, damaged or of another place`);
        continue;
      }
      const history = this.#sectors.get(sector);
      if (!history) {
        if (value !== 0) this.#fault(`sector ${sector} holds ${value} and was never written`);
        continue;
      }
      const problem = history.read(value, startAt, endAt);
      if (problem) this.#fault(`sector ${sector} ${problem}`);
      if (!history.isWholeWrite(value)) continue;
      if (whole !== 0 && whole !== value) {
        this.#fault(`block ${Math.floor(sector / sectorsPerBlock)} is torn: ${whole} and ${value}`);
      }
      whole = value;
    }
  }

  /** No member kept what was not flushed. */
  memoryLost(): void {
    this.#eras += 1;
    const at = this.now();
    for (const [sector, history] of this.#sectors) {
      const problem = history.memoryLost(at, this.#flushedAt);
      if (problem) this.#fault(`sector ${sector}: ${problem}`);
    }
    this.#flushedAt = -1;
  }

  finish(): void {
    for (const [sector, history] of this.#sectors) {
      const problem = history.check();
      if (problem) this.#fault(`sector ${sector}: ${problem}`);
    }
  }

  #sector(sector: number): SectorHistory {
    let history = this.#sectors.get(sector);
    if (!history) {
      history = new SectorHistory();
      this.#sectors.set(sector, history);
    }
    return history;
  }

  #fault(problem: string): void {
    if (this.#problems.length >= maxProblems) return;
    this.#problems.push(problem);
    this.#onProblem(problem);
  }
}

/** Sectors that say which write they are of, and which place they belong to; 0 is zeros. */
export function payloadOf(from: number, to: number, value: number): Buffer {
  const bytes = Buffer.alloc((to - from) * sectorBytes);
  if (value === 0) return bytes;
  for (let sector = from; sector < to; sector++) {
    const at = (sector - from) * sectorBytes;
    bytes.writeUInt32LE(value, at);
    bytes.writeUInt32LE(sector ^ 0x5a5a5a5a, at + 4);
    for (let done = 8; done < sectorBytes; done *= 2) bytes.copyWithin(at + done, at, at + done);
  }
  return bytes;
}

function valueOf(bytes: Buffer, at: number, sector: number): number | null {
  const value = bytes.readUInt32LE(at);
  const place = bytes.readInt32LE(at + 4);
  if (place !== (value === 0 ? 0 : sector ^ 0x5a5a5a5a)) return null;
  const same = bytes.compare(bytes, at + 8, at + sectorBytes, at, at + sectorBytes - 8) === 0;
  return same ? value : null;
}
