import { blockBytes, chunkBytes, type SnapshotId, StorError } from '@stor/protocol';
import type { Extent } from '../block-device.ts';
import { CallOrder, type OrderedCall } from '../core/store/call-order.ts';
import { extentsOf, type LayerImage } from '../core/store/layer-image.ts';
import type { ReplicaView } from '../replica-snapshots.ts';
import { blockVerifies, type StoreDone } from '../replica-store.ts';
import { ImageCalls, type ImageCallParts } from './image-calls.ts';
import { isRefusal, type ReplicaFailure } from './replica-failure.ts';

export interface SnapshotViewParts {
  snapshotId: SnapshotId;
  sizeBytes: number;
  /** what a message calls the replica */
  name: string;
  calls: Omit<ImageCallParts, 'image' | 'hot'>;
  failure: ReplicaFailure;
  /** Its flat image, made when it is not there. */
  image(): LayerImage;
  isIncomplete(): boolean;
  answer(done: StoreDone, error: StorError): void;
  /** a call has ended */
  ended(): void;
}

interface ViewCall extends OrderedCall {
  run(calls: ImageCalls): Promise<void>;
  done: StoreDone;
}

/** A snapshot of a replica on this disk, readable while it exists. */
export class SnapshotView implements ReplicaView {
  readonly snapshotId: SnapshotId;
  readonly sizeBytes: number;

  readonly #parts: SnapshotViewParts;
  readonly #order = new CallOrder();
  readonly #endBytes: number;
  /** of the image that the calls under way work on */
  #calls: { image: LayerImage; calls: ImageCalls } | null = null;
  #closed = false;
  #idle: (() => void)[] = [];

  constructor(parts: SnapshotViewParts) {
    this.#parts = parts;
    this.snapshotId = parts.snapshotId;
    this.sizeBytes = parts.sizeBytes;
    this.#endBytes = Math.ceil(parts.sizeBytes / blockBytes) * blockBytes;
  }

  /** True while calls are under way: then its image must stay. */
  get busy(): boolean {
    return this.#order.size > 0;
  }

  /** Refuses calls from now on and waits for those under way. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.idle();
  }

  async idle(): Promise<void> {
    while (this.#order.size > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    const valid = new Uint8Array(length / blockBytes);
    this.#submit(offset, length, false, done, async (calls) => {
      await calls.read(offset, length, target, start, valid);
      const bad = valid.findIndex((state) => state !== blockVerifies);
      if (bad < 0) return;
      const at = offset + bad * blockBytes;
      throw new StorError(
        'CHECKSUM_MISMATCH',
        `block at byte ${at} of snapshot ${this.snapshotId} of ${this.#parts.name} does not match its checksum`,
        { details: { offset: String(at) } },
      );
    });
  }

  readUnverified(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    done: StoreDone,
  ): void {
    this.#submit(offset, length, false, done, (calls) =>
      calls.read(offset, length, target, start, valid, true),
    );
  }

  extents(offset: number, length: number, limit: number): Extent[] {
    if (this.#closed) throw this.#gone();
    return extentsOf(this.#parts.image(), offset, length, limit);
  }

  isAllocated(chunk: number): boolean {
    if (this.#closed) throw this.#gone();
    return this.#parts.image().slotOf.get(chunk) > 0;
  }

  write(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
    done: StoreDone,
  ): void {
    const copied = sums.slice(sumsStart, sumsStart + length / blockBytes);
    this.#submit(offset, length, true, done, async (calls) => {
      if (this.#parts.isIncomplete()) await calls.write(offset, length, bytes, start, copied);
      else await this.#repair(calls, offset, length, bytes, start, copied);
    });
  }

  /** In the slots where the blocks are, whichever layer has them: the content stays what it was. */
  async #repair(
    calls: ImageCalls,
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
  ): Promise<void> {
    const { slotOf } = this.#parts.image();
    const end = offset + length;
    for (let chunk = Math.floor(offset / chunkBytes); chunk * chunkBytes < end; chunk++) {
      if (slotOf.get(chunk) > 0) continue;
      throw new StorError(
        'FAILED_PRECONDITION',
        `snapshot ${this.snapshotId} of ${this.#parts.name} holds no data at byte ${chunk * chunkBytes}, so there is nothing to repair`,
      );
    }
    await calls.overwrite(offset, length, bytes, start, sums);
  }

  zero(offset: number, length: number, done: StoreDone): void {
    this.#submit(offset, length, true, done, async (calls) => {
      if (this.#parts.isIncomplete()) await calls.zero(offset, length, false);
      else {
        throw new StorError(
          'FAILED_PRECONDITION',
          `snapshot ${this.snapshotId} of ${this.#parts.name} is complete: it does not change any more`,
        );
      }
    });
  }

  #submit(
    offset: number,
    length: number,
    writes: boolean,
    done: StoreDone,
    run: (calls: ImageCalls) => Promise<void>,
  ): void {
    const aligned = offset % blockBytes === 0 && length % blockBytes === 0;
    if (!aligned || offset < 0 || length <= 0 || offset + length > this.#endBytes) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `range ${offset}+${length} is not whole blocks inside snapshot ${this.snapshotId} of ${this.#endBytes} bytes`,
      );
    }
    const error = this.#parts.failure.error ?? (this.#closed ? this.#gone() : null);
    if (error) {
      this.#parts.answer(done, error);
      return;
    }
    const [from, to] = [offset, offset + length];
    const call: ViewCall = {
      ...{ from, to, writes, id: 0, blockers: 0, done, run },
      start: () => void this.#run(call),
    };
    this.#order.add(call);
  }

  async #run(call: ViewCall): Promise<void> {
    let error: StorError | null = null;
    try {
      await call.run(this.#callsNow());
      error = this.#parts.failure.error;
    } catch (cause) {
      const fails = call.writes && !isRefusal(cause);
      error = fails ? this.#parts.failure.write(cause) : this.#parts.failure.read(cause);
    }
    this.#order.finish(call);
    if (this.#order.size === 0) {
      const waiters = this.#idle;
      this.#idle = [];
      for (const wake of waiters) wake();
      this.#parts.ended();
    }
    call.done(error);
  }

  #callsNow(): ImageCalls {
    const image = this.#parts.image();
    if (this.#calls?.image !== image) {
      const calls = new ImageCalls({ ...this.#parts.calls, image, hot: null });
      this.#calls = { image, calls };
    }
    return this.#calls.calls;
  }

  #gone(): StorError {
    return new StorError(
      'NOT_FOUND',
      `snapshot ${this.snapshotId} of ${this.#parts.name} was deleted`,
    );
  }
}
