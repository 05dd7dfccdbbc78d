import type { StorError } from '@stor/protocol';
import type { BlockRequest } from '@stor/replicator';
import type { SharedBytes } from '@stor/runtime';
import type { ReplyTarget, RequestHeader } from 'nbd-client-js';
import type { ReadPiece } from './split-read.ts';

/** Who is told that a request is finished. */
export interface RequestOwner {
  completed(request: NbdRequest, error: StorError | null): void;
}

/**
 * A request in the device. The objects are kept and used again by their connection, so that a 4 KiB
 * request allocates nothing; `active` catches a device that answers twice, which would otherwise
 * answer a later request of another owner with success.
 */
export class NbdRequest implements BlockRequest, ReplyTarget {
  offset = 0;
  length = 0;
  bytes: Uint8Array | null = null;
  start = 0;
  retained = false;
  /** of a large write: what its payload arrived in; released when the device is done */
  memory: SharedBytes | null = null;
  fua = false;
  noHole = false;

  /** `command` of the protocol */
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offsetHigh = 0;
  offsetLow = 0;
  arrivedMs = 0;
  /** payload that counts as in flight (bytes) */
  heldBytes = 0;
  /** of a read, from the pool */
  buffer: Buffer | null = null;
  /** of a read that is answered in parts */
  pieces: ReadPiece[] | null = null;
  /** of a read whose data the device gave where they lie, in place of `buffer` */
  adopted: SharedBytes | null = null;
  adoptedStart = 0;
  active = false;
  readonly #owner: RequestOwner;

  constructor(owner: RequestOwner) {
    this.#owner = owner;
  }

  adopt(memory: SharedBytes, start: number): void {
    this.adopted = memory;
    this.adoptedStart = start;
  }

  /** Nothing of what it was before is left. */
  begin(header: RequestHeader, arrivedMs: number): void {
    this.type = header.type;
    this.offset = header.offset;
    this.length = header.length;
    this.cookieHigh = header.cookieHigh;
    this.cookieLow = header.cookieLow;
    this.offsetHigh = header.offsetHigh;
    this.offsetLow = header.offsetLow;
    this.arrivedMs = arrivedMs;
    this.bytes = null;
    this.start = 0;
    this.retained = false;
    this.fua = false;
    this.noHole = false;
    this.heldBytes = 0;
    this.active = true;
  }

  /** Of a read: a buffer of the pool. */
  readInto(buffer: Buffer): void {
    this.buffer = buffer;
    this.bytes = buffer;
    this.start = 0;
    this.retained = true;
  }

  /** It is answered: the memory is somebody else's now. */
  clear(): void {
    this.bytes = null;
    this.buffer = null;
    this.pieces = null;
    this.adopted = null;
  }

  done(error: StorError | null): void {
    if (!this.active) throw new Error('a block device finished a request twice');
    this.active = false;
    this.memory?.release();
    this.memory = null;
    this.#owner.completed(this, error);
  }
}
