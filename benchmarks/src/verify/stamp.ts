import { crc32 } from '@stor/runtime';

/** The smallest unit that a client may write; every one carries a stamp of its own. */
export const sectorBytes = 512;

const magicHigh = 0x53746f72; // "Stor"
const magicLow = 0x56726679; // "Vrfy"
const sumAt = sectorBytes - 4;

/**
 * Fills sectors with contents that exist only once: the number of the write, the sector's own
 * number, the seed of the run, bytes drawn from the three, and a checksum. So whatever is read
 * later tells which write it came from, and a half-written, swapped or stale sector is seen.
 */
export function stampSectors(
  target: Buffer,
  start: number,
  firstSector: number,
  count: number,
  sequence: number,
  seed: number,
): void {
  for (let index = 0; index < count; index += 1) {
    const at = start + index * sectorBytes;
    const sector = firstSector + index;
    target.writeUInt32BE(magicHigh, at);
    target.writeUInt32BE(magicLow, at + 4);
    writeSafeInteger(target, sequence, at + 8);
    writeSafeInteger(target, sector, at + 16);
    target.writeUInt32BE(seed, at + 24);
    let state = (seed ^ Math.imul(sequence, 0x9e3779b1) ^ Math.imul(sector, 0x85ebca6b)) | 1;
    for (let word = at + 28; word < at + sumAt; word += 4) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      target.writeInt32BE(state | 0, word);
    }
    target.writeUInt32BE(crc32(target.subarray(at, at + sumAt)), at + sumAt);
  }
}

export type SectorContent =
  { kind: 'zero' } | { kind: 'write'; sequence: number } | { kind: 'garbage'; reason: string };

/** Which write a sector came from; `sector` is where it was read. */
export function recogniseSector(
  bytes: Buffer,
  at: number,
  sector: number,
  seed: number,
): SectorContent {
  if (bytes.readUInt32BE(at) !== magicHigh || bytes.readUInt32BE(at + 4) !== magicLow) {
    for (let index = at; index < at + sectorBytes; index += 1) {
      if (bytes[index] !== 0) return { kind: 'garbage', reason: 'neither zeros nor a stamp' };
    }
    return { kind: 'zero' };
  }
  if (crc32(bytes.subarray(at, at + sumAt)) !== bytes.readUInt32BE(at + sumAt)) {
    return { kind: 'garbage', reason: 'stamp with a wrong checksum' };
  }
  const sequence = readSafeInteger(bytes, at + 8);
  const home = readSafeInteger(bytes, at + 16);
  if (bytes.readUInt32BE(at + 24) !== seed) {
    return { kind: 'garbage', reason: `stamp of another run (write ${sequence})` };
  }
  if (home !== sector) {
    return { kind: 'garbage', reason: `stamp of sector ${home} (write ${sequence})` };
  }
  return { kind: 'write', sequence };
}

function writeSafeInteger(target: Buffer, value: number, at: number): void {
  target.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  target.writeUInt32BE(value >>> 0, at + 4);
}

function readSafeInteger(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4);
}
