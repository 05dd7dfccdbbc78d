import path from 'node:path';
import { StorError } from '@stor/protocol';
import { crc32, type Files, type Logger, type OpenFile } from '@stor/runtime';
import type { StoreImage } from '../core/store/image.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import { replayJournal } from '../core/store/journal-frame.ts';
import { ReplicaTables } from '../core/store/replica-tables.ts';
import { readWhole } from './image-files.ts';
import { creatingSuffix, deletedSuffix, removeReplicaDirectory } from './replica-directory.ts';
import { TableFiles } from './table-files.ts';

export interface RecoveredReplica {
  tables: ReplicaTables;
  tableFiles: TableFiles | null;
  /** why its metadata cannot be trusted; null when all is well */
  damage: string | null;
}

export interface Recovered {
  replicas: RecoveredReplica[];
  lastLsn: number;
  journalGeneration: number;
  nextReplicaNumber: number;
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
  const replay = replayJournal(journals.map(readWhole), image.appliedLsn, crc32);
  if (replay.damage) {
    logger.error({ directory, damage: replay.damage }, 'the journal is damaged');
  }
  const deleted = new Set<number>();
  const deletedIds = new Set<string>(image.deleting);
  for (const record of replay.records) if (record.type === 'delete') deleted.add(record.replica);
  const found = new Map<number, RecoveredReplica>();
  for (const one of image.replicas) {
    if (deleted.has(one.number)) {
      deletedIds.add(one.identity.replicaId);
      continue;
    }
    found.set(one.number, load(files, directory, one));
  }
  let { nextReplicaNumber } = image;
  for (const record of replay.records) {
    nextReplicaNumber = Math.max(nextReplicaNumber, record.replica + 1);
    if (deleted.has(record.replica)) {
      if (record.type === 'create') deletedIds.add(record.identity.replicaId);
      continue;
    }
    applyRecord(files, directory, found, record, replay.damage);
  }
  const replicas = [...found.values()];
  for (const replica of replicas) {
    replica.damage ??= replay.damage ?? doubleUse(replica.tables);
    deletedIds.delete(replica.tables.identity.replicaId);
  }
  tidy(files, directory, deletedIds, replicas, logger);
  return {
    replicas,
    lastLsn: replay.lastLsn,
    journalGeneration: replay.generation,
    nextReplicaNumber,
  };
}

function load(
  files: Files,
  directory: string,
  image: StoreImage['replicas'][number],
): RecoveredReplica {
  const tables = new ReplicaTables(image.number, image.identity);
  tables.loadImage(image);
  let tableFiles: TableFiles | null = null;
  try {
    const own = path.join(directory, 'replicas', image.identity.replicaId);
    finishCreation(files, own);
    tableFiles = TableFiles.open(files, own);
    tableFiles.load(tables, image);
    return { tables, tableFiles, damage: image.damage };
  } catch (error) {
    return { tables, tableFiles, damage: messageOf(error) };
  }
}

function applyRecord(
  files: Files,
  directory: string,
  found: Map<number, RecoveredReplica>,
  record: JournalRecord,
  damage: string | null,
): void {
  if (record.type === 'create') {
    // pages that a checkpoint wrote before it was interrupted hold nothing that is not replayed
    const tables = new ReplicaTables(record.replica, record.identity);
    const own = path.join(directory, 'replicas', record.identity.replicaId);
    let tableFiles: TableFiles | null = null;
    let failure: string | null = null;
    try {
      finishCreation(files, own);
      tableFiles = TableFiles.open(files, own);
    } catch (error) {
      failure = messageOf(error);
    }
    found.set(record.replica, { tables, tableFiles, damage: failure });
    return;
  }
  const replica = found.get(record.replica);
  if (replica) {
    replica.tables.apply(record);
    return;
  }
  if (damage) return;
  throw new StorError(
    'DISK_FAILED',
    `disk ${directory}: its journal changes replica number ${record.replica}, which its image does not know: the metadata is damaged; rebuild the replicas of this disk elsewhere`,
  );
}

/** The record of its creation is durable, its last rename may not be. */
function finishCreation(files: Files, own: string): void {
  const unfinished = own + creatingSuffix;
  if (files.exists(own) || !files.exists(unfinished)) return;
  files.rename(unfinished, own);
  files.syncDirectory(path.dirname(own));
}

function doubleUse(tables: ReplicaTables): string | null {
  const slot = tables.slotUsedTwice();
  return slot === null ? null : `slot ${slot} belongs to two chunks`;
}

/** Removes what interrupted creations and deletions left; never what the metadata do not explain. */
function tidy(
  files: Files,
  directory: string,
  deletedIds: ReadonlySet<string>,
  replicas: readonly RecoveredReplica[],
  logger: Logger,
): void {
  const known = new Set<string>(replicas.map(({ tables }) => tables.identity.replicaId));
  const parent = path.join(directory, 'replicas');
  for (const name of files.list(parent)) {
    if (known.has(name)) continue;
    const unfinished = name.endsWith(creatingSuffix) || name.endsWith(deletedSuffix);
    if (unfinished || deletedIds.has(name)) removeReplicaDirectory(files, parent, name);
    else logger.warn({ directory, name }, 'a folder of no known replica is left as it is');
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
