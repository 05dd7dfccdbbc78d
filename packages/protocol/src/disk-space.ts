import { parseByteSize } from './byte-size.ts';
import { StorError } from './errors.ts';
import type { SpaceLevel } from './resources.ts';

/** Shares of a disk, its reserve left out, from which on it is called nearly full, and full. */
const nearlyFullShare = 0.8;
const fullShare = 0.95;
/** A reserve above this leaves too little of a disk to be worth one (share). */
const maxReserveShare = 0.9;

/** How full a disk, or several of them, are; the reserve counts as not there. */
export function spaceLevel(space: {
  capacityBytes: number;
  reservedBytes: number;
  freeBytes: number;
}): SpaceLevel {
  const usable = space.capacityBytes - space.reservedBytes;
  if (usable <= 0) return space.capacityBytes > 0 ? 'full' : 'unknown';
  const share = 1 - space.freeBytes / usable;
  if (share >= fullShare) return 'full';
  return share >= nearlyFullShare ? 'nearly-full' : 'ok';
}

/**
 * Bytes of a disk of this size that `reserve` (`10%`, `20GiB`) keeps free; null for '', the default.
 * INVALID_ARGUMENT when it is neither, or more than 90 % of the disk.
 */
export function reserveBytes(reserve: string, capacityBytes: number): number | null {
  if (reserve === '') return null;
  const percent = /^([0-9]+(?:\.[0-9]+)?)%$/.exec(reserve.trim());
  const bytes = percent
    ? Math.floor((capacityBytes * Number(percent[1])) / 100)
    : parseByteSize(reserve);
  if (bytes <= capacityBytes * maxReserveShare) return bytes;
  throw new StorError(
    'INVALID_ARGUMENT',
    `a reserve of ${reserve} leaves too little of the disk: use at most ${maxReserveShare * 100}% of it`,
  );
}
