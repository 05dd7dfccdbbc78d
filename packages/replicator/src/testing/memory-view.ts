import { StorError, blockBytes, chunkBytes, type SnapshotId } from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import type { Extent } from '../block-device.ts';
import type { ReplicaView } from '../replica-snapshots.ts';
import type { StoreDone } from '../replica-store.ts';
import type { MemorySnapshots } from './memory-snapshots.ts';

type Enqueue = (offset: number, length: number, run: () => void, done: StoreDone) => void;

/** A snapshot of a replica in memory. */
export class MemoryView implements ReplicaView {
  readonly snapshotId: SnapshotId;
  readonly sizeBytes: number;
  readonly #snapshots: MemorySnapshots;
  readonly #enqueue: Enqueue;

  constructor(snapshots: MemorySnapshots, snapshotId: SnapshotId, enqueue: Enqueue) {
    this.snapshotId = snapshotId;
    this.sizeBytes = snapshots.sizeOf(snapshotId);
    this.#snapshots = snapshots;
    this.#enqueue = enqueue;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    const valid = new Uint8Array(length / blockBytes);
    this.readUnverified(offset, length, target, start, valid, (error) => {
      const bad = valid.indexOf(0);
      if (error || bad < 0) done(error);
      else {
        const details = { offset: String(offset + bad * blockBytes) };
        done(new StorError('CHECKSUM_MISMATCH', 'a block does not verify', { details }));
      }
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
    const run = (): void => {
      for (let index = 0; index < length / blockBytes; index++) {
        const found = this.#snapshots.block(this.snapshotId, offset / blockBytes + index);
        if (!found) throw gone(this.snapshotId);
        target.set(found.bytes, start + index * blockBytes);
        valid[index] = crc32(found.bytes) === found.sum ? 1 : 0;
      }
    };
    this.#run(offset, length, run, done);
  }

  extents(offset: number, length: number, limit: number): Extent[] {
    const extents: Extent[] = [];
    for (let at = offset; at < offset + length;) {
      const chunk = Math.floor(at / chunkBytes);
      const end = Math.min(offset + length, (chunk + 1) * chunkBytes);
      extents.push({ offset: at, length: end - at, allocated: this.isAllocated(chunk) });
      at = end;
    }
    return extents.slice(0, limit);
  }

  isAllocated(chunk: number): boolean {
    return this.#snapshots.isAllocated(this.snapshotId, chunk);
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
    const kept = sums.slice(sumsStart, sumsStart + length / blockBytes);
    const run = (): void => {
      this.#snapshots.write(this.snapshotId, offset, bytes, start, kept);
    };
    this.#run(offset, length, run, done);
  }

  zero(offset: number, length: number, done: StoreDone): void {
    const run = (): void => {
      this.#snapshots.zero(this.snapshotId, offset, length);
    };
    this.#run(offset, length, run, done);
  }

  #run(offset: number, length: number, run: () => void, done: StoreDone): void {
    let failed: StorError | null = null;
    const caught = (): void => {
      try {
        run();
      } catch (error) {
        failed = StorError.from(error);
      }
    };
    this.#enqueue(offset, length, caught, (error) => {
      done(error ?? failed);
    });
  }
}

function gone(snapshotId: SnapshotId): StorError {
  return new StorError('NOT_FOUND', `the replica has no snapshot ${snapshotId}`);
}
