import { StorError } from '@stor/protocol';
import type { BlockDevice, BlockRequest } from '@stor/replicator';
import { commandFlag, type RequestFields } from 'nbd-client-js';
import { isFastZero } from '../core/nbd/fast-zero.ts';

/**
 * A TRIM or WRITE_ZEROES of any length, given to the device in parts, one after the other: other
 * requests get their turn between them, and one that nobody waits for any more ends early.
 */
export class LongEffect implements BlockRequest {
  offset: number;
  length = 0;
  readonly bytes = null;
  readonly start = 0;
  readonly retained = true;
  readonly fua: boolean;
  readonly noHole: boolean;
  readonly #of: BlockRequest;
  readonly #end: number;
  readonly #begin: (part: BlockRequest) => void;
  readonly #partBytes: number;
  readonly #isOver: () => boolean;
  #running = false;
  #answered = false;

  /** `isOver`: the connection ends, so nothing more is begun; the request gets ABORTED then. */
  constructor(
    of: BlockRequest,
    device: BlockDevice,
    options: { kind: 'trim' | 'writeZeroes'; partBytes: number; isOver: () => boolean },
  ) {
    this.#of = of;
    this.offset = of.offset;
    this.#end = of.offset + of.length;
    this.fua = of.fua;
    this.noHole = of.noHole;
    this.#partBytes = options.partBytes;
    this.#isOver = options.isOver;
    this.#begin = (part) => {
      device[options.kind](part);
    };
  }

  /** Call it once. */
  run(): void {
    this.length = this.#partLength();
    this.#loop();
  }

  /** A part is done, perhaps during the call that began it. */
  done(error: StorError | null): void {
    this.#answered = true;
    const next = this.offset + this.length;
    if (error || next === this.#end) {
      this.#running = false;
      this.#of.done(error);
    } else if (this.#isOver()) {
      this.#running = false;
      this.#of.done(new StorError('ABORTED', `the connection ends; done up to ${next}`));
    } else {
      this.offset = next;
      this.length = this.#partLength();
      if (!this.#running) this.#loop();
    }
  }

  /** Up to the next multiple, so that no chunk is done in two halves. */
  #partLength(): number {
    const next = (Math.floor(this.offset / this.#partBytes) + 1) * this.#partBytes;
    return Math.min(next, this.#end) - this.offset;
  }

  /** A loop, for a device that answers at once would else fill the stack. */
  #loop(): void {
    this.#running = true;
    do {
      this.#answered = false;
      this.#begin(this);
    } while (this.#answered && this.#running);
    this.#running = false;
  }
}

/** Whether a WRITE_ZEROES with FAST_ZERO may be done: with what the device knows at once. */
export function zeroesFast(
  device: BlockDevice,
  { flags, offset, length }: Pick<RequestFields, 'flags' | 'offset' | 'length'>,
): boolean {
  const noHole = (flags & commandFlag.noHole) !== 0;
  const { sizeBytes } = device;
  return isFastZero({ offset, length, noHole, sizeBytes }, (from, bytes) => {
    return device.holeBytes?.(from, bytes) === bytes;
  });
}
