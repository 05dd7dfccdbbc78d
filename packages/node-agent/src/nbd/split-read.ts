import { chunkBytes, type StorError } from '@stor/protocol';
import type { BlockDevice, BlockRequest } from '@stor/replicator';

/** Part of a read: zeros that take no space, or what the device is asked for. */
export interface ReadPiece {
  readonly offset: number;
  readonly length: number;
  readonly isHole: boolean;
  /** of a part with data: where it lies in the buffer of the read, and what became of it */
  readonly start: number;
  error: StorError | null;
}

/** Null when nothing of the range is known to be a hole. At most `limit` parts, the last one data then. */
export function planPieces(
  device: BlockDevice,
  offset: number,
  length: number,
  limit: number,
): ReadPiece[] | null {
  const end = offset + length;
  const pieces: ReadPiece[] = [];
  let dataFrom = offset;
  let start = 0;
  const endData = (until: number): void => {
    if (until === dataFrom) return;
    const piece = { offset: dataFrom, length: until - dataFrom, isHole: false, start, error: null };
    start += piece.length;
    pieces.push(piece);
  };
  let at = offset;
  while (at < end && pieces.length < limit - 2) {
    const holeBytes = device.holeBytes?.(at, end - at) ?? 0;
    if (holeBytes === 0) {
      // space is taken in chunks, so the next one may be a hole
      at = Math.min(end, (Math.floor(at / chunkBytes) + 1) * chunkBytes);
      continue;
    }
    endData(at);
    pieces.push({ offset: at, length: holeBytes, isHole: true, start: 0, error: null });
    at += holeBytes;
    dataFrom = at;
  }
  if (pieces.length === 0) return null;
  endData(end);
  return pieces;
}

export function dataBytesOf(pieces: readonly ReadPiece[]): number {
  return pieces.reduce((sum, { length, isHole }) => sum + (isHole ? 0 : length), 0);
}

/** Reads the parts with data, all at once; `request.done` gets the first error when all are answered. */
export function readPieces(
  device: BlockDevice,
  pieces: readonly ReadPiece[],
  request: BlockRequest,
): void {
  let open = 1;
  let failed: StorError | null = null;
  const oneDone = (): void => {
    open -= 1;
    if (open === 0) request.done(failed);
  };
  for (const piece of pieces) {
    if (piece.isHole) continue;
    open += 1;
    let isOver = false;
    device.read({
      offset: piece.offset,
      length: piece.length,
      bytes: request.bytes,
      start: request.start + piece.start,
      retained: true,
      fua: request.fua,
      noHole: false,
      done: (error) => {
        if (isOver) throw new Error('a block device finished a request twice');
        isOver = true;
        piece.error = error;
        failed ??= error;
        oneDone();
      },
    });
  }
  oneDone();
}
