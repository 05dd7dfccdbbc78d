import { blockBytes } from '@stor/protocol';

import { SectorHistory, common, joined, type SectorWrite, type Span } from './sector-history.ts';

export const sectorBytes = 512;
/** One mistake shows in many sectors. */
const maxProblems = 10;
const sectorsPerBlock = blockBytes / sectorBytes;
const zeroBlock = Buffer.alloc(blockBytes);

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
  readonly #clock: { at: number };
  #value = 0;
  #flushedAt = -1;
  #eras = 0;

  /** `onProblem` hears of each as soon as it is seen. Volumes that are compared share a clock. */
  constructor(onProblem: (problem: string) => void = () => {}, clock = { at: 0 }) {
    this.#onProblem = onProblem;
    this.#clock = clock;
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
    return ++this.#clock.at;
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

  /**
   * The moments in `within` at which the whole volume may have been this image, by value of each
   * sector; or which sector leaves none.
   */
  heldIn(image: Uint32Array, within: Span): Span[] | string {
    // a rollback took place at one moment for all sectors
    const late = this.#heldIn(image, within, false);
    const early = this.#heldIn(image, within, true);
    if (typeof late === 'string') return early;
    return typeof early === 'string' ? late : joined([...late, ...early]);
  }

  #heldIn(image: Uint32Array, within: Span, isEarly: boolean): Span[] | string {
    let moments: Span[] = [within];
    for (const [sector, value] of image.entries()) {
      const history = this.#sectors.get(sector);
      if (!history) {
        if (value !== 0) return `sector ${sector} holds ${value} and was never written`;
        continue;
      }
      const spans = history.heldIn(value, within, isEarly);
      const before = moments;
      moments = common(moments, spans);
      if (moments.length === 0) {
        const where = spans.length === 0 ? '' : ` at ${textOf(spans)} only, others at`;
        return `sector ${sector} did not hold ${value}${where} ${textOf(before)}`;
      }
    }
    return moments;
  }

  /** The image, of some moment in `within`, was seen. */
  seen(image: Uint32Array, { from, to }: Span): void {
    for (const [sector, history] of this.#sectors) {
      const problem = history.read(image[sector] ?? 0, from, to);
      if (problem) this.#fault(`in a snapshot, sector ${sector} ${problem}`);
    }
  }

  /** The whole volume became this image, durably, at some moment since `fromAt`; nobody used it then. */
  became(image: Uint32Array, fromAt: number): void {
    const at = this.now();
    for (const [sector, value] of image.entries()) if (value !== 0) this.#sector(sector);
    for (const [sector, history] of this.#sectors) {
      const problem = history.became(image[sector] ?? 0, fromAt, at);
      if (problem) this.#fault(`sector ${sector}: ${problem}`);
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

/** The value of each sector; or which one is no sector that a client wrote. */
export function imageOf(bytes: Buffer): Uint32Array | string {
  const image = new Uint32Array(Math.floor(bytes.length / sectorBytes));
  for (let sector = 0; sector < image.length; sector += sectorsPerBlock) {
    const at = sector * sectorBytes;
    const block = bytes.subarray(at, at + blockBytes);
    if (block.equals(zeroBlock)) continue;
    for (let i = 0; i < sectorsPerBlock && sector + i < image.length; i++) {
      const value = valueOf(bytes, at + i * sectorBytes, sector + i);
      if (value === null) return `sector ${sector + i} is torn, damaged or of another place`;
      image[sector + i] = value;
    }
  }
  return image;
}

function textOf(spans: readonly Span[]): string {
  return spans.map(({ from, to }) => `${from}-${to}`).join(', ');
}

function valueOf(bytes: Buffer, at: number, sector: number): number | null {
  const value = bytes.readUInt32LE(at);
  const place = bytes.readInt32LE(at + 4);
  if (place !== (value === 0 ? 0 : sector ^ 0x5a5a5a5a)) return null;
  const same = bytes.compare(bytes, at + 8, at + sectorBytes, at, at + sectorBytes - 8) === 0;
  return same ? value : null;
}
