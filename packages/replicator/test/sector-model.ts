export const sectorBytes = 512;

/**
 * What each sector of a volume may hold. Each client owns a zone and has one request at a time, so
 * the model is exact: an acknowledged write is the only value until the next one, a write without an answer
 * may or may not have happened, and what was not flushed may be gone once nobody kept its memory.
 */
export class SectorModel {
  readonly sectors: number;
  readonly #value: Uint32Array;
  /** written without an answer, after `value` */
  readonly #maybe = new Map<number, Set<number>>();
  /** what was flushed last */
  readonly #durable: Uint32Array;
  /** written since; any of them may be what a power cut leaves */
  readonly #since = new Map<number, Set<number>>();

  constructor(sizeBytes: number) {
    this.sectors = Math.ceil(sizeBytes / sectorBytes);
    this.#value = new Uint32Array(this.sectors);
    this.#durable = new Uint32Array(this.sectors);
  }

  started(from: number, to: number, value: number): void {
    for (let sector = from; sector < to; sector++) {
      put(this.#maybe, sector, value);
      put(this.#since, sector, value);
    }
  }

  acknowledged(from: number, to: number, value: number, durable: boolean): void {
    for (let sector = from; sector < to; sector++) {
      this.#value[sector] = value;
      this.#maybe.delete(sector);
      if (!durable) continue;
      this.#durable[sector] = value;
      this.#since.delete(sector);
    }
  }

  /** A flush that began when nothing of the zone was under way. */
  flushed(from: number, to: number): void {
    for (let sector = from; sector < to; sector++) {
      this.#durable[sector] = this.#value[sector] ?? 0;
      const maybe = this.#maybe.get(sector);
      if (maybe) this.#since.set(sector, new Set(maybe));
      else this.#since.delete(sector);
    }
  }

  /** Nobody kept what was not flushed. */
  memoryLost(): void {
    for (let sector = 0; sector < this.sectors; sector++) {
      const since = this.#since.get(sector);
      if (!since) continue;
      this.#value[sector] = this.#durable[sector] ?? 0;
      this.#maybe.set(sector, new Set(since));
    }
  }

  /** Null, or what is wrong with bytes that were read. From then on nothing else may be read (I5). */
  read(from: number, to: number, bytes: Buffer): string | null {
    for (let sector = from; sector < to; sector++) {
      const at = (sector - from) * sectorBytes;
      const found = valueOf(bytes.subarray(at, at + sectorBytes), sector);
      if (found === null) return `sector ${sector} is torn or of another place`;
      const expected = this.#value[sector] ?? 0;
      if (found !== expected && this.#maybe.get(sector)?.has(found) !== true) {
        const maybe = [...(this.#maybe.get(sector) ?? [])].join();
        return `sector ${sector} holds ${found}, not ${expected} or one of [${maybe}]; flushed was ${this.#durable[sector] ?? 0}`;
      }
      this.#value[sector] = found;
      this.#maybe.delete(sector);
    }
    return null;
  }
}

function put(map: Map<number, Set<number>>, sector: number, value: number): void {
  const set = map.get(sector);
  if (set) set.add(value);
  else map.set(sector, new Set([value]));
}

/** Sectors that say which write they are of, and which place they belong to; 0 is zeros. */
export function payloadOf(from: number, to: number, value: number): Buffer {
  const bytes = Buffer.alloc((to - from) * sectorBytes);
  if (value === 0) return bytes;
  for (let sector = from; sector < to; sector++) {
    const at = (sector - from) * sectorBytes;
    bytes.writeUInt32LE(value, at);
    bytes.writeUInt32LE(sector, at + 4);
    bytes.copyWithin(at + 8, at, at + 8);
    bytes.copyWithin(at + 16, at, at + 16);
    for (let done = 32; done < sectorBytes; done *= 2) bytes.copyWithin(at + done, at, at + done);
  }
  return bytes;
}

function valueOf(bytes: Buffer, sector: number): number | null {
  const value = bytes.readUInt32LE(0);
  if (bytes.readUInt32LE(4) !== (value === 0 ? 0 : sector)) return null;
  return bytes.compare(bytes, 8, sectorBytes, 0, sectorBytes - 8) === 0 ? value : null;
}
