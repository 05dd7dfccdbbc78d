export interface RequestPiece {
  offset: number;
  length: number;
}

/** A range in pieces of at most `mostBytes`, in order. */
export function piecesOf(offset: number, length: number, mostBytes: number): RequestPiece[] {
  const pieces: RequestPiece[] = [];
  for (let done = 0; done < length; done += mostBytes) {
    pieces.push({ offset: offset + done, length: Math.min(mostBytes, length - done) });
  }
  return pieces;
}
