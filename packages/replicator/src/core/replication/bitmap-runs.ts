import { Bitmap } from './bitmap.ts';

/**
 * A set as runs: how many numbers are no members, then how many are, again and again, each as a LEB128
 * number. It is as long as there are runs, wherever they lie; a flat bitmap is as long as its last member is far.
 * Null when the flat form is no longer than that.
 */
export function runsOfBitmap(bitmap: Bitmap): Uint8Array | null {
  const bytes: number[] = [];
  const most = Math.ceil(bitmap.size / 8);
  let end = 0;
  for (let first = bitmap.next(0); first >= 0; first = bitmap.next(end)) {
    putNumber(bytes, first - end);
    end = bitmap.runEnd(first, bitmap.size);
    putNumber(bytes, end - first);
    if (bytes.length >= most) return null;
  }
  return bytes.length < Math.ceil(end / 8) ? Uint8Array.from(bytes) : null;
}

/** The set of `size` that the runs say; null when they are none of it. */
export function bitmapOfRuns(bytes: Uint8Array, size: number): Bitmap | null {
  const bitmap = new Bitmap(size);
  let index = 0;
  let isMember = false;
  for (let at = 0; at < bytes.length; isMember = !isMember) {
    let count = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined || scale > size) return null;
      count += (byte & 0x7f) * scale;
      if (byte < 0x80) break;
    }
    if (count > size - index) return null;
    if (isMember) bitmap.addRun(index, index + count);
    index += count;
  }
  return isMember ? null : bitmap;
}

function putNumber(bytes: number[], value: number): void {
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  bytes.push(rest);
}
