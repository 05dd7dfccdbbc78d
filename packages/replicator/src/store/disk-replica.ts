import {
  blockBytes,
  chunkBytes,
  type DiskId,
  regionBytes,
  type ReplicaId,
  StorError,
  type VolumeId,
} from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import type { Extent } from '../block-device.ts';
import { ColdReads, type HotBlocks } from '../core/store/block-cache.ts';
import { CallOrder, type OrderedCall } from '../core/store/call-order.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import {
  blockVerifies,
  type Generation,
  type GenerationHistory,
  type ReplicaStore,
  type SetView,
  type StoreDone,
} from '../replica-store.ts';
import { FlushQueue } from './flush-queue.ts';
import type { Journal } from './journal.ts';
import { ReplicaFacts } from './replica-facts.ts';
import type { ReplicaFailure } from './replica-failure.ts';
import { inlineBytes, SlowCalls } from './slow-calls.ts';
import type { SlotFiles } from './slot-files.ts';
import type { SlotSupply } from './slot-supply.ts';
import type { SpaceAccount } from './space-account.ts';

/** An inline read that took longer than this was probably no page-cache hit (ms). */
const coldReadMs = 0.2;

export interface DiskReplicaParts {
  diskId: DiskId;
  tables: ReplicaTables;
  slots: SlotFiles;
  supply: SlotSupply;
  space: SpaceAccount;
  journal: Journal;
  hot: HotBlocks;
  clock: Clock;
  maxRecordNumbers: number;
  failure: ReplicaFailure;
}

interface SlowCall extends OrderedCall {
  run(): Promise<void>;
  done: StoreDone;
}

/** A replica on this disk: inline paths here, everything else ordered and given to `SlowCalls`. */
export class DiskReplica implements ReplicaStore {
  readonly diskId: DiskId;
  readonly replicaId: ReplicaId;
  readonly volumeId: VolumeId;
  readonly segment: number;
  readonly sizeBytes: number;

  readonly #parts: DiskReplicaParts;
  readonly #tables: ReplicaTables;
  readonly #slots: SlotFiles;
  readonly #journal: Journal;
  readonly #hot: HotBlocks;
  readonly #order = new CallOrder();
  readonly #coldReads = new ColdReads();
  readonly #slow: SlowCalls;
  readonly #flushes: FlushQueue;
  readonly #endBytes: number;
  readonly #failure: ReplicaFailure;
  readonly #facts: ReplicaFacts;
  #closed = false;
  #idleWaiters: (() => void)[] = [];
  #pendingDone = 0;

