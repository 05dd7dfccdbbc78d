import { chunkBytes } from '@stor/protocol';

export interface ZeroRequest {
  offset: number;
  length: number;
  /** the space is kept, so that every byte is written */
  noHole: boolean;
  sizeBytes: number;
}

/**
 * Whether WRITE_ZEROES of the range is quicker than writing as many zeros: whole chunks are given
 * back, which writes nothing, and parts of chunks are written unless they are holes already. At most
 * half of the range may have to be written. `isHole`: known at once to read as zeros.
 */
export function isFastZero(
  { offset, length, noHole, sizeBytes }: ZeroRequest,
  isHole: (offset: number, length: number) => boolean,
): boolean {
  if (length === 0) return true;
  if (noHole) return false;
  const end = offset + length;
  const wholeStart = Math.min(end, Math.ceil(offset / chunkBytes) * chunkBytes);
  // the last chunk of a device may be shorter, and is whole then
  const wholeEnd = end === sizeBytes ? end : Math.floor(end / chunkBytes) * chunkBytes;
  const edges: [number, number][] = [
    [offset, wholeStart],
    [Math.max(wholeStart, wholeEnd), end],
  ];
  let writtenBytes = 0;
  for (const [from, to] of edges) {
    if (from < to && !isHole(from, to - from)) writtenBytes += to - from;
  }
  return writtenBytes <= length / 2;
}
