import path from 'node:path';
import { StorError } from '@stor/protocol';
import { crc32, type Files, type Logger, type OpenFile } from '@stor/runtime';
import type { LineageImage, ReplicaImage, StoreImage } from '../core/store/image.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import { replayJournal } from '../core/store/journal-frame.ts';
import { LineageTables } from '../core/store/lineage-tables.ts';
import { ReplicaTables } from '../core/store/replica-tables.ts';
import { readWhole } from './image-files.ts';
import { type LineageFiles, openLineageFiles } from './lineage-directory.ts';
import {
  creatingSuffix,
  deletedSuffix,
  finishCreation,
  openRegions,
  removeDirectoryOf,
} from './replica-directory.ts';
import type { TableFile } from './table-file.ts';

export interface RecoveredReplica {
  tables: ReplicaTables;
  regionFile: TableFile | null;
  /** why its metadata cannot be trusted; null when all is well */
  damage: string | null;
}

export interface RecoveredLineage {
  tables: LineageTables;
  files: LineageFiles | null;
  damage: string | null;
}

export interface Recovered {
  replicas: RecoveredReplica[];
  lineages: RecoveredLineage[];
  lastLsn: number;
  journalGeneration: number;
  nextReplicaNumber: number;
  nextLineageNumber: number;
}

interface Folders {
  files: Files;
  replicas: string;
  lineages: string;
}

/**
 * Rebuilds what the journal had made durable: tables and image as of the last checkpoint, then every
 * record since. Records say what is, so replay over newer pages ends in the same state.
 */
export function recover(
  files: Files,
  directory: string,
  image: StoreImage,
  journals: readonly OpenFile[],
  logger: Logger,
): Recovered {
  const folders = {
    ...{ files, replicas: path.join(directory, 'replicas') },
    lineages: path.join(directory, 'lineages'),
  };
  const recovery = new Recovery(folders, image);
  try {
    return recovery.run(journals, logger);
  } catch (error) {
    recovery.close();
    throw error;
  }
}

/** Which replicas and lineages are there in the end: what is not is not even loaded. */
class Survivors {
  readonly deletedReplicas = new Set<number>();
  readonly #lineageOf = new Map<number, number>();
  readonly #lineages = new Set<number>();

  constructor(image: StoreImage, records: readonly JournalRecord[]) {
    for (const { number, lineage } of image.replicas) this.#lineageOf.set(number, lineage);
    for (const record of records) {
      if (record.type === 'create') this.#lineageOf.set(record.replica, record.lineage);
      if (record.type === 'delete') this.deletedReplicas.add(record.replica);
    }
    for (const [replica, lineage] of this.#lineageOf) {
      if (!this.deletedReplicas.has(replica)) this.#lineages.add(lineage);
    }
  }

  hasLineage(number: number): boolean {
    return this.#lineages.has(number);
  }
}

class Recovery {
  readonly #folders: Folders;
  readonly #image: StoreImage;
  readonly #replicas = new Map<number, RecoveredReplica>();
  readonly #lineages = new Map<number, RecoveredLineage>();
  /** created and deleted again by records */
  readonly #gone = new Set<number>();
  readonly #deletedIds: Set<string>;
  readonly #deletedFolders: Set<string>;

  constructor(folders: Folders, image: StoreImage) {
    this.#folders = folders;
    this.#image = image;
    this.#deletedIds = new Set(image.deleting);
    this.#deletedFolders = new Set(image.deletingFolders);
  }

