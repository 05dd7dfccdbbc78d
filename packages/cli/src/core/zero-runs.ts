/** Grain of zero detection: small enough to find holes, large enough to keep requests few. */
export const zeroGrainBytes = 64 * 1024;
const zeroGrain = new Uint8Array(zeroGrainBytes);

export interface ByteRun {
  /** bytes from the start of the piece */
  start: number;
  length: number;
  zero: boolean;
}

/** True when every byte of `bytes[start, start+length)` is 0. */
export type IsZero = (bytes: Uint8Array, start: number, length: number) => boolean;

/**
 * Splits a piece into runs that are all zero and runs that are not, at grains of 64 KiB. Runs
 * alternate, follow each other and cover the piece.
 */
export function zeroRuns(
  piece: Uint8Array,
  length: number,
  isZero: IsZero = isZeroBytes,
): ByteRun[] {
  const runs: ByteRun[] = [];
  for (let start = 0; start < length; start += zeroGrainBytes) {
    const grainBytes = Math.min(zeroGrainBytes, length - start);
    const zero = isZero(piece, start, grainBytes);
    const last = runs.at(-1);
    if (last && last.zero === zero) last.length += grainBytes;
    else runs.push({ start, length: grainBytes, zero });
  }
  return runs;
}

/** memcmp against a grain of zeros, which is some ten times faster than a loop. */
export function isZeroBytes(bytes: Uint8Array, start: number, length: number): boolean {
  if (bytes[start] !== 0 && length > 0) return false;
  for (let at = 0; at < length; at += zeroGrainBytes) {
    const part = Math.min(zeroGrainBytes, length - at);
    const piece = Buffer.from(bytes.buffer, bytes.byteOffset + start + at, part);
    if (piece.compare(zeroGrain, 0, part) !== 0) return false;
  }
  return true;
}
