import path from 'node:path';
import { type DiskId, type ReplicaId, StorError } from '@stor/protocol';
import type { DirectoryLock, OpenFile } from '@stor/runtime';
import { SumsCache } from '../core/store/sums-cache.ts';
import type { LineageImage, StoreImage } from '../core/store/image.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import { LineageTables } from '../core/store/lineage-tables.ts';
import { ReplicaTables } from '../core/store/replica-tables.ts';
import type {
  CreateReplica,
  DiskStore,
  DiskUsage,
  ReplicaIdentity,
  ReplicaStore,
} from '../replica-store.ts';
import type { DiskIdentity } from './disk-identity.ts';
import { DiskProbe } from './disk-probe.ts';
import { DiskMembers, type Member, stopHome } from './disk-members.ts';
import type { DiskReplica } from './disk-replica.ts';
import type { ImageFiles } from './image-files.ts';
import { AnswerPace } from './answer-pace.ts';
import { IoPool } from './io-pool.ts';
import { Journal, maxRecordNumbers } from './journal.ts';
import type { OpenDiskStore } from './open-disk-store.ts';
import { newHead } from './disk-snapshots.ts';
import { openLineageFiles } from './lineage-directory.ts';
import {
  cloneOrigin,
  dropNewReplica,
  makeNewReplica,
  type NewReplicaFolders,
  type Origin,
} from './new-replica.ts';
import { closeLineageFiles, type Recovered } from './recovery.ts';
import { openRegions, publishDirectory, removeDirectoryOf } from './replica-directory.ts';
import { SpaceAccount } from './space-account.ts';

const defaultPooledCalls = 16;
const defaultSumsCacheSlots = 16_384;

export interface DirectoryDiskStoreParts {
  open: OpenDiskStore;
  identity: DiskIdentity;
  lock: DirectoryLock;
  imageFiles: ImageFiles;
  journals: [OpenFile, OpenFile];
  mountIdentity: string;
  recovered: Recovered;
}

/** A disk that is a directory; `openDiskStore` makes it. */
export class DirectoryDiskStore implements DiskStore {
  readonly diskId: DiskId;
  readonly path: string;

