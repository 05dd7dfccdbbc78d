import path from 'node:path';
import { type DiskId, type ReplicaId, StorError } from '@stor/protocol';
import type { DirectoryLock, OpenFile } from '@stor/runtime';
import { HotBlocks, SumsCache } from '../core/store/block-cache.ts';
import type { StoreImage } from '../core/store/image.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import { ReplicaTables } from '../core/store/replica-tables.ts';
import { SlotAllocator } from '../core/store/slot-allocator.ts';
import type { DiskStore, DiskUsage, ReplicaIdentity, ReplicaStore } from '../replica-store.ts';
import type { DiskIdentity } from './disk-identity.ts';
import { DiskReplica } from './disk-replica.ts';
import type { ImageFiles } from './image-files.ts';
import { IoPool } from './io-pool.ts';
import { Journal, maxRecordNumbers } from './journal.ts';
import type { OpenDiskStore } from './open-disk-store.ts';
import type { Recovered, RecoveredReplica } from './recovery.ts';
import { ReplicaFailure } from './replica-failure.ts';
import {
  creatingSuffix,
  makeReplicaDirectory,
  openReplicaFiles,
  publishReplicaDirectory,
  removeReplicaDirectory,
} from './replica-directory.ts';
import { SlotFiles } from './slot-files.ts';
import { missingFiles, slotsOf } from './slot-inventory.ts';
import { SlotSupply } from './slot-supply.ts';
import { SpaceAccount } from './space-account.ts';
import { TableFiles } from './table-files.ts';

const defaultPooledCalls = 16;
const defaultSumsCacheSlots = 16_384;
const defaultHotRegions = 16_384;

export interface DirectoryDiskStoreParts {
  open: OpenDiskStore;
  identity: DiskIdentity;
  lock: DirectoryLock;
  imageFiles: ImageFiles;
  journals: [OpenFile, OpenFile];
  mountIdentity: string;
  recovered: Recovered;
}

interface Member {
  replica: DiskReplica;
  failure: ReplicaFailure;
  /** null when its files could not be opened or its metadata are damaged */
  tableFiles: TableFiles | null;
}

/** A disk that is a directory; `openDiskStore` makes it. */
export class DirectoryDiskStore implements DiskStore {
  readonly diskId: DiskId;
  readonly path: string;

  readonly #parts: DirectoryDiskStoreParts;
  readonly #replicasPath: string;
  /** until their deletion is durable; those in `deleting` are shown to nobody */
  readonly #members = new Map<ReplicaId, Member>();
  readonly #byNumber = new Map<number, ReplicaTables>();
  /** on their way out: what they hold must stay whole until the journal has the deletion */
  readonly #deleting = new Map<ReplicaId, Promise<void>>();
  readonly #creating = new Map<ReplicaId, Promise<ReplicaStore>>();
  /** tables of replicas whose creation is on its way into the journal */
  readonly #newTables = new Map<number, ReplicaTables>();
  readonly #journal: Journal;
  readonly #journalBytes: number;
  readonly #pool: IoPool;
  readonly #sumsCache: SumsCache;
  readonly #space: SpaceAccount;
  #nextReplicaNumber: number;
  #failure: StorError | null = null;
  #checkpoint: Promise<void> | null = null;
  #checkpointWanted = false;
  #closing: Promise<void> | null = null;

