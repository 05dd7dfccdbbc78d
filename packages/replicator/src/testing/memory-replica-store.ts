import { StorError, blockBytes, chunkBytes, regionBytes, type SnapshotId } from '@stor/protocol';
import type { Random } from '@stor/runtime';

import type { Extent } from '../block-device.ts';
import {
  compareGenerations,
  noGeneration,
  type Generation,
  type GenerationHistory,
  type ReplicaStore,
  type SetView,
  type StoreDone,
} from '../replica-store.ts';
import type {
  ReplicaSnapshot,
  ReplicaSpace,
  ReplicaView,
  SnapshotStore,
} from '../replica-snapshots.ts';
import { historyOf, stampsOf } from '../core/replication/generation-history.ts';
import type { Bitmap } from '../core/replication/bitmap.ts';
import type { RoomPromise } from '../core/store/space-ledger.ts';
import type { MemoryReplicaState } from './memory-replica-state.ts';
import { memoryRoom } from './memory-room.ts';
import { zeroSum } from './memory-replica-state.ts';
import { MemoryView } from './memory-view.ts';
import type { ProcessClock } from './sim-clock.ts';

interface Pending {
  offset: number;
  length: number;
  run: () => void;
  done: StoreDone;
}

/** A ReplicaStore in memory, with the contract of the disk store and faults on demand. */
export class MemoryReplicaStore implements ReplicaStore, SnapshotStore {
  readonly replicaId: string;
  readonly volumeId: string;
  readonly segment: number;
  readonly diskId: string;
  readonly state: MemoryReplicaState;
  /** new chunks that may be taken; Infinity: no limit */
  capacityChunks = 1_000_000;
  /** the next write fails, and the replica with it (I7) */
  failNextWrite = false;
  /** what a failed write means: a broken disk, or a full one */
  failureCode: 'DISK_FAILED' | 'NO_SPACE' = 'DISK_FAILED';
  /** calls never end while this is set */
  stuck = false;
  readonly #clock: ProcessClock;
  readonly #random: Random;
  #queue: Pending[] = [];
  #busy = false;
  #uses = 0;
  #cut = 0;

  constructor(state: MemoryReplicaState, diskId: string, clock: ProcessClock, random: Random) {
    this.state = state;
    this.replicaId = state.identity.replicaId;
    this.volumeId = state.identity.volumeId;
    this.segment = state.identity.segment;
    this.diskId = diskId;
    this.#clock = clock;
    this.#random = random;
    this.#uses = Math.max(0, ...state.marks.values()) + 1;
    state.clean = false;
  }

  get sizeBytes(): number {
    return this.state.identity.sizeBytes;
  }
  get failure(): StorError | null {
    return this.state.failure;
  }
  get highestEpoch(): number {
    return this.state.highestEpoch;
  }
  get keptMemory(): boolean {
    return this.state.keptMemory;
  }
  get setView(): SetView | null {
    return this.state.setView;
  }
  get generation(): Generation {
    return this.state.generation;
  }
  get allocatedBytes(): number {
    return this.state.allocated.size * chunkBytes;
  }
  get markedCount(): number {
    return this.state.marks.size;
  }

  writeInline(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
  ): boolean {
    if (this.failure) throw this.failure;
    if (this.failNextWrite) throw this.fail();
    const ready = this.#regions(offset, length).every((region) => this.state.marks.has(region));
    const given = this.#chunks(offset, length).every((chunk) => this.ownsChunk(chunk));
    if (!ready || !given || this.#overlaps(offset, length) || this.#random.next() < 0.2)
      return false;
    this.#apply(offset, length, bytes, start, sums, sumsStart);
    return true;
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
    this.#enqueue(
      offset,
      length,
      () => {
        if (this.failNextWrite) this.fail();
        else this.#apply(offset, length, bytes, start, kept, 0);
      },
      done,
    );
  }