  readonly #parts: DirectoryDiskStoreParts;
  readonly #replicasPath: string;
  readonly #lineagesPath: string;
  /** those in `deleting` are shown to nobody */
  readonly #members: DiskMembers;
  readonly #byNumber = new Map<number, ReplicaTables>();
  /** on their way out: what they hold must stay whole until the journal has the deletion */
  readonly #deleting = new Map<ReplicaId, Promise<void>>();
  readonly #creating = new Map<ReplicaId, Promise<ReplicaStore>>();
  /** tables of replicas whose creation is on its way into the journal */
  readonly #newTables = new Map<number, ReplicaTables>();
  /** lineages by number, and those that the journal does not know yet */
  readonly #newLineages = new Map<number, LineageTables>();
  readonly #lineageTables = new Map<number, LineageTables>();
  readonly #deletingFolders = new Set<string>();
  readonly #journal: Journal;
  readonly #journalBytes: number;
  readonly #pool: IoPool;
  readonly #space: SpaceAccount;
  readonly #probe: DiskProbe;
  /** the files of a replica that are being made */
  #making: Promise<unknown> = Promise.resolve();
  #nextReplicaNumber: number;
  #nextLineageNumber: number;
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
    this.#lineagesPath = path.join(open.path, 'lineages');
    const pace = new AnswerPace(open.clock, options.isLaneShared ?? (() => false));
    this.#pool = new IoPool(options.maxPooledCalls ?? defaultPooledCalls, pace);
    this.#probe = new DiskProbe(open.files, open.path, this.#pool);
    this.#nextReplicaNumber = recovered.nextReplicaNumber;
    this.#nextLineageNumber = recovered.nextLineageNumber;
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
      usage: () => this.#members.slotUsage(),
    });
    this.#members = new DiskMembers({
      ...{ diskId: this.diskId, open, journal: this.#journal, pool: this.#pool },
      ...{
        space: this.#space,
        sumsCache: new SumsCache(options.sumsCacheSlots ?? defaultSumsCacheSlots),
      },
      maxRecordNumbers: maxRecordNumbers(this.#journalBytes),
      diskFailed: () => this.#failure !== null,
      recordFailure: (replicaId, reason) => {
        this.#recordFailure(replicaId, reason);
      },
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
    for (const one of recovered.lineages) {
      this.#lineageTables.set(one.tables.number, one.tables);
      const isWhole = one.damage === null;
      if (!isWhole) closeLineageFiles(one.files);
      // before anybody sees what the host may not have written
      else if (previous.suspect) one.tables.dropPending();
      this.#members.addHome(one.tables, isWhole ? one.files : null);
    }
    for (const one of recovered.replicas) {
      if (previous.suspect) one.tables.suspect = true;
      this.#byNumber.set(one.tables.number, one.tables);
      this.#members.addRecovered(one);
    }
    this.#members.noteEarlierFailures();
    if (previous.unclean) await this.#members.syncData();
    this.#members.checkSettled();
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
    for (const { janitor, lineage } of this.#members.homes.values()) {
      const members = this.#members.of(lineage.number);
      if (members.every(({ failure }) => failure.error === null)) lineage.supply.begin();
      janitor.kick();
    }
    const replicas = this.#members.all.size;
    const fields = { diskId: this.diskId, path: this.path, replicas, suspect: previous.suspect };
    open.logger.info(fields, 'disk is open');
  }

  /** Called when a record is durable: from then on every image must agree with it. */
  #apply(record: JournalRecord): void {
    if (record.type === 'slots' || record.type === 'layers') {
      this.#lineageTables.get(record.lineage)?.apply(record);
    } else if (record.type === 'create') {
      const tables = this.#newTables.get(record.replica);
      if (tables) this.#byNumber.set(record.replica, tables);
      const lineage = this.#newLineages.get(record.lineage);
      if (lineage) this.#lineageTables.set(record.lineage, lineage);
      this.#lineageTables.get(record.lineage)?.apply(record);
    } else if (record.type === 'delete') {
      this.#applyDelete(record);
    } else {
      this.#byNumber.get(record.replica)?.apply(record);
    }
  }

  #applyDelete(record: Extract<JournalRecord, { type: 'delete' }>): void {
    const number = this.#byNumber.get(record.replica)?.lineage ?? 0;
    this.#byNumber.delete(record.replica);
    const isLast = ![...this.#byNumber.values()].some((one) => one.lineage === number);
    const home = this.#members.homes.get(number);
    if (isLast) {
      this.#lineageTables.delete(number);
      if (home) this.#deletingFolders.add(home.lineage.folder);
    } else this.#lineageTables.get(number)?.apply(record);
  }

  replicas(): ReplicaStore[] {
    const all = [...this.#members.all.values()].map((member) => member.replica);
    return all.filter(({ replicaId }) => !this.#deleting.has(replicaId));
  }

  replica(id: ReplicaId): ReplicaStore | null {
    return this.#deleting.has(id) ? null : (this.#members.all.get(id)?.replica ?? null);
  }

  createReplica(identity: ReplicaIdentity, options: CreateReplica = {}): Promise<ReplicaStore> {
    const under = this.#creating.get(identity.replicaId);
    if (under) return under;
    const created = this.#create({ ...identity }, options).finally(() => {
      this.#creating.delete(identity.replicaId);
    });
    this.#creating.set(identity.replicaId, created);
    return created;
  }

  async #create(identity: ReplicaIdentity, options: CreateReplica): Promise<ReplicaStore> {
    this.#checkUsable();
    await this.#deleting.get(identity.replicaId);
    const existing = this.#members.all.get(identity.replicaId);
    if (existing) return existingReplica(existing.replica, identity);
    // hundreds may be wanted at once: one at a time, and the lane and the pool serve clients meanwhile
    const making = this.#making.then(() => this.#makeFiles(identity, options));
    this.#making = making.catch(() => {});
    const { tables, origin } = await making;
    return this.#recordCreation(tables, origin);
  }

  async #makeFiles(
    identity: ReplicaIdentity,
    options: CreateReplica,
  ): Promise<{ tables: ReplicaTables; origin: Origin }> {
    // closing waits for those that were taken
    if (this.#failure) throw this.#failure;
    const origin = this.#originOf(identity, options);
    const tables = new ReplicaTables(this.#nextReplicaNumber, origin.lineage, identity);
    this.#nextReplicaNumber += 1;
    await makeNewReplica(this.#folders, identity, origin, () => {
      this.#parts.imageFiles.reserve(this.#members.all.size + this.#creating.size);
    });
    return { tables, origin };
  }

  get #folders(): NewReplicaFolders {
    const { files, path } = this.#parts.open;
    const [replicas, lineages] = [this.#replicasPath, this.#lineagesPath];
    return { files, path, replicas, lineages, space: this.#space, pool: this.#pool };
  }

  #originOf(identity: ReplicaIdentity, { cloneOf }: CreateReplica): Origin {
    const isDeleting = (id: ReplicaId): boolean => this.#deleting.has(id);
    if (cloneOf) return cloneOrigin(this.#members, isDeleting, identity, cloneOf);
    const lineage = this.#nextLineageNumber;
    this.#nextLineageNumber += 1;
    const { files } = this.#parts.open;
    const taken = files.exists(path.join(this.#lineagesPath, identity.replicaId));
    const folder = taken ? `${identity.replicaId}.${lineage}` : identity.replicaId;
    return { lineage, folder, home: null, parent: () => 0 };
  }

  async #recordCreation(tables: ReplicaTables, origin: Origin): Promise<ReplicaStore> {
    const { number: replica, identity } = tables;
    const lineage = origin.home?.lineage.tables ?? new LineageTables(origin.lineage, origin.folder);
    let parent: number;
    try {
      parent = origin.parent();
    } catch (error) {
      dropNewReplica(this.#folders, identity, origin);
      throw error;
    }
    const place = lineage.freePlace();
    const head = newHead({ place, parent, replica, serial: lineage.nextSerial() });
    const { lineage: number, folder } = origin;
    const record = { type: 'create', replica, identity, lineage: number, folder, head } as const;
    this.#newTables.set(replica, tables);
    if (origin.home) origin.home.lineage.replicaCount += 1;
    else this.#newLineages.set(number, lineage);
    lineage.plan(record);
    const lsn = this.#journal.append(record);
    return new Promise((resolve, reject) => {
      // in the turn in which it is applied: a checkpoint must find its tables, or would let go of
      // a record that they do not hold
      this.#journal.whenDurable(lsn, (error) => {
        this.#newTables.delete(replica);
        this.#newLineages.delete(number);
        try {
          if (error) throw error;
          resolve(this.#openCreated(tables, origin));
        } catch (cause) {
          reject(cause instanceof Error ? cause : new Error(String(cause)));
        }
      });
    });
  }

  #openCreated(tables: ReplicaTables, origin: Origin): ReplicaStore {
    const { files } = this.#parts.open;
    const { identity } = tables;
    try {
      publishDirectory(files, this.#replicasPath, identity.replicaId);
      const regionFile = openRegions(files, this.#replicasPath, identity.replicaId);
      let { home } = origin;
      if (!home) {
        publishDirectory(files, this.#lineagesPath, origin.folder);
        const opened = openLineageFiles(files, this.#lineagesPath, origin.folder);
        const lineage = this.#lineageTables.get(origin.lineage);
        if (!lineage) throw new Error('its lineage is missing');
        home = this.#members.addHome(lineage, opened);
        home.lineage.replicaCount = 1;
      }
      const image = home.lineage.tables.openLive(tables.number, identity.sizeBytes);
      return this.#members.add(tables, home, image, regionFile).replica;
    } catch (error) {
      // the journal says that it exists; only the next opening can bring the names in line
      throw this.#failDisk('naming a replica', error);
    }
  }

  async deleteReplica(id: ReplicaId): Promise<void> {
    this.#checkUsable();
    await this.#creating.get(id)?.catch(() => {});
    const under = this.#deleting.get(id);
    if (under) return under;
    const member = this.#members.all.get(id);
    if (!member) return;
    const done = this.#delete(id, member).finally(() => {
      this.#deleting.delete(id);
    });
    this.#deleting.set(id, done);
    return done;
  }

  async #delete(id: ReplicaId, member: Member): Promise<void> {
    const { number } = member.replica.tables;
    const { home } = member;
    await member.replica.drain();
    const isLast = home.lineage.replicaCount === 1;
    if (isLast) await stopHome(home);
    home.lineage.replicaCount -= 1;
    const { files } = this.#parts.open;
    await this.#journal.durable(home.lineage.append({ type: 'delete', replica: number }));
    // not before: a checkpoint meanwhile releases the journal, so it must write these tables too
    this.#members.all.delete(id);
    if (isLast) this.#members.homes.delete(home.lineage.number);
    await this.#checkpoint;
    member.regionFile?.close();
    if (isLast) home.lineage.close();
    else home.janitor.kick();
    try {
      removeDirectoryOf(files, this.#replicasPath, id);
      if (isLast) removeDirectoryOf(files, this.#lineagesPath, home.lineage.folder);
    } catch (error) {
      // the journal says that it is gone; only the next opening can bring the names in line
      throw this.#failDisk('removing a replica', error);
    }
    this.#deletingFolders.delete(home.lineage.folder);
  }

  async usage(): Promise<DiskUsage> {
    this.#checkUsable();
    return this.#space.usage();
  }

  async probe(): Promise<void> {
    if (this.#failure || this.#closing) return;
    await this.#probe.run().catch((error: unknown) => {
      if (!this.#closing) throw this.#failDisk('probe', error);
    });
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

  #writeTables(): Promise<void> {
    return this.#members.writeTables(this.#journal.durableLsn);
  }

  async #writeImage(appliedLsn: number, cleanShutdown: boolean): Promise<void> {
    const image: Omit<StoreImage, 'serial'> = {
      appliedLsn,
      cleanShutdown,
      bootId: this.#parts.open.bootId,
      mountIdentity: this.#parts.mountIdentity,
      nextReplicaNumber: this.#nextReplicaNumber,
      nextLineageNumber: this.#nextLineageNumber,
      lineages: this.#lineageImages(),
      replicas: [...this.#byNumber.values()].map((tables) => tables.image()),
      deleting: [...this.#deleting.keys()],
      deletingFolders: [...this.#deletingFolders],
    };
    await this.#parts.imageFiles.write(image);
  }

  #lineageImages(): LineageImage[] {
    return [...this.#lineageTables.values()].map(({ number, folder, slots, layers }) => ({
      ...{ number, folder },
      slotPages: slots.pages.writtenCount(),
      layerPages: layers.pages.writtenCount(),
    }));
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
    for (const { failure } of this.#members.all.values()) failure.set(this.#failure);
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
    const members = [...this.#members.all.values()];
    await Promise.all(members.map(({ replica }) => replica.drain()));
    await Promise.all([...this.#members.homes.values()].map(stopHome));
    await this.#probe.over();
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
    this.#members.closeFiles();
    this.#probe.close();
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
