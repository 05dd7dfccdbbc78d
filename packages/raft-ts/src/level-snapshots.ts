import { crc32 } from 'node:zlib';
import type { SaveBatch } from './core/storage.ts';
import type { ArrivingSnapshot, LogPosition, Snapshot, SnapshotPiece } from './core/types.ts';
import { invariant, RaftError } from './errors.ts';
import type { KeyValueLog, KeyValueOperation } from './key-value-log.ts';
import {
  decodePiece,
  encodeDraft,
  encodePiece,
  encodeSnapshot,
  keys,
  pieceKey,
} from './level-records.ts';

/** The pieces of one log snapshot, under a number that no other one has. */
export interface StoredContent extends LogPosition {
  generation: number;
  /** null while it is being made */
  totalBytes: number | null;
  /** where each piece begins */
  offsets: number[];
  bytes: number;
  /** CRC-32 of all of them */
  checksum: number;
}

/** What a store holds of log snapshots. */
export interface StoredContents {
  newest: StoredContent;
  arriving: StoredContent | null;
  nextGeneration: number;
  /** keys that nobody needs any more; they go with the next save */
  garbage: Uint8Array[];
}

/**
 * Log snapshots in a `KeyValueLog`. Each goes in piece by piece under a generation of its own, and counts
 * only when the record of the newest snapshot names that; so a crash at any point leaves the newest one,
 * and of the arriving one all that was answered.
 */
export class LevelSnapshots {
  readonly #db: KeyValueLog;
  #newest: StoredContent;
  #drafts: { made: StoredContent | null; arriving: StoredContent | null };
  /** older ones that are being read */
  #kept: StoredContent[] = [];
  #nextGeneration: number;
  #garbage: Uint8Array[];

  constructor(db: KeyValueLog, contents: StoredContents | null) {
    this.#db = db;
    this.#newest = contents?.newest ?? contentOf(0, { index: 0, term: 0 }, 0);
    this.#drafts = { made: null, arriving: contents?.arriving ?? null };
    this.#nextGeneration = contents?.nextGeneration ?? 1;
    this.#garbage = contents?.garbage ?? [];
  }

  /** Takes the pieces and the snapshot of a batch; returns what is to be written for them. */
  plan({ pieces = [], snapshot, keep = [] }: SaveBatch): KeyValueOperation[] {
    const operations = this.#garbage.map((key): KeyValueOperation => ({ type: 'del', key }));
    this.#garbage = [];
    for (const piece of pieces) this.#add(piece, operations);
    if (snapshot) this.#adopt(snapshot, keep, operations);
    return operations;
  }

  #add(piece: SnapshotPiece, operations: KeyValueOperation[]): void {
    const { source, index, term, totalBytes, offset, data, checksum } = piece;
    if (offset === 0) {
      this.#drop(this.#drafts[source], operations);
      const draft = contentOf(this.#nextGeneration++, { index, term }, totalBytes);
      this.#drafts[source] = draft;
      if (source === 'arriving') {
        operations.push({ type: 'put', key: keys.draft, value: encodeDraft(draft) });
      }
    }
    const draft = this.#drafts[source];
    const isNext = draft?.index === index && draft.term === term && draft.bytes === offset;
    invariant(isNext, 'a piece of a snapshot leaves a gap');
    invariant(crc32(data, draft.checksum) === checksum, 'a piece has a wrong checksum');
    if (data.length === 0) return;
    const key = pieceKey(draft.generation, offset);
    operations.push({ type: 'put', key, value: encodePiece(key, data, draft.checksum) });
    draft.offsets.push(offset);
    draft.bytes += data.length;
    draft.checksum = checksum;
  }

