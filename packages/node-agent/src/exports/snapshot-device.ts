import { StorError, blockBytes, hasCode } from '@stor/protocol';
import type { BlockDevice, BlockRequest, Extent, SnapshotReader } from '@stor/replicator';

/**
 * A snapshot as the NBD server wants it: reads of any alignment, and nothing that would change it.
 * Once it was deleted, every request is told so: nothing else may ever be read in its place.
 */
export class SnapshotDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly #name: string;
  readonly #reader: SnapshotReader;
  readonly #onGone: (reason: StorError) => void;
  #gone: StorError | null = null;

  /** `onGone` is called once, when a request finds that the snapshot does not exist any more. */
  constructor(name: string, reader: SnapshotReader, onGone: (reason: StorError) => void) {
    this.#name = name;
    this.sizeBytes = reader.sizeBytes;
    this.#reader = reader;
    this.#onGone = onGone;
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
        done(this.#judge(error), extents);
      });
    }
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
