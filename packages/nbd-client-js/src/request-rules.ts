import { NbdError } from './nbd-error.ts';

/**
 * What one request without a payload may cover when lengths have 32 bits (bytes): whole 4 KiB blocks.
 * With extended headers there is no such bound.
 */
export const maxCompactBytes = 2 ** 32 - 4096;

/** Throws INVALID_ARGUMENT unless the range lies in the export and is not too long. */
export function checkRange(
  offset: number,
  length: number,
  maxLength: number,
  sizeBytes: number,
): void {
  const right =
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(length) &&
    offset >= 0 &&
    length >= 0 &&
    offset + length <= sizeBytes;
  if (!right) {
    const text = `${length} bytes at ${offset} are outside the export of ${sizeBytes} bytes`;
    throw new NbdError('INVALID_ARGUMENT', text);
  }
  if (length > maxLength) {
    const text = `${length} bytes in one request; the most is ${maxLength}`;
    throw new NbdError('INVALID_ARGUMENT', text);
  }
}

/** Throws INVALID_ARGUMENT unless the server has told that transmission flag. */
export function needFlag(flags: number, flag: number, what: string): void {
  if ((flags & flag) !== 0) return;
  throw new NbdError('INVALID_ARGUMENT', `the server has no ${what}`);
}

/** Where a read goes: the caller's target, which must have the right length, or a new buffer. */
export function readTarget(length: number, target: Uint8Array | undefined): Buffer {
  if (!target) return Buffer.allocUnsafe(length);
  if (target.length !== length) {
    throw new NbdError('INVALID_ARGUMENT', `target has ${target.length} bytes, not ${length}`);
  }
  return Buffer.from(target.buffer, target.byteOffset, target.byteLength);
}
