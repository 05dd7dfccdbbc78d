import { StorError } from '@stor/protocol';

/**
 * A batch of Raft messages may hold a window of appends, many MiB and more than one gRPC message may
 * have. It goes as pieces, each with one byte in front: 0, more follows; 1, the last.
 */
export const pieceBytes = 512 * 1024;
/** Largest batch: a snapshot in one message, as earlier versions send it, a window of appends and headers. */
export const maxBatchBytes = 96 * 1024 * 1024;

export function splitBatch(batch: Uint8Array): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  do {
    const end = Math.min(at + pieceBytes, batch.length);
    const piece = new Uint8Array(1 + end - at);
    piece[0] = end === batch.length ? 1 : 0;
    piece.set(batch.subarray(at, end), 1);
    pieces.push(piece);
    at = end;
  } while (at < batch.length);
  return pieces;
}

/** The other direction, for one stream. */
export class BatchAssembler {
  #pieces: Uint8Array[] = [];
  #bytes = 0;

  /** The whole batch with its last piece, else null. PROTOCOL when it is malformed or too large. */
  add(piece: Uint8Array): Uint8Array | null {
    const last = piece[0];
    if (last !== 0 && last !== 1) {
      throw new StorError('PROTOCOL', 'a piece of a Raft batch has a wrong first byte');
    }
    this.#bytes += piece.length - 1;
    if (this.#bytes > maxBatchBytes) {
      throw new StorError('PROTOCOL', `a batch of Raft messages is above ${maxBatchBytes} bytes`);
    }
    this.#pieces.push(piece.subarray(1));
    if (last === 0) return null;
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#bytes = 0;
    return pieces.length === 1 ? (pieces[0] as Uint8Array) : Buffer.concat(pieces);
  }
}
