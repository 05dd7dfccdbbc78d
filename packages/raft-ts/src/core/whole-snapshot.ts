import { crc32 } from './crc32.ts';
import type { Snapshot, SnapshotPiece, WholeSnapshot } from './types.ts';

/** A log snapshot whose content is at hand, as a store takes it: in one piece. */
export function inOnePiece(
  { index, term, membership, data }: WholeSnapshot,
  source: SnapshotPiece['source'] = 'made',
): { snapshot: Snapshot; pieces: SnapshotPiece[] } {
  const checksum = crc32(data);
  const totalBytes = data.length;
  return {
    snapshot: { index, term, membership, sizeBytes: totalBytes, checksum },
    pieces: [{ source, index, term, totalBytes, offset: 0, data, checksum }],
  };
}
