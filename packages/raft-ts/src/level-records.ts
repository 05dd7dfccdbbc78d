import { crc32 } from 'node:zlib';
import { BytesReader, BytesWriter } from './core/bytes.ts';
import {
  readEntryContent,
  readSnapshot,
  readSnapshotMembers,
  writeEntryContent,
  writeSnapshotMembers,
} from './core/codec.ts';
import type {
  Entry,
  HardState,
  LogPosition,
  PeerId,
  Snapshot,
  WholeSnapshot,
} from './core/types.ts';

/**
 * The records of `LevelRaftStorage` as bytes. Each value begins with a CRC-32 over its key and the
 * rest, as LevelDB checks its own blocks only when asked and knows nothing of a value under the
 * wrong key. Readers throw CORRUPT.
 */
const text = new TextEncoder();
export const keys = {
  format: text.encode('f'),
  hardState: text.encode('h'),
  snapshot: text.encode('s'),
  start: text.encode('b'),
  sequence: text.encode('q'),
  draft: text.encode('d'),
  mark: text.encode('mark'),
};
export const entryPrefix = 'e'.charCodeAt(0);
export const piecePrefix = 'c'.charCodeAt(0);

/** What was acknowledged last; kept apart from the log. */
export interface Mark {
  /** number of the save */
  sequence: number;
  term: number;
  vote: PeerId | null;
  /** the end of the log */
  last: LogPosition;
  /** see StoredState */
  recoverTo: LogPosition | null;
}

export function entryKey(index: number): Uint8Array {
  const writer = new BytesWriter(9);
  writer.u8(entryPrefix);
  writer.u53(index);
  return writer.finish();
}

/** The value with the checksum of key and value before it. */
function seal(key: Uint8Array, write: (writer: BytesWriter) => void, sizeHint = 64): Uint8Array {
  const writer = new BytesWriter(sizeHint + 4);
  writer.u32(0);
  write(writer);
  const value = writer.finish();
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  view.setUint32(0, crc32(value.subarray(4), crc32(key)));
  return value;
}

function unseal(key: Uint8Array, value: Uint8Array, what: string): BytesReader {
  const reader = new BytesReader(value, what);
  const expected = reader.u32();
  const actual = crc32(value.subarray(4), crc32(key));
  if (actual !== expected) {
    reader.fail(`checksum ${hex(actual)} instead of ${hex(expected)}`);
  }
  return reader;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}

export function encodeHardState(hardState: HardState): Uint8Array {
  return seal(keys.hardState, (writer) => {
    writer.u53(hardState.term);
    writer.u53(hardState.commit);
    writer.text(hardState.vote ?? '');
  });
}

export function decodeHardState(value: Uint8Array): HardState {
  const reader = unseal(keys.hardState, value, 'the stored hard state');
  const term = reader.u53();
  const commit = reader.u53();
  const vote = reader.text();
  reader.expectEnd();
  return { term, commit, vote: vote === '' ? null : vote };
}

/** Of the newest snapshot; its content is in the pieces of that generation. */
export function encodeSnapshot(snapshot: Snapshot, generation: number): Uint8Array {
  return seal(keys.snapshot, (writer) => {
    writer.u53(generation);
    writer.u53(snapshot.index);
    writer.u53(snapshot.term);
    writeSnapshotMembers(writer, snapshot.membership);
    writer.u53(snapshot.sizeBytes);
    writer.u32(snapshot.checksum);
  });
}

export function decodeSnapshot(value: Uint8Array): { snapshot: Snapshot; generation: number } {
  const reader = unseal(keys.snapshot, value, 'the stored snapshot');
  const generation = reader.u53();
  const snapshot = {
    index: reader.u53(),
    term: reader.u53(),
    membership: readSnapshotMembers(reader),
    sizeBytes: reader.u53(),
    checksum: reader.u32(),
  };
  reader.expectEnd();
  return { snapshot, generation };
}

/** Of formats 1 and 2: with its content. */
export function decodeWholeSnapshot(value: Uint8Array): WholeSnapshot {
  const reader = unseal(keys.snapshot, value, 'the stored snapshot');
  const snapshot = readSnapshot(reader);
  reader.expectEnd();
  return snapshot;
}

/** What is arriving; how much of it is there, its pieces tell. */
export function encodeDraft(draft: {
  generation: number;
  index: number;
  term: number;
  totalBytes: number | null;
}): Uint8Array {
  return seal(keys.draft, (writer) => {
    const { generation, index, term, totalBytes } = draft;
    for (const each of [generation, index, term, totalBytes ?? 0]) writer.u53(each);
  });
}

