import { StorError, blockBytes, type SnapshotId } from '@stor/protocol';
import { SharedBytes, hashBlocks, type BufferPool } from '@stor/runtime';

import { hashBytes, type ChunkSums } from '../core/replication/settle-choice.ts';
import type { ReplicaView } from '../replica-snapshots.ts';
import type { ReplicaStore, StoreDone } from '../replica-store.ts';
import { snapshotsOf } from '../replication/snapshots-of.ts';
import type { Adopt, MemberImage } from './member.ts';

/** How an image reaches the store of the local member. */
export interface LocalAccess {
  /** the store while it may be used; else answers the caller */
  readonly use: (done: StoreDone) => ReplicaStore | null;
  /** counts a call of the store in and out */
  readonly counted: (done: StoreDone) => StoreDone;
  readonly buffers: BufferPool;
}

/** The live image of the replica on a disk of this lane, or one of its snapshots. */
export class LocalImage implements MemberImage {
  readonly #access: LocalAccess;
  readonly #snapshotId: SnapshotId | null;

  constructor(access: LocalAccess, snapshotId: SnapshotId | null) {
    this.#access = access;
    this.#snapshotId = snapshotId;
  }

  read(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    done: StoreDone,
    adopt: Adopt | null = null,
  ): void {
    const source = this.#source(done);
    if (!source) return;
    // a disk that hangs and goes on later must not write into memory that has another user by then
    const { buffers } = this.#access;
    const own = buffers.take(length);
    let isAdopted = false;
    const counted = this.#access.counted((error) => {
      isAdopted = !error && adopt !== null;
      if (isAdopted) adopt?.(new SharedBytes(own, (bytes) => buffers.give(bytes)), 0);
      else if (!error) target.set(own.subarray(0, length), start);
      done(error);
    });
    source.read(offset, length, own, 0, (error) => {
      // now it is done with the memory, whatever was said to the caller before
      counted(error);
      if (!isAdopted) buffers.give(own);
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
    const source = this.#source(done);
    source?.readUnverified(offset, length, target, start, valid, this.#access.counted(done));
  }

  sums(
    offset: number,
    length: number,
    done: (error: StorError | null, sums: ChunkSums | null) => void,
  ): void {
    const data = Buffer.allocUnsafe(length);
    const blocks = length / blockBytes;
    const valid = new Uint8Array(blocks);
    this.readUnverified(offset, length, data, 0, valid, (error) => {
      if (error) {
        done(error, null);
        return;
      }
      const hashes = new Uint8Array(blocks * hashBytes);
      hashBlocks(data, 0, blocks, blockBytes, hashes, 0);
      done(null, { hashes, valid });
    });
  }

  copy(
    _sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array,
    sums: Uint32Array,
    done: StoreDone,
  ): void {
    const target = this.#target(done);
    target?.write(offset, length, bytes, 0, sums, 0, this.#access.counted(done));
  }

  copyZero(_sequence: number, offset: number, length: number, done: StoreDone): void {
    const target = this.#target(done);
    if (!target) return;
    const counted = this.#access.counted(done);
    if ('snapshotId' in target) target.zero(offset, length, counted);
    else target.zero(offset, length, false, counted);
  }

  #source(done: StoreDone): ReplicaStore | ReplicaView | null {
    const store = this.#access.use(done);
    if (!store || this.#snapshotId === null) return store;
    const view = snapshotsOf(store)?.view(this.#snapshotId) ?? null;
    if (!view) done(noSnapshot(this.#snapshotId));
    return view;
  }

  /** What is written to a snapshot that is gone is done. */
  #target(done: StoreDone): ReplicaStore | ReplicaView | null {
    return this.#source((error) => {
      done(error?.code === 'NOT_FOUND' ? null : error);
    });
  }
}

export function noSnapshot(snapshotId: SnapshotId): StorError {
  return new StorError('NOT_FOUND', `the replica has no snapshot ${snapshotId}`);
}
