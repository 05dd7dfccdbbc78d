import { StorError, blockBytes, hasCode } from '@stor/protocol';
import type { BlockDevice, BlockRequest, Extent, SnapshotReader } from '@stor/replicator';
import { KnownChunks, windowBytes } from '../core/nbd/known-chunks.ts';

/** Extents of one answer: as many as a window has chunks. */
const maxLearned = 1_024;

/**
 * A snapshot as the NBD server wants it: reads of any alignment, and nothing that would change it.
 * Once it was deleted, every request is told so: nothing else may ever be read in its place.
 */
export class SnapshotDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly #name: string;
  readonly #reader: SnapshotReader;
  readonly #onGone: (reason: StorError) => void;
  readonly #known: KnownChunks;
  /** a question about holes is under way: one at a time */
  #isLearning = false;
  #lookedFrom = 0;
  #lookedTo = 0;
  #gone: StorError | null = null;

  /** `onGone` is called once, when a request finds that the snapshot does not exist any more. */
  constructor(name: string, reader: SnapshotReader, onGone: (reason: StorError) => void) {
    this.#name = name;
    this.sizeBytes = reader.sizeBytes;
    this.#reader = reader;
    this.#onGone = onGone;
    this.#known = new KnownChunks(reader.sizeBytes);
  }

  readInline(): boolean {
    return false;
  }

  read(request: BlockRequest): void {
    const { offset, length, bytes, start } = request;
    if (this.#gone || !bytes) {
      request.done(this.#gone ?? new StorError('INVALID_ARGUMENT', 'a read without a target'));
      return;
    }
    const first = Math.floor(offset / blockBytes) * blockBytes;
    const end = Math.ceil((offset + length) / blockBytes) * blockBytes;
    if (first === offset && end === offset + length) {
      this.#reader.read(offset, length, bytes, start, (error) => {
        request.done(this.#judge(error));
      });
      return;
    }
    const whole = Buffer.allocUnsafe(end - first);
    this.#reader.read(first, whole.length, whole, 0, (error) => {
      if (!error) bytes.set(whole.subarray(offset - first, offset - first + length), start);
      request.done(this.#judge(error));
    });
  }

  write(request: BlockRequest): void {
    request.done(this.#readOnly());
  }
  writeZeroes(request: BlockRequest): void {
    request.done(this.#readOnly());
  }
  trim(request: BlockRequest): void {
    request.done(this.#readOnly());
  }
  /** Nothing was written, and what there is was durable before it became a snapshot. */
  flush(request: BlockRequest): void {
    request.done(null);
  }

  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    if (this.#gone) done(this.#gone, []);
    else {
      this.#reader.extents(offset, length, limit, (error, extents) => {
        if (!error) this.#known.learn(extents);
        done(this.#judge(error), extents);
      });
    }
  }

  /**
   * Of what has been asked for before, by a client or here: a snapshot does not change. What is not known
   * is asked for, with what lies behind it, and told from the next read on.
   */
  holeBytes(offset: number, length: number): number {
    if (this.#gone) return 0;
    this.#learnAt(offset);
    return this.#known.holeBytes(offset, length);
  }

  #learnAt(offset: number): void {
    if (this.#isLearning) return;
    // looked at already; what was forgotten since is no hole, which is not wrong
    if (offset >= this.#lookedFrom && offset + windowBytes / 2 < this.#lookedTo) return;
    const end = Math.min(offset + windowBytes, this.sizeBytes);
    const ask = this.#known.unknownIn(offset, end);
    if (!ask) {
      this.#lookedFrom = offset;
      this.#lookedTo = end === this.sizeBytes ? Infinity : end;
      return;
    }
    this.#isLearning = true;
    this.#reader.extents(ask.offset, ask.length, maxLearned, (error, extents) => {
      this.#isLearning = false;
      // without an answer it is read, which says what is the matter
      if (error) return;
      this.#known.learn(extents);
      // an answer may end early, at the end of a segment
      const next = this.#known.unknownIn(offset, end);
      if (next && next.offset > ask.offset) this.#learnAt(offset);
    });
  }

  /** A client that connects again is told at the handshake that there is no such snapshot. */
  #judge(error: StorError | null): StorError | null {
    if (!hasCode(error, 'NOT_FOUND')) return error;
    if (!this.#gone) {
      this.#gone = new StorError('UNAVAILABLE', `snapshot ${this.#name} was deleted`);
      this.#onGone(this.#gone);
    }
    return this.#gone;
  }

  #readOnly(): StorError {
    return new StorError('PERMISSION_DENIED', `snapshot ${this.#name} cannot be written`);
  }
}
