import {
  blockBytes,
  chunkBytes,
  type DiskId,
  regionBytes,
  type ReplicaId,
  type SnapshotId,
  StorError,
  type VolumeId,
} from '@stor/protocol';
import type { Clock, Files } from '@stor/runtime';
import type { Extent } from '../block-device.ts';
import type { Bitmap } from '../core/replication/bitmap.ts';
import type { HotBlocks } from '../core/store/block-cache.ts';
import { extentsOf, type LayerImage } from '../core/store/layer-image.ts';
import type { LineageTables } from '../core/store/lineage-tables.ts';
import type { Promised, RoomPromise } from '../core/store/space-ledger.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import type { ReplicaSnapshot, ReplicaSpace, ReplicaView } from '../replica-snapshots.ts';
import {
  blockVerifies,
  type Generation,
  type GenerationHistory,
  type ReplicaStore,
  type SetView,
  type StoreDone,
} from '../replica-store.ts';
import { DiskSnapshots } from './disk-snapshots.ts';
import { FlushQueue } from './flush-queue.ts';
import { ImageCalls, inlineBytes } from './image-calls.ts';
import { InlineIo } from './inline-io.ts';
import type { IoPool } from './io-pool.ts';
import type { Journal } from './journal.ts';
import { ReplicaFacts } from './replica-facts.ts';
import type { LayerJanitor } from './layer-janitor.ts';
import { layerOf, type Lineage } from './lineage.ts';
import { answerLater, ReplicaCalls } from './replica-calls.ts';
import type { ReplicaFailure } from './replica-failure.ts';
import { SmallReads } from './small-reads.ts';
import type { SpaceAccount } from './space-account.ts';
import type { TableFile } from './table-file.ts';

export interface DiskReplicaParts {
  diskId: DiskId;
  tables: ReplicaTables;
  lineage: Lineage;
  image: LayerImage;
  janitor: LayerJanitor;
  /** null when the replica has failed */
  regionFile: TableFile | null;
  pool: IoPool;
  space: SpaceAccount;
  journal: Journal;
  hot: HotBlocks;
  clock: Clock;
  files: Files;
  maxRecordNumbers: number;
  failure: ReplicaFailure;
}

/** A replica on this disk: inline paths here, everything else ordered and given to `ImageCalls`. */
export class DiskReplica implements ReplicaStore {
  readonly diskId: DiskId;
  readonly replicaId: ReplicaId;
  readonly volumeId: VolumeId;
  readonly segment: number;

  readonly #parts: DiskReplicaParts;
  readonly #tables: ReplicaTables;
  readonly #lineage: LineageTables;
  readonly #image: LayerImage;
  readonly #journal: Journal;
  readonly #inline: InlineIo;
  readonly #calls: ReplicaCalls;
  readonly #slow: ImageCalls;
  readonly #small: SmallReads;
  readonly #snapshots: DiskSnapshots;
  readonly #flushes: FlushQueue;
  #endBytes: number;
  readonly #failure: ReplicaFailure;
  readonly #facts: ReplicaFacts;
  /** room kept for the writer there is */
  #promised: Promised | null = null;

