import { chunkBytes } from '@stor/protocol';

import { Bitmap } from './bitmap.ts';

/** What of a request matters for space. */
export interface SpaceOp {
  kind: string;
  offset: number;
  length: number;
  keepAllocated: boolean;
}

/**
 * Which chunks of a member's live image read as data, and which of them are its own: a write to any
 * other one takes new room, because the chunk is new or a snapshot holds it too. Kept in step with what
 * the member is sent. Where it errs it believes in too few own chunks: then a write is refused that
 * had room, and never one sent that has none.
 */
export class MemberSpace {
  #allocated: Bitmap;
  #owned: Bitmap;
  /** changes with whatever may take an own chunk away */
  #version = 0;

  constructor(allocated: Bitmap, owned: Bitmap) {
    this.#allocated = allocated;
    this.#owned = owned;
  }

  get allocated(): Bitmap {
    return this.#allocated;
  }
  get owned(): Bitmap {
    return this.#owned;
  }
  /** Every chunk that reads as data is its own: no write to one takes new room. */
  get allOwned(): boolean {
    return this.#owned.includesAll(this.#allocated);
  }
  get version(): number {
    return this.#version;
  }

  /** Chunks of new room that the request may take. */
  needs(op: SpaceOp): number {
    const first = Math.floor(op.offset / chunkBytes);
    const last = Math.floor((op.offset + op.length - 1) / chunkBytes);
    let count = 0;
    for (let chunk = first; chunk <= last; chunk++) {
      if (!this.#owned.has(chunk) && this.#keepsData(op, chunk)) count += 1;
    }
    return count;
  }

  /** The request was given to the member. */
  note(op: SpaceOp): void {
    const first = Math.floor(op.offset / chunkBytes);
    const last = Math.floor((op.offset + op.length - 1) / chunkBytes);
    for (let chunk = first; chunk <= last; chunk++) {
      if (this.#keepsData(op, chunk)) {
        this.#allocated.add(chunk);
        // zeros up to the end of the replica may free its last chunk, though that is not whole
        if (op.kind === 'write' || op.keepAllocated || !this.#isLast(chunk)) this.#owned.add(chunk);
        else this.#disown(chunk);
      } else if (isWhole(op, chunk)) {
        this.#allocated.delete(chunk);
        this.#owned.delete(chunk);
        this.#version += 1;
      }
    }
  }

  #isLast(chunk: number): boolean {
    return chunk === this.#allocated.size - 1;
  }

  #disown(chunk: number): void {
    this.#owned.delete(chunk);
    this.#version += 1;
  }

  /** A snapshot got the chunk: the live image has it too, where it grew from there. */
  mayInherit(chunk: number): void {
    this.#allocated.add(chunk);
  }

  /** The live image was frozen: from now on a snapshot holds every chunk. */
  frozen(): void {
    this.#owned = new Bitmap(this.#owned.size);
    this.#version += 1;
  }

  /** The live image is another one now. */
  replaced(allocated: Bitmap, owned: Bitmap): void {
    this.#allocated = allocated;
    this.#owned = owned;
    this.#version += 1;
  }

  /** The member said, when it was asked at `version`, which chunks are its own. */
  learned(version: number, owned: Bitmap): void {
    if (version !== this.#version) return;
    this.#owned.addAll(owned);
  }

  grown(sizeBytes: number): void {
    const chunks = Math.ceil(sizeBytes / chunkBytes);
    if (chunks <= this.#allocated.size) return;
    this.replaced(this.#allocated.resized(chunks), this.#owned.resized(chunks));
  }

  /** The chunk holds data afterwards, in room of its own. */
  #keepsData(op: SpaceOp, chunk: number): boolean {
    if (op.kind === 'write' || op.keepAllocated) return true;
    // zeros in a part of a chunk that is shared: the rest is copied
    return !isWhole(op, chunk) && this.#allocated.has(chunk);
  }
}

function isWhole({ offset, length }: SpaceOp, chunk: number): boolean {
  return chunk * chunkBytes >= offset && (chunk + 1) * chunkBytes <= offset + length;
}
