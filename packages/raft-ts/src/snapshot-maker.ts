import { crc32 } from './core/crc32.ts';
import type { Snapshot, SnapshotPiece } from './core/types.ts';

/** What a log snapshot is of, before its content is known. */
export type SnapshotHead = Pick<Snapshot, 'index' | 'term' | 'membership'>;

/**
 * A log snapshot that the state machine is giving, gathered into pieces for the store. One piece waits at
 * a time, and nothing more is asked for until it was taken: so it is never in memory as a whole.
 */
export class SnapshotMaker {
  readonly #chunkBytes: number;
  #head: SnapshotHead | null = null;
  #source: Iterator<Uint8Array> | null = null;
  #gathered: Uint8Array[] = [];
  #gatheredBytes = 0;
  #offset = 0;
  #checksum = 0;

  constructor(chunkBytes: number) {
    this.#chunkBytes = chunkBytes;
  }

  /** It has begun, and its end is not taken. */
  get isActive(): boolean {
    return this.#head !== null;
  }

  /** `take` has something to give. */
  get isReady(): boolean {
    if (!this.#head) return false;
    return this.#gatheredBytes >= this.#chunkBytes || this.#source === null;
  }

  begin(head: SnapshotHead, content: Iterable<Uint8Array>): void {
    this.abandon();
    this.#head = head;
    this.#source = content[Symbol.iterator]();
  }

  /** Asks the state machine for one more of its pieces. */
  work(): void {
    if (!this.#source || this.isReady) return;
    const next = this.#source.next();
    if (next.done === true) {
      this.#source = null;
    } else if (next.value.length > 0) {
      this.#gathered.push(next.value);
      this.#gatheredBytes += next.value.length;
    }
  }

  /** The next pieces; with the last of them the snapshot. Null while there is nothing to write. */
  take(): { pieces: SnapshotPiece[]; snapshot: Snapshot | null } | null {
    const head = this.#head;
    if (!head || !this.isReady) return null;
    const isFirst = this.#offset === 0;
    const pieces = this.#cut(head);
    if (this.#source) return { pieces, snapshot: null };
    // what there was of an earlier one, which never became whole, goes with the first piece
    if (isFirst && pieces.length === 0) pieces.push(this.#piece(head, new Uint8Array()));
    const snapshot = { ...head, sizeBytes: this.#offset, checksum: this.#checksum };
    this.abandon();
    return { pieces, snapshot };
  }

  /** Whole chunks, and at the end the rest. */
  #cut(head: SnapshotHead): SnapshotPiece[] {
    const bytes = joined(this.#gathered, this.#gatheredBytes);
    const end = this.#source ? bytes.length - (bytes.length % this.#chunkBytes) : bytes.length;
    const pieces: SnapshotPiece[] = [];
    for (let at = 0; at < end; at += this.#chunkBytes) {
      pieces.push(this.#piece(head, bytes.subarray(at, Math.min(at + this.#chunkBytes, end))));
    }
    const rest = bytes.subarray(end);
    this.#gathered = rest.length > 0 ? [rest] : [];
    this.#gatheredBytes = rest.length;
    return pieces;
  }

  #piece({ index, term }: SnapshotHead, data: Uint8Array): SnapshotPiece {
    const offset = this.#offset;
    this.#checksum = crc32(data, this.#checksum);
    this.#offset += data.length;
    return {
      source: 'made',
      index,
      term,
      totalBytes: null,
      offset,
      data,
      checksum: this.#checksum,
    };
  }

  /** Gives up what was begun; works when there is nothing. */
  abandon(): void {
    this.#source?.return?.();
    this.#head = null;
    this.#source = null;
    this.#gathered = [];
    this.#gatheredBytes = 0;
    this.#offset = 0;
    this.#checksum = 0;
  }
}

function joined(parts: Uint8Array[], length: number): Uint8Array {
  const [only] = parts;
  if (only && parts.length === 1) return only;
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
