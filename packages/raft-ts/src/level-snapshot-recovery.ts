import { crc32 } from 'node:zlib';
import type { LogPosition, Snapshot } from './core/types.ts';
import { RaftError } from './errors.ts';
import type { KeyValueLog, KeyValueOperation } from './key-value-log.ts';
import {
  decodeDraft,
  decodePiece,
  decodePieceKey,
  decodeSnapshot,
  decodeWholeSnapshot,
  encodePiece,
  encodeSnapshot,
  keys,
  pieceKey,
  piecePrefix,
} from './level-records.ts';
import { contentOf, type StoredContent, type StoredContents } from './level-snapshots.ts';

/** Of a snapshot of an old store, when it is cut into pieces (bytes). */
const pieceBytes = 256 << 10;

export interface FoundSnapshots {
  snapshot: Snapshot;
  contents: StoredContents;
  /** to be written, with the new format's name, before anything else; empty: it is the present form */
  conversion: KeyValueOperation[];
}

/**
 * The newest log snapshot, and what has arrived of another one. Throws CORRUPT when the newest is damaged.
 * Everything is read once, piece by piece, as what counts must be whole.
 */
export async function readSnapshots(db: KeyValueLog, record: Uint8Array): Promise<FoundSnapshots> {
  const { snapshot, generation } = decodeSnapshot(record);
  const [draftBytes] = await db.getMany([keys.draft]);
  const draft = draftBytes ? draftOf(draftBytes) : null;
  const newest = contentOf(generation, snapshot, snapshot.sizeBytes);
  const arriving =
    draft && draft.index > snapshot.index
      ? contentOf(draft.generation, draft, draft.totalBytes)
      : null;
  const garbage: Uint8Array[] = draftBytes && !arriving ? [keys.draft] : [];
  let highest = Math.max(generation, draft?.generation ?? 0);
  for await (const [key, value] of db.range(pieceRange)) {
    const at = decodePieceKey(key);
    highest = Math.max(highest, at.generation);
    if (at.generation === generation) {
      const reason = addPiece(newest, key, value, at.offset);
      if (reason) throw new RaftError('CORRUPT', `the stored snapshot is damaged: ${reason}`);
    } else if (
      at.generation !== arriving?.generation ||
      addPiece(arriving, key, value, at.offset)
    ) {
      // one that was being made or read when the member stopped, or what is behind a damage
      garbage.push(key);
    }
  }
  if (newest.bytes !== snapshot.sizeBytes || newest.checksum !== snapshot.checksum) {
    const found = `${newest.bytes} bytes are there of ${snapshot.sizeBytes}`;
    throw new RaftError('CORRUPT', `the stored snapshot is damaged: ${found}`);
  }
  const contents = { newest, arriving, nextGeneration: highest + 1, garbage };
  return { snapshot, contents, conversion: [] };
}

const pieceRange = { gt: Uint8Array.of(piecePrefix), lt: Uint8Array.of(piecePrefix + 1) };

function draftOf(
  bytes: Uint8Array,
): ({ generation: number; totalBytes: number } & LogPosition) | null {
  try {
    return decodeDraft(bytes);
  } catch (error) {
    // nothing is lost with it: the leader sends it again
    if (error instanceof RaftError && error.code === 'CORRUPT') return null;
    throw error;
  }
}

/** Counts a piece that follows; null, or why it does not. */
function addPiece(
  content: StoredContent,
  key: Uint8Array,
  value: Uint8Array,
  offset: number,
): string | null {
  if (offset !== content.bytes) return `byte ${content.bytes} is missing`;
  try {
    const { data, checksumBefore } = decodePiece(key, value);
    if (checksumBefore !== content.checksum) return `byte ${offset} follows on another one`;
    content.offsets.push(offset);
    content.bytes += data.length;
    content.checksum = crc32(data, content.checksum);
    return null;
  } catch (error) {
    if (error instanceof RaftError && error.code === 'CORRUPT') return error.message;
    throw error;
  }
}

/** Of formats 1 and 2, where it was one record. */
export function convertSnapshot(record: Uint8Array): FoundSnapshots {
  const { index, term, membership, data } = decodeWholeSnapshot(record);
  const checksum = crc32(data);
  const snapshot = { index, term, membership, sizeBytes: data.length, checksum };
  const newest = contentOf(1, snapshot, data.length);
  const conversion: KeyValueOperation[] = [
    { type: 'put', key: keys.snapshot, value: encodeSnapshot(snapshot, newest.generation) },
  ];
  for (let offset = 0; offset < data.length; offset += pieceBytes) {
    const key = pieceKey(newest.generation, offset);
    const piece = data.subarray(offset, offset + pieceBytes);
    conversion.push({ type: 'put', key, value: encodePiece(key, piece, newest.checksum) });
    newest.offsets.push(offset);
    newest.bytes += piece.length;
    newest.checksum = crc32(piece, newest.checksum);
  }
  const contents = { newest, arriving: null, nextGeneration: 2, garbage: [] };
  return { snapshot, contents, conversion };
}
