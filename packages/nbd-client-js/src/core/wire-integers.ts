const high = 2 ** 32;

/**
 * A 64-bit number as a double. Above 2^53 it is rounded but stays above 2^53, so a comparison with a
 * size or an offset that is a safe integer still comes out right.
 */
export function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * high + bytes.readUInt32BE(at + 4);
}

/** `value` is a safe integer, not negative. */
export function writeU64(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32BE(Math.floor(value / high), at);
  bytes.writeUInt32BE(value >>> 0, at + 4);
}

/** A string of the protocol: UTF-8 without NUL. Null when the bytes are not that. */
export function readText(bytes: Uint8Array): string | null {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.includes('\0') ? null : text;
  } catch {
    return null;
  }
}