  constructor(parts: DirectoryDiskStoreParts) {
    const { open, recovered } = parts;
    const options = open.options ?? {};
    this.#parts = parts;
    this.diskId = parts.identity.diskId;
    this.path = open.path;
    this.#replicasPath = path.join(open.path, 'replicas');
    this.#pool = new IoPool(options.maxPooledCalls ?? defaultPooledCalls);
    this.#sumsCache = new SumsCache(options.sumsCacheSlots ?? defaultSumsCacheSlots);
    this.#nextReplicaNumber = recovered.nextReplicaNumber;
    this.#journalBytes = Math.min(...parts.journals.map((file) => file.size().sizeBytes));
    this.#journal = new Journal({
      files: parts.journals,
      fileBytes: this.#journalBytes,
      generation: recovered.journalGeneration + 1,
      nextLsn: recovered.lastLsn + 1,
      apply: (record) => {
        this.#apply(record);
      },
      fail: (cause) => this.#failDisk('journal', cause),
      filled: () => {
        this.#startCheckpoint();
      },
    });
    this.#space = new SpaceAccount({
      files: open.files,
      directory: open.path,
      clock: open.clock,
      reserveBytes: options.reserveBytes ?? null,
      usage: () => this.#slotUsage(),
    });
  }

  get failure(): StorError | null {
    return this.#failure;
  }

  /**
   * Makes durable what was recovered, notes that the disk is in use, and only then lets writes
   * begin: a record found in the page cache after kill -9 may not have been on disk.
   */
  async begin(previous: { suspect: boolean; unclean: boolean }): Promise<void> {
    const { recovered, open } = this.#parts;
    for (const one of recovered.replicas) {
      if (previous.suspect) one.tables.suspect = true;
      this.#byNumber.set(one.tables.number, one.tables);
      this.#addRecovered(one);
    }
    this.#noteEarlierFailures();
    if (previous.unclean) await this.#syncAllData();
    try {
      await this.#writeTables();
      await this.#writeImage(recovered.lastLsn, false);
      Journal.prepare(
        this.#parts.journals[0],
        recovered.journalGeneration + 1,
        recovered.lastLsn + 1,
      );
    } catch (error) {
      throw this.#failDisk('opening', error);
    }
    const replicas = this.#members.size;
    const fields = { diskId: this.diskId, path: this.path, replicas, suspect: previous.suspect };
    open.logger.info(fields, 'disk is open');
  }

  #addRecovered(one: RecoveredReplica): void {
    const { identity } = one.tables;
    let { damage } = one;
    let files: { data: OpenFile; sums: OpenFile } | null = null;
    try {
      files = openReplicaFiles(this.#parts.open.files, this.#replicasPath, identity.replicaId);
    } catch (error) {
      damage ??= error instanceof Error ? error.message : String(error);
    }
    const healthy = damage === null ? one.tableFiles : null;
    if (!healthy) one.tableFiles?.close();
    const member = this.#addMember(one.tables, files, healthy);
    if (damage === null) return;
    one.tables.damage = damage;
    this.#recordFailure(identity.replicaId, `metadata cannot be trusted: ${damage}`);
    member.failure.set(
      new StorError(
        'DISK_FAILED',
        `replica ${identity.replicaId} on disk ${this.diskId}: ${damage}; it must be rebuilt`,
      ),
    );
  }

  #addMember(
    tables: ReplicaTables,
    files: { data: OpenFile; sums: OpenFile } | null,
    tableFiles: TableFiles | null,
  ): Member {
    const { open } = this.#parts;
    const { replicaId } = tables.identity;
    const failure = new ReplicaFailure(replicaId, this.diskId, (reason) => {
      this.#recordFailure(replicaId, reason);
    });
    const slots = new SlotFiles(files ?? missingFiles, tables.number, this.#sumsCache, this.#pool);
    const supply = new SlotSupply({
      slots: files ? slotsOf(tables, files) : new SlotAllocator(0, []),
      files: slots,
      space: this.#space,
      maxSlots: tables.chunkCount,
      failed: (cause) => {
        failure.write(cause);
      },
    });
    const hotRegions = open.options?.hotRegions ?? defaultHotRegions;
    const replica = new DiskReplica({
      diskId: this.diskId,
      tables,
      slots,
      supply,
      space: this.#space,
      journal: this.#journal,
      hot: new HotBlocks(tables.regionCount, hotRegions),
      clock: open.clock,
      maxRecordNumbers: maxRecordNumbers(this.#journalBytes),
      failure,
    });
    const member = { replica, failure, tableFiles };
    this.#members.set(replicaId, member);
    return member;
  }

  #noteEarlierFailures(): void {
    for (const { replicaId, reason } of this.#parts.open.failures.failuresOf(this.diskId)) {
      const member = replicaId === null ? undefined : this.#members.get(replicaId);
      member?.failure.set(
        new StorError(
          'DISK_FAILED',
          `replica ${replicaId ?? ''} on disk ${this.diskId} failed earlier: ${reason}; it must be rebuilt`,
        ),
      );
    }
  }

  /** After an unclean stop the page cache may hold what could not be written: ask now. */
  async #syncAllData(): Promise<void> {
    for (const { replica } of this.#members.values()) {
      if (replica.failure) continue;
      replica.slotFiles.dirty = true;
      // a failure is recorded and stays with the replica
      await replica.finalSync().catch(() => {});
    }
  }

  /** Called when a record is durable: from then on every image must agree with it. */
  #apply(record: JournalRecord): void {
    if (record.type === 'create') {
      const tables = this.#newTables.get(record.replica);
      if (tables) this.#byNumber.set(record.replica, tables);
    } else if (record.type === 'delete') {
      this.#byNumber.delete(record.replica);
    } else {
      this.#byNumber.get(record.replica)?.apply(record);
    }
  }

  replicas(): ReplicaStore[] {
    const all = [...this.#members.values()].map((member) => member.replica);
    return all.filter(({ replicaId }) => !this.#deleting.has(replicaId));
  }

  replica(id: ReplicaId): ReplicaStore | null {
    return this.#deleting.has(id) ? null : (this.#members.get(id)?.replica ?? null);
  }

  createReplica(identity: ReplicaIdentity): Promise<ReplicaStore> {
    const under = this.#creating.get(identity.replicaId);
    if (under) return under;
    const created = this.#create({ ...identity }).finally(() => {
      this.#creating.delete(identity.replicaId);
    });
    this.#creating.set(identity.replicaId, created);
    return created;
  }

  async #create(identity: ReplicaIdentity): Promise<ReplicaStore> {
    this.#checkUsable();
    await this.#deleting.get(identity.replicaId);
    const existing = this.#members.get(identity.replicaId);
    if (existing) return existingReplica(existing.replica, identity);
    const { files } = this.#parts.open;
    const tables = new ReplicaTables(this.#nextReplicaNumber, identity);
    this.#nextReplicaNumber += 1;
    removeReplicaDirectory(files, this.#replicasPath, identity.replicaId + creatingSuffix);
    if (files.exists(path.join(this.#replicasPath, identity.replicaId))) {
      throw new StorError(
        'ALREADY_EXISTS',
        `disk ${this.path} holds a folder of replica ${identity.replicaId} that its metadata do not know: move it away first`,
      );
    }
    try {
      const pages = tables.pages.map.dirty.length + tables.pages.regions.dirty.length;
      if (!this.#space.takeBytes(pages * 8192)) throw new StorError('NO_SPACE', 'no room');
      this.#parts.imageFiles.reserve(this.#members.size + this.#creating.size);
      makeReplicaDirectory(files, this.#replicasPath, tables);
    } catch (error) {
      removeReplicaDirectory(files, this.#replicasPath, identity.replicaId + creatingSuffix);
      throw this.#creationError(identity, error);
    }
    this.#newTables.set(tables.number, tables);
    await this.#journal.durable(
      this.#journal.append({ type: 'create', replica: tables.number, identity }),
    );
    this.#newTables.delete(tables.number);
    try {
      publishReplicaDirectory(files, this.#replicasPath, identity.replicaId);
      const opened = openReplicaFiles(files, this.#replicasPath, identity.replicaId);
      const own = path.join(this.#replicasPath, identity.replicaId);
      return this.#addMember(tables, opened, TableFiles.open(files, own)).replica;
    } catch (error) {
      // the journal says that it exists; only the next opening can bring the names in line
      throw this.#failDisk('naming a replica', error);
    }
  }

  #creationError(identity: ReplicaIdentity, error: unknown): StorError {
    const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
    if (code !== 'ENOSPC' && code !== 'NO_SPACE') {
      const reason = error instanceof Error ? error.message : String(error);
      const what = `disk ${this.path}: replica ${identity.replicaId} cannot be created: ${reason}`;
      return new StorError('DISK_FAILED', what, { cause: error });
    }
    return new StorError(
      'NO_SPACE',
      `disk ${this.path} has no room for replica ${identity.replicaId}: free space on it or use another disk`,
      { cause: error },
    );
  }

  async deleteReplica(id: ReplicaId): Promise<void> {
    this.#checkUsable();
    await this.#creating.get(id)?.catch(() => {});
    const under = this.#deleting.get(id);
    if (under) return under;
    const member = this.#members.get(id);
    if (!member) return;
    const done = this.#delete(id, member).finally(() => {
      this.#deleting.delete(id);
    });
    this.#deleting.set(id, done);
    return done;
  }

  async #delete(id: ReplicaId, member: Member): Promise<void> {
    const { number } = member.replica.tables;
    await member.replica.drain();
    await this.#journal.durable(this.#journal.append({ type: 'delete', replica: number }));
    // not before: a checkpoint meanwhile releases the journal, so it must write these tables too
    this.#members.delete(id);
    await this.#checkpoint;
    member.replica.slotFiles.close();
    member.tableFiles?.close();
    removeReplicaDirectory(this.#parts.open.files, this.#replicasPath, id);
  }

  async usage(): Promise<DiskUsage> {
    this.#checkUsable();
    return this.#space.usage();
  }

  *#slotUsage(): Iterable<{ highWater: number; allocatedBytes: number }> {
    for (const { replica } of this.#members.values()) {
      const { data, sums } = replica.slotFiles;
      const allocatedBytes = data.size().allocatedBytes + sums.size().allocatedBytes;
      yield { highWater: replica.highWater, allocatedBytes };
    }
  }

  /** One at a time; a full journal file that one does not cover asks for another. */
  #startCheckpoint(): void {
    this.#checkpointWanted = true;
    if (this.#checkpoint || this.#failure) return;
    this.#checkpoint = this.#checkpointLoop().finally(() => {
      this.#checkpoint = null;
    });
  }

  async #checkpointLoop(): Promise<void> {
    while (this.#checkpointWanted && !this.#failure) {
      this.#checkpointWanted = false;
      const lsn = this.#journal.durableLsn;
      try {
        await this.#writeTables();
        await this.#writeImage(lsn, false);
      } catch (error) {
        this.#failDisk('checkpoint', error);
        return;
      }
      if (!this.#journal.release(lsn)) this.#checkpointWanted = true;
    }
  }

  /** Tables hold only what the journal has made durable, so their pages never run ahead of it. */
  async #writeTables(): Promise<void> {
    const lsn = this.#journal.durableLsn;
    for (const { replica, tableFiles } of [...this.#members.values()]) {
      await tableFiles?.writeDirty(replica.tables, lsn, this.#pool);
    }
  }

  async #writeImage(appliedLsn: number, cleanShutdown: boolean): Promise<void> {
    const image: Omit<StoreImage, 'serial'> = {
      appliedLsn,
      cleanShutdown,
      bootId: this.#parts.open.bootId,
      mountIdentity: this.#parts.mountIdentity,
      nextReplicaNumber: this.#nextReplicaNumber,
      replicas: [...this.#byNumber.values()].map((tables) => tables.image()),
      deleting: [...this.#deleting.keys()],
    };
    await this.#parts.imageFiles.write(image);
  }

  #recordFailure(replicaId: ReplicaId | null, reason: string): void {
    this.#parts.open.failures.record({ diskId: this.diskId, replicaId, reason });
    this.#parts.open.logger.error({ diskId: this.diskId, replicaId, reason }, 'failed for good');
  }

  #failDisk(what: string, cause: unknown): StorError {
    if (this.#failure) return this.#failure;
    const reason = `${what} failed: ${cause instanceof Error ? cause.message : String(cause)}`;
    this.#recordFailure(null, reason);
    this.#failure = new StorError(
      'DISK_FAILED',
      `disk ${this.path} (${this.diskId}): ${reason}; its replicas must be rebuilt elsewhere`,
      { cause },
    );
    for (const { failure } of this.#members.values()) failure.set(this.#failure);
    this.#journal.abandon(this.#failure);
    return this.#failure;
  }

  #checkUsable(): void {
    if (this.#failure) throw this.#failure;
    if (this.#closing) throw new StorError('ABORTED', `disk ${this.diskId} is closed`);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.allSettled([...this.#creating.values(), ...this.#deleting.values()]);
    const members = [...this.#members.values()];
    await Promise.all(members.map(({ replica }) => replica.drain()));
    for (const { replica } of members) {
      // a failure is recorded and stays with the replica
      if (replica.failure?.code !== 'DISK_FAILED') await replica.finalSync().catch(() => {});
    }
    await this.#checkpoint;
    try {
      if (!this.#failure) {
        await this.#writeTables();
        await this.#writeImage(this.#journal.durableLsn, true);
      }
    } catch (error) {
      this.#failDisk('closing checkpoint', error);
    }
    this.closeFiles();
    await this.#parts.lock.release();
  }

  /** Nothing may be under way. */
  closeFiles(): void {
    for (const { replica, tableFiles } of this.#members.values()) {
      replica.slotFiles.close();
      tableFiles?.close();
    }
    for (const file of this.#parts.journals) file.close();
    this.#parts.imageFiles.close();
  }
}

function existingReplica(replica: DiskReplica, identity: ReplicaIdentity): ReplicaStore {
  const same =
    replica.volumeId === identity.volumeId &&
    replica.segment === identity.segment &&
    replica.sizeBytes === identity.sizeBytes;
  const untouched =
    replica.allocatedBytes === 0 && replica.highestEpoch === 0 && replica.failure === null;
  if (same && untouched) return replica;
  throw new StorError(
    'ALREADY_EXISTS',
    `replica ${identity.replicaId} exists already on disk ${replica.diskId} and is in use`,
  );
}
