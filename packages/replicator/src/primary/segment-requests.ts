import type { StorError } from '@stor/protocol';
import type { SharedBytes } from '@stor/runtime';

import type { BlockRequest } from '../block-device.ts';

export type PartKind = 'read' | 'write' | 'writeZeroes' | 'trim';

/**
 * Whether a segment has anything that a FLUSH of the volume must still make durable. A segment
 * that has not changed since its last flush is left alone: a volume may have hundreds.
 */
export class FlushNeed {
  /** what earlier epochs acknowledged may not be durable */
  #dirty = true;
  #running = 0;
  /**
   * A change was answered with an error: it may still come to be, later, without anybody saying so.
   */
  #isUncertain = false;

  /** A change was answered: from now on it counts as acknowledged. */
  changed(error: StorError | null): void {
    this.#dirty = true;
    if (error) this.#isUncertain = true;
  }

  /** Changes are under way of whose end nobody will hear here. */
  unseen(): void {
    this.#isUncertain = true;
  }

  isNeeded(isSettling: boolean): boolean {
    // one that runs may have begun before what the caller relies on was clean
    return this.#dirty || this.#isUncertain || isSettling || this.#running > 0;
  }

  /** A flush begins: it covers all that was answered before. */
  begins(isSettling: boolean): void {
    this.#dirty = isSettling;
    this.#running += 1;
  }

  ended(error: StorError | null): void {
    this.#running -= 1;
    if (error) this.#dirty = true;
  }
}

/** A client's request that is done when all its parts are; the first error is its answer. */
export class Joint {
  /** parts that are not done, and one for the beginning */
  open = 1;
  readonly #request: BlockRequest;
  #error: StorError | null = null;

  constructor(request: BlockRequest) {
    this.#request = request;
  }

  /** All parts are on their way. */
  begun(): void {
    this.done(null);
  }

  done(error: StorError | null): void {
    this.#error ??= error;
    this.open -= 1;
    if (this.open === 0) this.#request.done(this.#error);
  }
}

/** What one segment gets of a request, at the segment's own offset. Reused. */
export class PartRequest implements BlockRequest {
  offset = 0;
  length = 0;
  bytes: Uint8Array | null = null;
  start = 0;
  retained = false;
  memory: SharedBytes | null = null;
  fua = false;
  noHole = false;
  parent: { done(error: StorError | null): void } | null = null;
  /** of the segment that this may change; null: a read */
  need: FlushNeed | null = null;
  readonly #recycle: (part: PartRequest) => void;

  constructor(recycle: (part: PartRequest) => void) {
    this.#recycle = recycle;
  }

  set(whole: BlockRequest, offset: number, length: number, start: number): void {
    this.offset = offset;
    this.length = length;
    this.bytes = whole.bytes;
    this.start = start;
    this.retained = whole.retained;
    this.memory = whole.memory ?? null;
    this.fua = whole.fua;
    this.noHole = whole.noHole;
  }

  done(error: StorError | null): void {
    const { parent, need } = this;
    need?.changed(error);
    this.parent = null;
    this.need = null;
    this.bytes = null;
    this.memory = null;
    // before the client hears of it: it may send its next request at once
    this.#recycle(this);
    parent?.done(error);
  }
}