  zero(offset: number, length: number, keepAllocated: boolean, done: StoreDone): void {
    const run = (): void => {
      this.#mark(offset, length);
      const zero = new Uint8Array(blockBytes);
      for (const block of this.#blocks(offset, length)) this.state.put(block, zero, 0, zeroSum);
      if (keepAllocated) return;
      for (const chunk of this.#chunks(offset, length)) {
        const whole = chunk * chunkBytes >= offset && (chunk + 1) * chunkBytes <= offset + length;
        if (!whole) continue;
        this.state.allocated.delete(chunk);
        this.state.snapshots.disown(chunk);
        // a chunk is freed durably, and one that takes no space reads as zeros (DESIGN section 5)
        const freed = this.#blocks(chunk * chunkBytes, chunkBytes);
        for (const block of freed) this.state.unflushed.delete(block);
      }
    };
    this.#enqueue(offset, length, run, done);
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    if (this.failure || this.#overlaps(offset, length) || this.#random.next() < 0.3) return false;
    if (!this.#blocks(offset, length).every((block) => this.state.isValid(block))) return false;
    target.set(this.state.bytes.subarray(offset, offset + length), start);
    return true;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    let bad = -1;
    this.#enqueue(
      offset,
      length,
      () => {
        bad = this.#blocks(offset, length).find((block) => !this.state.isValid(block)) ?? -1;
        target.set(this.state.bytes.subarray(offset, offset + length), start);
      },
      (error) => {
        if (error || bad < 0) done(error);
        else {
          const details = { offset: String(bad * blockBytes) };
          done(new StorError('CHECKSUM_MISMATCH', 'a block does not verify', { details }));
        }
      },
    );
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
      this.#blocks(offset, length).forEach((block, index) => {
        valid[index] = this.state.isValid(block) ? 1 : 0;
      });
      target.set(this.state.bytes.subarray(offset, offset + length), start);
    };
    this.#enqueue(offset, length, run, done);
  }

  flush(done: StoreDone): void {
    const run = (): void => {
      this.state.unflushed.clear();
      this.state.snapshots.flushed();
    };
    this.#enqueue(0, 0, run, done);
  }

  extents(offset: number, length: number, limit: number): Extent[] {
    const extents: Extent[] = [];
    for (const chunk of this.#chunks(offset, length)) {
      const at = Math.max(offset, chunk * chunkBytes);
      const end = Math.min(offset + length, (chunk + 1) * chunkBytes);
      extents.push({ offset: at, length: end - at, allocated: this.isAllocated(chunk) });
    }
    return extents.slice(0, limit);
  }
  isAllocated(chunk: number): boolean {
    return this.state.allocated.has(chunk);
  }
  nextAllocated(from: number): number {
    const later = [...this.state.allocated].filter((chunk) => chunk >= from);
    return later.length === 0 ? -1 : Math.min(...later);
  }
  freeChunks(): number {
    let taken = this.state.snapshots.slotCount;
    for (const chunk of this.state.allocated) if (this.ownsChunk(chunk)) taken += 1;
    return this.capacityChunks - taken;
  }

  promiseRoom(): RoomPromise {
    return memoryRoom(() => this.freeChunks());
  }

  fence(epoch: number, done: StoreDone): void {
    const isFull = this.failure?.code === 'NO_SPACE';
    if (isFull && !this.#busy && this.freeChunks() > 0) this.state.failure = null;
    if (epoch < this.state.highestEpoch) {
      const highest = this.state.highestEpoch;
      this.#enqueue(
        0,
        0,
        () => {},
        () => {
          done(new StorError('STALE_EPOCH', `the replica has seen epoch ${highest}`));
        },
      );
      return;
    }
    const run = (): void => {
      this.state.highestEpoch = Math.max(epoch, this.state.highestEpoch);
    };
    this.#enqueue(0, 0, run, done);
  }
  recordSetView(view: SetView, done: StoreDone): void {
    const run = (): void => {
      this.state.setView = { ...view, members: [...view.members] };
    };
    this.#enqueue(0, 0, run, done);
  }

  marks(): number[] {
    return [...this.state.marks.keys()].sort((a, b) => a - b);
  }
  regionsChangedSince(since: Generation): number[] | null {
    const { generation, historyAfter } = this.state;
    if (compareGenerations(since, historyAfter) <= 0) return null;
    const isNext = since.epoch === generation.epoch && since.n === generation.n + 1;
    if (compareGenerations(since, generation) > 0 && !isNext) return null;
    const changed = new Set(this.state.marks.keys());
    for (const [region, stamp] of this.state.stamps) {
      if (compareGenerations(stamp, since) > 0) changed.add(region);
    }
    return [...changed].sort((a, b) => a - b);
  }
  cutMarks(): void {
    this.#cut = this.#uses;
    this.#uses += 1;
  }
  retireMarks(generation: Generation, done: StoreDone): void {
    // the cut that was taken before this call, whatever is cut before it takes effect
    const cut = this.#cut;
    const run = (): void => {
      const unflushed = new Set<number>();
      for (const block of this.state.unflushed.keys()) {
        unflushed.add(Math.floor((block * blockBytes) / regionBytes));
      }
      for (const [region, use] of [...this.state.marks]) {
        if (use > cut) continue;
        if (unflushed.has(region)) this.state.retiredEarly.add(region);
        this.state.marks.delete(region);
        this.state.stamps.set(region, generation);
      }
      this.state.generation = generation;
      this.state.keptMemory = true;
    };
    this.#enqueue(0, 0, run, done);
  }
  history(): GenerationHistory {
    const regionCount = Math.ceil(this.sizeBytes / regionBytes);
    return historyOf({
      after: this.state.historyAfter,
      regionCount,
      next: (from) => (from < regionCount ? from : -1),
      isMarked: (region) => this.state.marks.has(region),
      stampOf: (region) => this.state.stamps.get(region) ?? noGeneration,
    });
  }
  adoptGeneration(
    generation: Generation,
    history: GenerationHistory | null,
    done: StoreDone,
  ): void {
    const run = (): void => {
      this.state.historyAfter = history?.after ?? generation;
      const { marked, stamped } = history ? stampsOf(history) : { marked: [], stamped: [] };
      for (const region of marked) {
        if (!this.state.marks.has(region)) this.state.marks.set(region, this.#uses);
      }
      for (const { generation: stamp, regions } of stamped) {
        for (const region of regions) {
          const own = this.state.stamps.get(region) ?? noGeneration;
          if (compareGenerations(own, stamp) < 0) this.state.stamps.set(region, stamp);
        }
      }
      this.state.generation = generation;
      this.state.keptMemory = true;
    };
    this.#enqueue(0, 0, run, done);
  }

  // snapshots

  get headParent(): SnapshotId | null {
    return this.state.snapshots.headParent;
  }
  snapshots(): ReplicaSnapshot[] {
    return this.state.snapshots.list();
  }
  ownsChunk(chunk: number): boolean {
    return this.state.snapshots.owns(chunk);
  }
  changedChunks(from: SnapshotId | null, to: SnapshotId | null): Bitmap | null {
    return this.state.snapshots.changed(from, to);
  }
  space(): ReplicaSpace {
    const snapshotBytes = this.state.snapshots.slotCount * chunkBytes;
    return { allocatedBytes: this.allocatedBytes, snapshotBytes, reclaimableBytes: 0 };
  }

  takeSnapshot(
    id: SnapshotId,
    epoch: number,
    kind: 'prepared' | 'incomplete',
    done: StoreDone,
  ): void {
    const { snapshots, highestEpoch } = this.state;
    const run = (): void => {
      if (epoch < highestEpoch) throw new StorError('STALE_EPOCH', 'the epoch is over');
      if (!snapshots.has(id)) snapshots.take(id, epoch, kind);
    };
    this.#order(run, done);
  }
  confirmSnapshot(id: SnapshotId, done: StoreDone, sizeBytes?: number): void {
    this.#order(() => {
      this.state.snapshots.confirm(id, sizeBytes);
    }, done);
  }
  dropSnapshot(id: SnapshotId, done: StoreDone): void {
    this.#order(() => {
      this.state.snapshots.drop(id);
    }, done);
  }
  rollback(id: SnapshotId, done: StoreDone): void {
    const { snapshots, marks } = this.state;
    const run = (): void => {
      for (const region of snapshots.differingRegions(id)) marks.set(region, this.#uses);
      snapshots.rollback(id);
    };
    this.#order(run, done);
  }
  resize(sizeBytes: number, done: StoreDone): void {
    const run = (): void => {
      if (sizeBytes < this.sizeBytes) throw new StorError('INVALID_ARGUMENT', 'it is larger');
      if (sizeBytes > this.sizeBytes) this.state.grow(sizeBytes);
    };
    this.#order(run, done);
  }

  view(id: SnapshotId): ReplicaView | null {
    const { snapshots } = this.state;
    if (!snapshots.has(id)) return null;
    return new MemoryView(snapshots, id, (offset, length, run, done) => {
      this.#enqueue(offset, length, run, done);
    });
  }

  /** What nothing may pass by, before or after. */
  #order(run: () => void, done: StoreDone): void {
    let failed: StorError | null = null;
    this.#enqueue(
      0,
      this.state.blocks * blockBytes,
      () => {
        try {
          run();
        } catch (error) {
          failed = StorError.from(error);
        }
      },
      (error) => {
        done(error ?? failed);
      },
    );
  }

  /** The process dies: of what is under way the first may have been written in part. */
  crash(): void {
    const [first] = this.#queue;
    this.#queue = [];
    if (first && this.#random.next() < 0.5) first.run();
  }

  /** The disk breaks. */
  fail(): StorError {
    const failure = new StorError(this.failureCode, `disk ${this.diskId}: write error`);
    this.state.failure = failure;
    return failure;
  }

  #apply(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
  ): void {
    this.#mark(offset, length);
    for (const chunk of this.#chunks(offset, length)) this.state.allocated.add(chunk);
    this.#blocks(offset, length).forEach((block, index) => {
      this.state.put(block, bytes, start + index * blockBytes, sums[sumsStart + index] ?? 0);
    });
  }

  #mark(offset: number, length: number): void {
    for (const region of this.#regions(offset, length)) this.state.marks.set(region, this.#uses);
  }

  #overlaps(offset: number, length: number): boolean {
    return this.#queue.some(
      (each) => each.offset < offset + length && offset < each.offset + each.length,
    );
  }

  #enqueue(offset: number, length: number, run: () => void, done: StoreDone): void {
    if (offset % blockBytes !== 0 || length % blockBytes !== 0) {
      throw new Error(`not whole blocks: ${offset} ${length}`);
    }
    this.#queue.push({ offset, length, run, done });
    this.#next();
  }

  #next(): void {
    if (this.#busy || this.stuck || this.#queue.length === 0) return;
    this.#busy = true;
    this.#clock.after(this.#random.next() * 0.5, () => {
      this.#busy = false;
      const call = this.#queue.shift();
      if (!call) return;
      if (!this.failure) call.run();
      call.done(this.failure);
      this.#next();
    });
  }

  #blocks(offset: number, length: number): number[] {
    return range(offset / blockBytes, (offset + length) / blockBytes);
  }
  #chunks(offset: number, length: number): number[] {
    return range(Math.floor(offset / chunkBytes), Math.ceil((offset + length) / chunkBytes));
  }
  #regions(offset: number, length: number): number[] {
    return range(Math.floor(offset / regionBytes), Math.ceil((offset + length) / regionBytes));
  }
}

function range(from: number, end: number): number[] {
  return Array.from({ length: Math.max(0, end - from) }, (_, index) => from + index);
}
