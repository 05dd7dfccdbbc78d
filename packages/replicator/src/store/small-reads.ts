import { blockBytes, blocksPerChunk, chunkBytes, type StorError } from '@stor/protocol';
import type { OrderedCall } from '../core/store/call-order.ts';
import type { StoreDone } from '../replica-store.ts';
import type { HotBlocks } from '../core/store/block-cache.ts';
import type { LayerImage } from '../core/store/layer-image.ts';
import type { Lineage } from './lineage.ts';
import type { ReplicaCalls } from './replica-calls.ts';
import { answerLater } from './replica-calls.ts';
import type { ReplicaFailure } from './replica-failure.ts';

/** Calls that are kept for use again; more than clients have under way. */
const maxIdle = 256;

export interface SmallReadParts {
  lineage: Lineage;
  image: LayerImage;
  hot: HotBlocks;
  calls: ReplicaCalls;
  failure: ReplicaFailure;
  /** the way of all reads, for what turns out not to be simple: bad blocks, holes, errors of the disk */
  readAll: (offset: number, length: number, target: Uint8Array, start: number) => Promise<void>;
}

/**
 * Reads within one chunk that have to wait for the disk: one call in the pool, and no promise, because
 * what a lane spends on them it does not have for others. In the order of all calls of the replica.
 */
export class SmallReads {
  readonly #parts: SmallReadParts;
  readonly #idle: SmallRead[] = [];

  constructor(parts: SmallReadParts) {
    this.#parts = parts;
  }

  /** For a range within one chunk. */
  submit(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    const { calls } = this.#parts;
    if (calls.refused(done)) return;
    const read = this.#idle.pop() ?? new SmallRead(this.#parts, this.#recycle);
    read.begin(offset, length, target, start, done);
    calls.add(read);
  }

  readonly #recycle = (read: SmallRead): void => {
    if (this.#idle.length < maxIdle) this.#idle.push(read);
  };
}

const noBytes = new Uint8Array(0);

/** One of them; used again and again. */
class SmallRead implements OrderedCall {
  from = 0;
  to = 0;
  readonly writes = false;
  id = 0;
  blockers = 0;
  #target: Uint8Array = noBytes;
  #start = 0;
  #linear = 0;
  #begun = 0;
  #done: StoreDone | null = null;
  readonly #parts: SmallReadParts;
  readonly #recycle: (read: SmallRead) => void;

  constructor(parts: SmallReadParts, recycle: (read: SmallRead) => void) {
    this.#parts = parts;
    this.#recycle = recycle;
  }

  begin(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    this.from = offset;
    this.to = offset + length;
    this.#target = target;
    this.#start = start;
    this.#done = done;
  }

  get #count(): number {
    return (this.to - this.from) / blockBytes;
  }

  start(): void {
    const { failure, image, lineage } = this.#parts;
    if (failure.error) {
      answerLater((error) => {
        this.#end(error);
      }, failure.error);
      return;
    }
    const chunk = Math.floor(this.from / chunkBytes);
    this.#begun = lineage.inFlight.begin();
    const slotPlusOne = image.slotOf.get(chunk);
    if (slotPlusOne > 0) {
      const within = (this.from - chunk * chunkBytes) / blockBytes;
      this.#linear = (slotPlusOne - 1) * blocksPerChunk + within;
      if (this.#read()) return;
    }
    lineage.inFlight.end(this.#begun);
    this.#readAll();
  }

  /** False when the checksums are not at hand. */
  #read(): boolean {
    const { slots } = this.#parts.lineage;
    return slots.readSmall(this.#linear, this.#count, this.#target, this.#start, this.#wasRead);
  }

  readonly #wasRead = (error: Error | null): void => {
    const { failure, hot, lineage } = this.#parts;
    const isWhole = error === null && this.#isGood();
    lineage.inFlight.end(this.#begun);
    if (!isWhole) {
      // which block it is, and whether the disk can read it at all, is found out there
      this.#readAll();
      return;
    }
    hot.add(this.from / blockBytes, this.#count);
    this.#end(failure.error);
  };

  /** An error of the file with the checksums is found again, and told, by `readAll`. */
  #isGood(): boolean {
    try {
      const { slots } = this.#parts.lineage;
      return slots.matches(this.#linear, this.#count, this.#target, this.#start);
    } catch {
      return false;
    }
  }

  #readAll(): void {
    const { failure, readAll } = this.#parts;
    readAll(this.from, this.to - this.from, this.#target, this.#start).then(
      () => {
        this.#end(failure.error);
      },
      (cause: unknown) => {
        this.#end(failure.read(cause));
      },
    );
  }

  #end(error: StorError | null): void {
    const done = this.#done;
    this.#done = null;
    this.#target = noBytes;
    this.#parts.calls.over(this);
    this.#recycle(this);
    done?.(error);
  }
}