  #adopt(snapshot: Snapshot, keep: readonly LogPosition[], operations: KeyValueOperation[]): void {
    const { made, arriving } = this.#drafts;
    let adopted = [made, arriving].find((each) => each && isWhole(each, snapshot)) ?? null;
    invariant(adopted !== null || snapshot.sizeBytes === 0, 'the snapshot is not whole');
    adopted ??= contentOf(this.#nextGeneration++, snapshot, 0);
    const value = encodeSnapshot(snapshot, adopted.generation);
    operations.push({ type: 'put', key: keys.snapshot, value });
    // what is not newer than it will never be needed
    for (const source of ['made', 'arriving'] as const) {
      const draft = this.#drafts[source];
      if (!draft || draft.index > snapshot.index) continue;
      if (draft !== adopted) this.#drop(draft, operations);
      this.#drafts[source] = null;
      if (source === 'arriving') operations.push({ type: 'del', key: keys.draft });
    }
    const older = [...this.#kept, this.#newest];
    const isKept = (each: StoredContent): boolean =>
      keep.some((position) => isSame(each, position));
    for (const each of older) if (!isKept(each)) this.#drop(each, operations);
    this.#kept = older.filter(isKept);
    this.#newest = adopted;
  }

  #drop(content: StoredContent | null, operations: KeyValueOperation[]): void {
    for (const offset of content?.offsets ?? []) {
      operations.push({ type: 'del', key: pieceKey(content?.generation ?? 0, offset) });
    }
  }

  /** As `RaftStorage.readSnapshot`. */
  async read(
    position: LogPosition,
    offset: number,
    length: number,
  ): Promise<{ data: Uint8Array; checksum: number } | null> {
    const content = [this.#newest, ...this.#kept].find((each) => isSame(each, position));
    if (!content) return null;
    const end = offset + length;
    invariant(end <= content.bytes, 'the snapshot has no such bytes');
    const { generation, offsets } = content;
    // from the last piece that does not begin behind the offset
    const first = Math.max(0, firstAbove(offsets, offset) - 1);
    const wanted = offsets.slice(first, firstAbove(offsets, Math.max(offset, end - 1)));
    if (wanted.length === 0) return { data: new Uint8Array(), checksum: 0 };
    const pieceKeys = wanted.map((each) => pieceKey(generation, each));
    const values = await this.#db.getMany(pieceKeys);
    const data = new Uint8Array(length);
    let checksum = 0;
    for (const [i, at] of wanted.entries()) {
      const [key, value] = [pieceKeys[i], values[i]];
      // a save has replaced it meanwhile
      if (!key || !value) {
        if (!this.#isThere(content)) return null;
        throw new RaftError('CORRUPT', 'a piece of the stored snapshot is missing');
      }
      const { data: bytes, checksumBefore } = decodePiece(key, value);
      const upTo = Math.min(bytes.length, end - at);
      checksum = crc32(bytes.subarray(0, upTo), checksumBefore);
      data.set(bytes.subarray(Math.max(0, offset - at), upTo), Math.max(0, at - offset));
    }
    return { data, checksum };
  }

  #isThere(content: StoredContent): boolean {
    return content === this.#newest || this.#kept.includes(content);
  }
}

/** How many of the ascending numbers are not above `limit`. */
function firstAbove(ascending: readonly number[], limit: number): number {
  let [low, high] = [0, ascending.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ascending[middle] ?? 0) <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function contentOf(
  generation: number,
  { index, term }: LogPosition,
  totalBytes: number | null,
): StoredContent {
  return { generation, index, term, totalBytes, offsets: [], bytes: 0, checksum: 0 };
}

export function arrivingOf(content: StoredContent | null): ArrivingSnapshot | null {
  if (!content) return null;
  const { index, term, totalBytes, bytes, checksum } = content;
  return { index, term, totalBytes: totalBytes ?? 0, bytes, checksum };
}

function isWhole(content: StoredContent, snapshot: Snapshot): boolean {
  const { bytes, checksum } = content;
  return (
    isSame(content, snapshot) && bytes === snapshot.sizeBytes && checksum === snapshot.checksum
  );
}

function isSame(a: LogPosition, b: LogPosition): boolean {
  return a.index === b.index && a.term === b.term;
}