  run(journals: readonly OpenFile[], logger: Logger): Recovered {
    const replay = replayJournal(journals.map(readWhole), this.#image.appliedLsn, crc32);
    if (replay.damage) {
      logger.error({ damage: replay.damage, of: this.#folders.replicas }, 'the journal is damaged');
    }
    const survivors = new Survivors(this.#image, replay.records);
    this.#load(survivors);
    let { nextReplicaNumber, nextLineageNumber } = this.#image;
    for (const record of replay.records) {
      if (record.type === 'create') {
        nextReplicaNumber = Math.max(nextReplicaNumber, record.replica + 1);
        nextLineageNumber = Math.max(nextLineageNumber, record.lineage + 1);
      }
      this.#apply(record, survivors, replay.damage);
    }
    this.#judge(replay.damage);
    this.#tidy(logger);
    return {
      replicas: [...this.#replicas.values()],
      lineages: [...this.#lineages.values()],
      lastLsn: replay.lastLsn,
      journalGeneration: replay.generation,
      nextReplicaNumber,
      nextLineageNumber,
    };
  }

  #load(survivors: Survivors): void {
    for (const one of this.#image.lineages) {
      if (survivors.hasLineage(one.number)) this.#lineages.set(one.number, this.#loadLineage(one));
      else this.#deletedFolders.add(one.folder);
    }
    for (const one of this.#image.replicas) {
      if (survivors.deletedReplicas.has(one.number)) this.#deletedIds.add(one.identity.replicaId);
      else this.#replicas.set(one.number, this.#loadReplica(one));
    }
  }

  #loadLineage(image: LineageImage): RecoveredLineage {
    const opened = this.#openLineage(image.number, image.folder);
    try {
      opened.files?.slots.load(opened.tables.slots, image.slotPages);
      opened.files?.layers.load(opened.tables.layers, image.layerPages);
      opened.tables.recount();
    } catch (error) {
      opened.damage ??= messageOf(error);
    }
    return opened;
  }

  #openLineage(number: number, folder: string): RecoveredLineage {
    const tables = new LineageTables(number, folder);
    const { files, lineages } = this.#folders;
    try {
      finishCreation(files, lineages, folder);
      return { tables, files: openLineageFiles(files, lineages, folder), damage: null };
    } catch (error) {
      return { tables, files: null, damage: messageOf(error) };
    }
  }

  #loadReplica(image: ReplicaImage): RecoveredReplica {
    const tables = new ReplicaTables(image.number, image.lineage, image.identity);
    tables.loadImage(image);
    const opened = this.#openReplica(tables);
    try {
      opened.regionFile?.load(tables, image.regionPages);
    } catch (error) {
      opened.damage ??= messageOf(error);
    }
    opened.damage = image.damage ?? opened.damage;
    return opened;
  }

  #openReplica(tables: ReplicaTables): RecoveredReplica {
    const { files, replicas } = this.#folders;
    const { replicaId } = tables.identity;
    try {
      finishCreation(files, replicas, replicaId);
      return { tables, regionFile: openRegions(files, replicas, replicaId), damage: null };
    } catch (error) {
      return { tables, regionFile: null, damage: messageOf(error) };
    }
  }

  #apply(record: JournalRecord, survivors: Survivors, damage: string | null): void {
    if (record.type === 'create') this.#create(record, survivors);
    else if (record.type === 'slots' || record.type === 'layers') {
      const lineage = this.#lineages.get(record.lineage);
      if (lineage) lineage.tables.apply(record);
      else if (!this.#isGone(record.lineage, survivors)) this.#unknown(record.lineage, damage);
    } else if (record.type === 'delete') {
      // the image may not know any more where the replica was
      for (const { tables } of this.#lineages.values()) tables.apply(record);
    } else if (!survivors.deletedReplicas.has(record.replica)) {
      const replica = this.#replicas.get(record.replica);
      if (replica) replica.tables.apply(record);
      else this.#unknown(record.replica, damage);
    }
  }

  /** A lineage that went with its last replica; records of it mean nothing any more. */
  #isGone(number: number, survivors: Survivors): boolean {
    const isOfImage = this.#image.lineages.some((one) => one.number === number);
    // the image is younger than its appliedLsn: what was deleted while it was made is not in it
    const wasBefore = number < this.#image.nextLineageNumber;
    return !survivors.hasLineage(number) && (isOfImage || wasBefore || this.#gone.has(number));
  }

  #create(record: Extract<JournalRecord, { type: 'create' }>, survivors: Survivors): void {
    const { replica, identity, lineage, folder } = record;
    if (survivors.hasLineage(lineage)) {
      // pages that a checkpoint wrote before it was interrupted hold nothing that is not replayed
      const known = this.#lineages.get(lineage);
      if (!known) this.#lineages.set(lineage, this.#openLineage(lineage, folder));
      this.#lineages.get(lineage)?.tables.apply(record);
    } else {
      this.#gone.add(lineage);
      this.#deletedFolders.add(folder);
    }
    if (survivors.deletedReplicas.has(replica)) this.#deletedIds.add(identity.replicaId);
    else {
      this.#replicas.get(replica)?.regionFile?.close();
      const tables = new ReplicaTables(replica, lineage, identity);
      this.#replicas.set(replica, this.#openReplica(tables));
    }
  }

  #unknown(number: number, damage: string | null): void {
    if (damage) return;
    throw new StorError(
      'DISK_FAILED',
      `its journal changes number ${number}, which its image does not know: the metadata is damaged; rebuild the replicas of this disk elsewhere`,
    );
  }

  #judge(damage: string | null): void {
    for (const lineage of this.#lineages.values()) {
      lineage.damage ??= damage ?? lineage.tables.damage();
    }
    for (const replica of this.#replicas.values()) {
      const lineage = this.#lineages.get(replica.tables.lineage);
      replica.damage ??= lineage ? lineage.damage : 'its lineage is missing';
      this.#deletedIds.delete(replica.tables.identity.replicaId);
    }
    for (const { tables } of this.#lineages.values()) this.#deletedFolders.delete(tables.folder);
  }

  /** Removes what interrupted creations and deletions left; never what the metadata do not explain. */
  #tidy(logger: Logger): void {
    const { files, replicas, lineages } = this.#folders;
    const ids = [...this.#replicas.values()].map(({ tables }) => tables.identity.replicaId);
    tidyFolder(files, replicas, new Set(ids), this.#deletedIds, logger);
    const folders = [...this.#lineages.values()].map(({ tables }) => tables.folder);
    tidyFolder(files, lineages, new Set(folders), this.#deletedFolders, logger);
  }

  close(): void {
    for (const { regionFile } of this.#replicas.values()) regionFile?.close();
    for (const { files } of this.#lineages.values()) closeLineageFiles(files);
  }
}

export function closeLineageFiles(files: LineageFiles | null): void {
  if (!files) return;
  for (const file of Object.values(files) as { close(): void }[]) file.close();
}

function tidyFolder(
  files: Files,
  parent: string,
  known: ReadonlySet<string>,
  deleted: ReadonlySet<string>,
  logger: Logger,
): void {
  for (const name of files.list(parent)) {
    if (known.has(name)) continue;
    const unfinished = name.endsWith(creatingSuffix) || name.endsWith(deletedSuffix);
    if (unfinished || deleted.has(name)) removeDirectoryOf(files, parent, name);
    else logger.warn({ parent, name }, 'a folder that no metadata explain is left as it is');
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
