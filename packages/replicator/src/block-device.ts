import type { StorError } from '@stor/protocol';
import type { SharedBytes } from '@stor/runtime';

/**
 * One request to a block device. The front-end owns and reuses the object: it must stay untouched
 * from the call until `done`, which is called exactly once, perhaps before the call returns.
 */
export interface BlockRequest {
  /** bytes from the start of the device */
  offset: number;
  /** bytes; any alignment */
  length: number;
  /** payload of a write, or target of a read; null otherwise */
  bytes: Uint8Array | null;
  /** where in `bytes` the payload or target begins */
  start: number;
  /**
   * true: `bytes` stays valid and unchanged until `done`. false: it is valid only during the call,
   * so a device that cannot finish at once copies it. Reads are always retained.
   */
  retained: boolean;
  /**
   * of a write: the memory that `bytes` is part of, for whoever needs the payload after `done`: he holds
   * it, and releases it once. Absent or null: he copies.
   */
  readonly memory?: SharedBytes | null;
  /**
   * Of a read that can take its data where they lie: called before `done`, in place of a copy to `bytes`.
   * They begin at `start` of the memory, which is the request's to release.
   */
  adopt?(memory: SharedBytes, start: number): void;
  /** the effect must be durable before `done` (NBD FUA) */
  fua: boolean;
  /** writeZeroes: keep the space allocated (NBD NO_HOLE) */
  noHole: boolean;
  done(error: StorError | null): void;
}

export interface Extent {
  offset: number;
  length: number;
  /** false: reads as zeros and takes no space */
  allocated: boolean;
}

/**
 * Everything between the NBD socket and the disk has this shape; QoS, encryption, metrics and fault
 * injection are wrappers of it, never flags in the engine (nbdkit's plug-ins and filters).
 * Requests are inside the device's size: the border checked that.
 */
export interface BlockDevice {
  readonly sizeBytes: number;
  /**
   * True: too much waits in it already. Whoever has requests under way here starts no more until one
   * of them is answered; others may. Absent: never.
   */
  readonly isFull?: boolean;
  /**
   * Reads at once if that is known not to block, and says whether it did. Never reports an error:
   * false means that `read` must be called.
   */
  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean;
  /**
   * How many bytes from `offset` on, up to `length`, are known at once to read as zeros and to take no
   * space; 0 for none. Without it nothing ever is.
   */
  holeBytes?(offset: number, length: number): number;
  read(request: BlockRequest): void;
  write(request: BlockRequest): void;
  writeZeroes(request: BlockRequest): void;
  trim(request: BlockRequest): void;
  flush(request: BlockRequest): void;
  /** Extents that cover [offset, offset+length) in order; at most `limit` of them, the first ones. */
  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void;
}
