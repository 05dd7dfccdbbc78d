import { crc32 } from 'node:zlib';

// This folder reads a disk of Stor from docs/on-disk-format.md alone. It shares no code with the
// store, not even the checksum: two programs that agree by accident are less likely than one
// mistake that is used twice.

export const unitBytes = 4096;

export function u64(bytes: Buffer, at: number): number {
  const value = bytes.readBigUInt64LE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`number at byte ${at} is too large`);
  return Number(value);
}

export function checksum(bytes: Uint8Array): number {
  return crc32(bytes) >>> 0;
}

/**
 * A metadata unit starts with a magic of 8 bytes, then CRC-32 of all that follows it, then the
 * format version. True when magic and checksum are right; throws for a version not known here.
 */
export function isUnit(bytes: Buffer, magic: string): boolean {
  if (bytes.toString('latin1', 0, 8) !== magic) return false;
  if (bytes.readUInt32LE(8) !== checksum(bytes.subarray(12))) return false;
  const version = bytes.readUInt32LE(12);
  if (version !== 2) throw new Error(`${magic}: format version ${version}, this reader knows 2`);
  return true;
}