export function decodeDraft(
  value: Uint8Array,
): { generation: number; totalBytes: number } & LogPosition {
  const reader = unseal(keys.draft, value, 'the record of a snapshot that is arriving');
  const generation = reader.u53();
  const draft = { generation, index: reader.u53(), term: reader.u53(), totalBytes: reader.u53() };
  reader.expectEnd();
  return draft;
}

export function pieceKey(generation: number, offset: number): Uint8Array {
  const writer = new BytesWriter(17);
  writer.u8(piecePrefix);
  writer.u53(generation);
  writer.u53(offset);
  return writer.finish();
}

export function decodePieceKey(key: Uint8Array): { generation: number; offset: number } {
  const reader = new BytesReader(key, 'the key of a piece of a snapshot');
  reader.u8();
  const at = { generation: reader.u53(), offset: reader.u53() };
  reader.expectEnd();
  return at;
}

/** `checksumBefore` is that of all pieces before it. */
export function encodePiece(key: Uint8Array, data: Uint8Array, checksumBefore: number): Uint8Array {
  const write = (writer: BytesWriter) => {
    writer.u32(checksumBefore);
    writer.bytes(data);
  };
  return seal(key, write, data.length + 8);
}

export function decodePiece(
  key: Uint8Array,
  value: Uint8Array,
): { data: Uint8Array; checksumBefore: number } {
  const reader = unseal(key, value, 'a piece of the stored snapshot');
  const checksumBefore = reader.u32();
  const data = reader.bytes();
  reader.expectEnd();
  return { data, checksumBefore };
}

export function encodeStart(start: LogPosition): Uint8Array {
  return seal(keys.start, (writer) => {
    writer.u53(start.index);
    writer.u53(start.term);
  });
}

export function decodeStart(value: Uint8Array): LogPosition {
  const reader = unseal(keys.start, value, 'the stored beginning of the log');
  const start = { index: reader.u53(), term: reader.u53() };
  reader.expectEnd();
  return start;
}

export function encodeEntry(entry: Entry, previousTerm: number): Uint8Array {
  const write = (writer: BytesWriter) => {
    writer.u53(entry.term);
    writer.u53(previousTerm);
    writeEntryContent(writer, entry);
  };
  return seal(entryKey(entry.index), write, entry.data.length + 32);
}

/** `previousTerm` is that of the entry before it, as it was when this one was written. */
export function decodeEntry(
  key: Uint8Array,
  value: Uint8Array,
): { entry: Entry; previousTerm: number } {
  const index = entryIndex(key);
  const reader = unseal(key, value, `stored entry ${index}`);
  const term = reader.u53();
  const previousTerm = reader.u53();
  const content = readEntryContent(reader);
  reader.expectEnd();
  return { entry: { index, term, ...content }, previousTerm };
}

/** The index in the key of an entry. */
export function entryIndex(key: Uint8Array): number {
  const reader = new BytesReader(key, 'the key of a stored entry');
  reader.u8();
  const index = reader.u53();
  reader.expectEnd();
  return index;
}

export function encodeSequence(sequence: number): Uint8Array {
  return seal(keys.sequence, (writer) => {
    writer.u53(sequence);
  });
}

export function decodeSequence(value: Uint8Array): number {
  const reader = unseal(keys.sequence, value, 'the stored number of the last save');
  const sequence = reader.u53();
  reader.expectEnd();
  return sequence;
}

export function encodeMark({ sequence, term, vote, last, recoverTo }: Mark): Uint8Array {
  return seal(keys.mark, (writer) => {
    writer.u53(sequence);
    writer.u53(term);
    writer.text(vote ?? '');
    for (const each of [last.index, last.term]) writer.u53(each);
    writer.u8(recoverTo ? 1 : 0);
    for (const each of [recoverTo?.index ?? 0, recoverTo?.term ?? 0]) writer.u53(each);
  });
}

export function decodeMark(value: Uint8Array): Mark {
  const reader = unseal(keys.mark, value, 'the mark of what was acknowledged');
  const sequence = reader.u53();
  const term = reader.u53();
  const vote = reader.text();
  const last = { index: reader.u53(), term: reader.u53() };
  const recovers = reader.flag();
  const recoverTo = { index: reader.u53(), term: reader.u53() };
  reader.expectEnd();
  return {
    sequence,
    term,
    vote: vote === '' ? null : vote,
    last,
    recoverTo: recovers ? recoverTo : null,
  };
}