  constructor(given: DiskReplicaParts) {
    const slotsUsed = (count: number): void => this.#promised?.use(count);
    const parts = { ...given, slotsUsed };
    const { identity } = parts.tables;
    this.diskId = parts.diskId;
    this.replicaId = identity.replicaId;
    this.volumeId = identity.volumeId;
    this.segment = identity.segment;
    this.#parts = parts;
    this.#tables = parts.tables;
    this.#lineage = parts.lineage.tables;
    this.#image = parts.image;
    this.#journal = parts.journal;
    this.#endBytes = endOf(identity.sizeBytes);
    this.#slow = new ImageCalls(parts);
    this.#inline = new InlineIo({
      ...{ tables: parts.tables, image: parts.image, hot: parts.hot, clock: parts.clock },
      files: parts.files,
      ...{ slotTable: parts.lineage.tables.slots, slots: parts.lineage.slots },
    });
    this.#failure = parts.failure;
    this.#calls = new ReplicaCalls({
      ...{ diskId: parts.diskId, failure: parts.failure },
      ended: () => {
        this.#flushes.pump();
      },
    });
    this.#small = new SmallReads({
      ...{ lineage: parts.lineage, image: parts.image, hot: parts.hot },
      ...{ calls: this.#calls, failure: parts.failure },
      readAll: (offset, length, target, start) => this.#readAll(offset, length, target, start),
    });
    this.#snapshots = new DiskSnapshots({
      ...{ calls: parts, live: parts.image, janitor: parts.janitor, failure: parts.failure },
      answer: answerLater,
    });
    parts.tables.resized = (sizeBytes) => {
      parts.image.grow(sizeBytes);
      parts.hot.grow(parts.tables.regionCount);
      this.#endBytes = endOf(sizeBytes);
    };
    this.#facts = new ReplicaFacts({
      tables: parts.tables,
      ensureRegions: async (pages) => {
        await parts.regionFile?.ensure(pages, parts.pool);
      },
      maxRecordNumbers: parts.maxRecordNumbers,
      append: (record, done) => {
        this.#append(record, done);
      },
      answer: answerLater,
      busy: (region) =>
        this.#calls.order.blocks(region * regionBytes, (region + 1) * regionBytes, false),
      flushCut: (cut, done) => {
        if (this.#flushes.syncedCut < cut) this.flush(done);
        else done(this.#failure.error);
      },
    });
    this.#flushes = new FlushQueue({
      lastCallId: () => this.#calls.order.lastId,
      oldestWriteId: () => this.#calls.order.oldestWrite(),
      cut: () => this.#tables.cut,
      sync: () => this.#sync(),
    });
  }

  get sizeBytes(): number {
    return this.#tables.identity.sizeBytes;
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
    return this.#image.allocatedChunks * chunkBytes;
  }

  get markedCount(): number {
    return this.#tables.markedCount;
  }

  /** What the disk store needs of it. */
  get tables(): ReplicaTables {
    return this.#tables;
  }

  get lineage(): Lineage {
    return this.#parts.lineage;
  }

  get image(): LayerImage {
    return this.#image;
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
    if (this.#calls.order.size > 0 && this.#calls.order.blocks(offset, offset + length, true))
      return false;
    try {
      const isDone = this.#inline.write(offset, length, bytes, start, sums, sumsStart);
      if (isDone) this.#parts.pool.servedInline();
      return isDone;
    } catch (error) {
      throw this.#failure.write(error);
    }
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
    if (this.#failure.error || this.#calls.closed || length > inlineBytes) return false;
    this.#checkRange(offset, length);
    if (this.#calls.order.size > 0 && this.#calls.order.blocks(offset, offset + length, false))
      return false;
    const isDone = this.#inline.read(offset, length, target, start);
    if (isDone) this.#parts.pool.servedInline();
    return isDone;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    this.#checkRange(offset, length);
    const lastByte = offset + length - 1;
    if (Math.floor(offset / chunkBytes) === Math.floor(lastByte / chunkBytes)) {
      this.#small.submit(offset, length, target, start, done);
      return;
    }
    this.#calls.submit(offset, offset + length, false, done, () =>
      this.#readAll(offset, length, target, start),
    );
  }

  async #readAll(offset: number, length: number, target: Uint8Array, start: number): Promise<void> {
    const valid = new Uint8Array(length / blockBytes);
    await this.#slow.read(offset, length, target, start, valid);
    const bad = valid.findIndex((state) => state !== blockVerifies);
    if (bad < 0) return;
    const at = offset + bad * blockBytes;
    throw new StorError(
      'CHECKSUM_MISMATCH',
      `block at byte ${at} of replica ${this.replicaId} on disk ${this.diskId} does not match its checksum`,
      { details: { offset: String(at) } },
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
    this.#submit(offset, length, false, done, () =>
      this.#slow.read(offset, length, target, start, valid, true),
    );
  }

  flush(done: StoreDone): void {
    if (this.#calls.refused(done)) return;
    this.#flushes.add(this.#calls.counted(done));
  }

  async #sync(): Promise<void> {
    try {
      const results = await Promise.allSettled([
        this.#parts.lineage.sync(),
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
    return extentsOf(this.#image, offset, length, limit);
  }

  isAllocated(chunk: number): boolean {
    return this.#image.slotOf.get(chunk) > 0;
  }

  nextAllocated(from: number): number {
    return this.#image.nextAllocated(from);
  }

  ownsChunk(chunk: number): boolean {
    const slotPlusOne = this.#image.slotOf.get(chunk);
    if (slotPlusOne <= 0) return false;
    const layer = layerOf(this.#lineage.slots.words[slotPlusOne - 1] ?? 0);
    return layer === this.#image.top || this.#image.exclusive.has(layer);
  }

  freeChunks(): number {
    const { space, lineage } = this.#parts;
    return Math.max(0, space.ledger.unpromised(lineage.supply) + (this.#promised?.held ?? 0));
  }

  promiseRoom(isOpen: () => boolean): RoomPromise {
    this.#promised?.lower(0);
    const { space, lineage } = this.#parts;
    this.#promised = space.ledger.open(lineage.supply, isOpen);
    return this.#promised;
  }

  fence(epoch: number, done: StoreDone): void {
    this.#returnIfRoom();
    if (!this.#calls.refused(done)) this.#facts.fence(epoch, done);
  }

  recordSetView(view: SetView, done: StoreDone): void {
    if (!this.#calls.refused(done)) this.#facts.recordSetView(view, done);
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
    if (!this.#calls.refused(done)) this.#facts.retireMarks(generation, done);
  }

  adoptGeneration(
    generation: Generation,
    history: GenerationHistory | null,
    done: StoreDone,
  ): void {
    if (!this.#calls.refused(done)) this.#facts.adoptGeneration(generation, history, done);
  }

  history(): GenerationHistory {
    return this.#tables.history();
  }

  snapshots(): ReplicaSnapshot[] {
    return this.#snapshots.list();
  }

  get headParent(): SnapshotId | null {
    return this.#snapshots.headParent;
  }

  /** In order with all writes; reads go on. */
  takeSnapshot(
    id: SnapshotId,
    epoch: number,
    kind: 'prepared' | 'incomplete',
    done: StoreDone,
  ): void {
    this.#calls.submitWhole(false, done, () => this.#snapshots.take(id, epoch, kind));
  }

  confirmSnapshot(id: SnapshotId, done: StoreDone, sizeBytes?: number): void {
    this.flush((error) => {
      if (error) done(error);
      else this.#calls.answer(this.#snapshots.confirm(id, sizeBytes), done);
    });
  }

  dropSnapshot(id: SnapshotId, done: StoreDone): void {
    if (this.#calls.refused(done, true)) return;
    // the freed slots are to be emptied, also when that had found no room before
    if (this.#failure.isFull) this.#parts.lineage.supply.resume();
    this.#calls.answer(this.#snapshots.drop(id), done, true);
  }

  rollback(id: SnapshotId, done: StoreDone): void {
    this.#calls.submitWhole(true, done, () =>
      this.#snapshots.rollback(id, () => {
        this.#parts.hot.clear();
      }),
    );
  }

  changedChunks(from: SnapshotId | null, to: SnapshotId | null): Bitmap | null {
    return this.#snapshots.changedChunks(from, to);
  }

  view(id: SnapshotId): ReplicaView | null {
    return this.#snapshots.view(id);
  }

  resize(sizeBytes: number, done: StoreDone): void {
    if (!this.#calls.refused(done)) this.#calls.answer(this.#facts.resize(sizeBytes), done);
  }

  space(): ReplicaSpace {
    return this.#snapshots.space();
  }

  /**
   * A write that found the file system full failed the replica; nothing else of it was lost, and
   * the write is somebody's who makes replicas equal before this one counts again (I3). So a new
   * primary, or the same one opening it again, gets a replica that takes calls, once what it has
   * promised fits again; for more chunks it has no room then, and says so (`freeChunks`).
   */
  #returnIfRoom(): void {
    if (!this.#failure.isFull || !this.#calls.idle) return;
    if (!this.#parts.space.keepsItsPromises()) return;
    this.#failure.endLackOfSpace();
    this.#parts.lineage.supply.resume();
  }

  /** Refuses calls from now on and waits for those under way. */
  async drain(): Promise<void> {
    await this.#calls.drain();
    await this.#snapshots.drain();
    await this.#flushes.idle();
  }

  /** The last sync of a closing or deleted replica. */
  finalSync(): Promise<void> {
    return this.#sync();
  }

  #append(record: JournalRecord, done: StoreDone | null): void {
    const lsn = this.#journal.append(record);
    if (!done) return;
    this.#journal.whenDurable(lsn, this.#calls.counted(done));
  }

  #submit(
    offset: number,
    length: number,
    writes: boolean,
    done: StoreDone,
    run: () => Promise<void>,
  ): void {
    this.#checkRange(offset, length);
    this.#calls.submit(offset, offset + length, writes, done, run);
  }

  #check(offset: number, length: number): void {
    if (this.#failure.error) throw this.#failure.error;
    if (this.#calls.closed) throw this.#calls.closedError();
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

/** A size that is no multiple of a block is rounded up to one. */
function endOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / blockBytes) * blockBytes;
}