  constructor(parts: DiskReplicaParts) {
    const { identity } = parts.tables;
    this.diskId = parts.diskId;
    this.replicaId = identity.replicaId;
    this.volumeId = identity.volumeId;
    this.segment = identity.segment;
    this.sizeBytes = identity.sizeBytes;
    this.#parts = parts;
    this.#tables = parts.tables;
    this.#slots = parts.slots;
    this.#journal = parts.journal;
    this.#hot = parts.hot;
    this.#endBytes = Math.ceil(identity.sizeBytes / blockBytes) * blockBytes;
    this.#slow = new SlowCalls(parts);
    this.#failure = parts.failure;
    this.#facts = new ReplicaFacts({
      tables: parts.tables,
      maxRecordNumbers: parts.maxRecordNumbers,
      append: (record, done) => {
        this.#append(record, done);
      },
      answer: answerLater,
      busy: (region) => this.#order.blocks(region * regionBytes, (region + 1) * regionBytes, false),
      flushCut: (cut, done) => {
        if (this.#flushes.syncedCut < cut) this.flush(done);
        else done(this.#failure.error);
      },
    });
    this.#flushes = new FlushQueue({
      lastCallId: () => this.#order.lastId,
      oldestWriteId: () => this.#order.oldestWrite(),
      cut: () => this.#tables.cut,
      sync: () => this.#sync(),
    });
  }

  get highestEpoch(): number {
    return this.#tables.highestEpoch;
  }

  get keptMemory(): boolean {
    return !this.#tables.suspect;
  }

  get setView(): SetView | null {
    return this.#tables.setView;
  }

  get generation(): Generation {
    return this.#tables.generation;
  }

  get failure(): StorError | null {
    return this.#failure.error;
  }

  get allocatedBytes(): number {
    return this.#tables.allocatedChunks * chunkBytes;
  }

  get markedCount(): number {
    return this.#tables.markedCount;
  }

  /** What the disk store needs of it. */
  get tables(): ReplicaTables {
    return this.#tables;
  }

  get highWater(): number {
    return this.#parts.supply.highWater;
  }

  get slotFiles(): SlotFiles {
    return this.#slots;
  }

  writeInline(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
  ): boolean {
    this.#check(offset, length);
    if (length > inlineBytes) return false;
    if (this.#order.size > 0 && this.#order.blocks(offset, offset + length, true)) return false;
    const tables = this.#tables;
    const end = offset + length;
    for (let position = offset; position < end;) {
      const chunk = Math.floor(position / chunkBytes);
      const slotPlusOne = tables.slotOf[chunk] ?? 0;
      if (slotPlusOne === 0 || !this.#slots.isWarm(slotPlusOne - 1)) return false;
      // a chunk lies in one region (I8)
      if (!tables.isMarked(Math.floor(position / regionBytes))) return false;
      position = (chunk + 1) * chunkBytes;
    }
    try {
      for (let position = offset; position < end;) {
        const chunk = Math.floor(position / chunkBytes);
        const count = (Math.min(end, (chunk + 1) * chunkBytes) - position) / blockBytes;
        const done = position - offset;
        const linear =
          ((tables.slotOf[chunk] ?? 0) - 1) * (chunkBytes / blockBytes) +
          (position - chunk * chunkBytes) / blockBytes;
        const sum = sumsStart + done / blockBytes;
        this.#slots.writeSync(linear, count, bytes, start + done, sums, sum);
        tables.use(Math.floor(position / regionBytes));
        position += count * blockBytes;
      }
    } catch (error) {
      throw this.#failure.write(error);
    }
    this.#hot.add(offset / blockBytes, length / blockBytes);
    return true;
  }

  /** `done` never comes before the call returns; so it is with all calls that take one. */
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
    this.#submit(offset, length, true, done, () =>
      this.#slow.write(offset, length, bytes, start, copied),
    );
  }

  zero(offset: number, length: number, keepAllocated: boolean, done: StoreDone): void {
    this.#submit(offset, length, true, done, () => this.#slow.zero(offset, length, keepAllocated));
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    if (this.#failure.error || this.#closed || length > inlineBytes) return false;
    this.#checkRange(offset, length);
    if (this.#order.size > 0 && this.#order.blocks(offset, offset + length, false)) return false;
    const end = offset + length;
    const { slotOf } = this.#tables;
    for (let position = offset; position < end; position += blockBytes) {
      if (slotOf[Math.floor(position / chunkBytes)] === 0) continue;
      if (!this.#hot.has(position / blockBytes)) return false;
    }
    const beganMs = this.#parts.clock.monotonicMs();
    try {
      for (let position = offset; position < end;) {
        const chunk = Math.floor(position / chunkBytes);
        const count = (Math.min(end, (chunk + 1) * chunkBytes) - position) / blockBytes;
        const at = start + position - offset;
        const slotPlusOne = slotOf[chunk] ?? 0;
        const linear =
          (slotPlusOne - 1) * (chunkBytes / blockBytes) +
          (position - chunk * chunkBytes) / blockBytes;
        if (slotPlusOne === 0) target.fill(0, at, at + count * blockBytes);
        else if (!this.#slots.readSync(linear, count, target, at)) return false;
        position += count * blockBytes;
      }
    } catch {
      return false;
    }
    const slow = this.#parts.clock.monotonicMs() - beganMs > coldReadMs;
    if (slow) this.#hot.drop(offset / blockBytes, length / blockBytes);
    if (this.#coldReads.note(slow)) {
      this.#hot.clear();
      this.#slots.coolDown();
    }
    return true;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    const valid = new Uint8Array(length / blockBytes);
    this.#submit(offset, length, false, done, async () => {
      await this.#slow.read(offset, length, target, start, valid);
      const bad = valid.findIndex((state) => state !== blockVerifies);
      if (bad < 0) return;
      const at = offset + bad * blockBytes;
      throw new StorError(
        'CHECKSUM_MISMATCH',
        `block at byte ${at} of replica ${this.replicaId} on disk ${this.diskId} does not match its checksum`,
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
    this.#submit(offset, length, false, done, () =>
      this.#slow.read(offset, length, target, start, valid),
    );
  }

  flush(done: StoreDone): void {
    if (this.#refused(done)) return;
    this.#pendingDone += 1;
    this.#flushes.add(this.#counted(done));
  }

  async #sync(): Promise<void> {
    try {
      const results = await Promise.allSettled([
        this.#slots.sync(),
        this.#journal.durable(this.#journal.lastLsn),
      ]);
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    } catch (error) {
      throw this.#failure.sync(error);
    }
    // another call may have failed meanwhile; its flush must not be answered as if nothing were
    if (this.#failure.error) throw this.#failure.error;
  }

  extents(offset: number, length: number, limit: number): Extent[] {
    const extents: Extent[] = [];
    const end = offset + length;
    for (let position = offset; position < end;) {
      const chunk = Math.floor(position / chunkBytes);
      const next = Math.min(end, (chunk + 1) * chunkBytes);
      const allocated = (this.#tables.slotOf[chunk] ?? 0) !== 0;
      const last = extents.at(-1);
      if (last && last.allocated === allocated) last.length += next - position;
      else if (extents.length === limit) break;
      else extents.push({ offset: position, length: next - position, allocated });
      position = next;
    }
    return extents;
  }

  isAllocated(chunk: number): boolean {
    return (this.#tables.slotOf[chunk] ?? 0) !== 0;
  }

  freeChunks(): number {
    return this.#parts.space.freeSlots() + this.#parts.supply.recyclable;
  }

  fence(epoch: number, done: StoreDone): void {
    this.#returnIfRoom();
    if (!this.#refused(done)) this.#facts.fence(epoch, done);
  }

  recordSetView(view: SetView, done: StoreDone): void {
    if (!this.#refused(done)) this.#facts.recordSetView(view, done);
  }

  marks(): number[] {
    return this.#tables.marks();
  }

  regionsChangedSince(since: Generation): number[] | null {
    return this.#tables.regionsChangedSince(since);
  }

  cutMarks(): void {
    this.#tables.takeCut();
  }

  retireMarks(generation: Generation, done: StoreDone): void {
    if (!this.#refused(done)) this.#facts.retireMarks(generation, done);
  }

  adoptGeneration(
    generation: Generation,
    history: GenerationHistory | null,
    done: StoreDone,
  ): void {
    if (!this.#refused(done)) this.#facts.adoptGeneration(generation, history, done);
  }

  history(): GenerationHistory {
    return this.#tables.history();
  }

  /**
   * A write that found the file system full failed the replica; nothing else of it was lost, and
   * the write is somebody's who makes replicas equal before this one counts again (I3). So a new
   * primary, or the same one opening it again, gets a replica that takes calls, once what it has
   * promised fits again; for more chunks it has no room then, and says so (`freeChunks`).
   */
  #returnIfRoom(): void {
    const isFull = this.#failure.error?.code === 'NO_SPACE';
    if (!isFull || this.#order.size > 0 || this.#pendingDone > 0) return;
    if (!this.#parts.space.keepsItsPromises()) return;
    this.#failure.endLackOfSpace();
    this.#parts.supply.resume();
  }

  /** Refuses calls from now on and waits for those under way. */
  async drain(): Promise<void> {
    this.#closed = true;
    while (this.#order.size > 0 || this.#pendingDone > 0) {
      await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
    }
    await this.#parts.supply.stop();
    await this.#flushes.idle();
  }

  /** The last sync of a closing or deleted replica. */
  finalSync(): Promise<void> {
    return this.#sync();
  }

  #append(record: JournalRecord, done: StoreDone | null): void {
    const lsn = this.#journal.append(record);
    if (!done) return;
    this.#pendingDone += 1;
    this.#journal.whenDurable(lsn, this.#counted(done));
  }

  #counted(done: StoreDone): StoreDone {
    return (error) => {
      this.#pendingDone -= 1;
      this.#wakeIdle();
      done(error);
    };
  }

  #wakeIdle(): void {
    if (this.#order.size > 0 || this.#pendingDone > 0) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const wake of waiters) wake();
  }

  #submit(
    offset: number,
    length: number,
    writes: boolean,
    done: StoreDone,
    run: () => Promise<void>,
  ): void {
    this.#checkRange(offset, length);
    if (this.#refused(done)) return;
    const call: SlowCall = {
      from: offset,
      to: offset + length,
      writes,
      id: 0,
      blockers: 0,
      done,
      run,
      start: () => void this.#run(call),
    };
    this.#order.add(call);
  }

  async #run(call: SlowCall): Promise<void> {
    let error = this.#failure.error;
    if (!error) {
      try {
        await call.run();
        error = this.#failure.error;
      } catch (cause) {
        error = call.writes ? this.#failure.write(cause) : this.#failure.read(cause);
      }
    } else {
      await Promise.resolve();
    }
    this.#order.finish(call);
    this.#flushes.pump();
    this.#wakeIdle();
    call.done(error);
  }

  #refused(done: StoreDone): boolean {
    const error = this.#failure.error ?? (this.#closed ? closedError(this.diskId) : null);
    if (error) answerLater(done, error);
    return error !== null;
  }

  #check(offset: number, length: number): void {
    if (this.#failure.error) throw this.#failure.error;
    if (this.#closed) throw closedError(this.diskId);
    this.#checkRange(offset, length);
  }

  /** The border checked it; a mistake inside must not become a write beside its place. */
  #checkRange(offset: number, length: number): void {
    const aligned = offset % blockBytes === 0 && length % blockBytes === 0;
    if (aligned && offset >= 0 && length > 0 && offset + length <= this.#endBytes) return;
    throw new StorError(
      'INVALID_ARGUMENT',
      `range ${offset}+${length} is not whole blocks inside replica ${this.replicaId} of ${this.#endBytes} bytes`,
    );
  }
}

function closedError(diskId: DiskId): StorError {
  return new StorError('ABORTED', `disk ${diskId} is closed`);
}

function answerLater(done: StoreDone, error: StorError): void {
  queueMicrotask(() => {
    done(error);
  });
}
