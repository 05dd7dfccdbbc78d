import { blockBytes, blocksPerChunk, chunkBytes } from '@stor/protocol';

/** Layout constants of one disk; docs/on-disk-format.md explains them. All numbers little-endian. */
export const diskFormatVersion = 2;

/** Unit of every metadata write: a power cut leaves a unit torn, never its neighbours. */
export const unitBytes = 4096;

/** Checksums of one slot in `sums`: 4 bytes per block. */
export const slotSumsBytes = blocksPerChunk * 4;

/** Checksum over bytes, given by the shell: the native one lives outside core. */
export type Crc32 = (bytes: Uint8Array) => number;

/** CRC-32 of a block of zeros. Stored sums are XORed with it, so a hole verifies as zeros. */
export const zeroBlockCrc = 0xc71c0011;

/** A slot index, and its negative, must fit into 32 bits. */
export const maxSlots = 0x7ffffffe;

/** Common start of every metadata unit: magic (8 bytes), CRC-32 of all that follows it, version. */
export const unitHeaderBytes = 16;

export const slotBytes = chunkBytes;
export const sumBytes = 4;
export { blockBytes };

/** Writes magic and version; `sealUnit` adds the checksum when the rest is filled in. */
export function startUnit(unit: Uint8Array, magic: string): DataView {
  const view = new DataView(unit.buffer, unit.byteOffset, unit.byteLength);
  for (let i = 0; i < 8; i++) unit[i] = magic.charCodeAt(i);
  view.setUint32(12, diskFormatVersion, true);
  return view;
}

export function sealUnit(unit: Uint8Array, crc32: Crc32): void {
  const view = new DataView(unit.buffer, unit.byteOffset, unit.byteLength);
  view.setUint32(8, crc32(unit.subarray(12)), true);
}

/** Version of the program that wrote a valid unit. */
export function unitVersion(unit: Uint8Array): number {
  return new DataView(unit.buffer, unit.byteOffset, unit.byteLength).getUint32(12, true);
}

/** True when the unit has this magic and its checksum holds. */
export function unitIsValid(unit: Uint8Array, magic: string, crc32: Crc32): boolean {
  for (let i = 0; i < 8; i++) if (unit[i] !== magic.charCodeAt(i)) return false;
  const view = new DataView(unit.buffer, unit.byteOffset, unit.byteLength);
  return view.getUint32(8, true) === crc32(unit.subarray(12));
}

export function isZero(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte !== 0) return false;
  return true;
}

/** 64-bit numbers on disk are safe integers (<= 2^53 - 1). */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

export function getU64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}
