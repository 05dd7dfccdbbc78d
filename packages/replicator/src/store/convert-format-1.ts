import path from 'node:path';
import { crc32, type Files, type Logger } from '@stor/runtime';
import {
  decodeImage1,
  MapTable,
  type ReplicaImage1,
  type StoreImage1,
} from '../core/store/format-1.ts';
import { replayJournal } from '../core/store/journal-frame.ts';
import type { JournalRecord } from '../core/store/journal-record.ts';
import type { StoreImage } from '../core/store/image.ts';
import { LineageTables } from '../core/store/lineage-tables.ts';
import { ReplicaTables, regionPagesOf } from '../core/store/replica-tables.ts';
import { layerEntriesPerPage, slotEntriesPerPage } from '../core/store/table-page.ts';
import { newHead } from './disk-snapshots.ts';
import { ImageFiles, imageNames, readWhole } from './image-files.ts';
import { IoPool } from './io-pool.ts';
import { openJournals } from './journal-files.ts';
import { creatingSuffix, deletedSuffix, removeDirectoryOf } from './replica-directory.ts';
import { TableFile } from './table-file.ts';

/** Where the replicas' own folders are made until the image says that they count. */
const nextReplicas = 'replicas.2';

interface Old {
  tables: ReplicaTables;
  map: MapTable;
  damage: string | null;
}

/**
 * Turns a disk of the first format into one of the second, in place: data and checksums stay where they
 * are. Every replica gets a lineage of its own with one layer. What is new is written beside what
 * is old; the new image makes it count; the folders are renamed after that. A crash before the image
 * begins the conversion again, one after it goes on with the names.
 */
export async function convertFormat1(
  files: Files,
  directory: string,
  logger: Logger,
): Promise<void> {
  const { imageFiles, version } = ImageFiles.open(files, directory);
  try {
    if (version === 1) await convert(files, directory, imageFiles, logger);
  } finally {
    imageFiles.close();
  }
  if (files.exists(path.join(directory, nextReplicas))) rename(files, directory);
}

/**
 * Each name is durable before the next one is changed, also what a killed process has begun: the old
 * folder must never be lost.
 */
function rename(files: Files, directory: string): void {
  const [replicas = '', lineages = '', next = ''] = ['replicas', 'lineages', nextReplicas].map(
    (name) => path.join(directory, name),
  );
  if (!files.exists(lineages)) files.rename(replicas, lineages);
  files.syncDirectory(directory);
  files.rename(next, replicas);
  files.syncDirectory(directory);
  for (const folder of files.list(lineages)) {
    for (const name of ['map', 'regions']) files.remove(path.join(lineages, folder, name));
    files.syncDirectory(path.join(lineages, folder));
  }
}

async function convert(
  files: Files,
  directory: string,
  imageFiles: ImageFiles,
  logger: Logger,
): Promise<void> {
  const image = newestImage(files, directory);
  const journals = openJournals(files, directory);
  const replicas = new Map<number, Old>();
  let replay: ReturnType<typeof replayJournal>;
  try {
    replay = replayJournal(journals.map(readWhole), image.appliedLsn, crc32);
  } finally {
    for (const file of journals) file.close();
  }
  const deleted = new Set<number>();
  const deletedIds = new Set(image.deleting);
  for (const record of replay.records) if (record.type === 'delete') deleted.add(record.replica);
  const parent = path.join(directory, 'replicas');
  for (const one of image.replicas) {
    if (deleted.has(one.number)) deletedIds.add(one.identity.replicaId);
    else replicas.set(one.number, load(files, parent, one));
  }
  let { nextReplicaNumber } = image;
  for (const record of replay.records) {
    const number = record.type === 'slots' || record.type === 'layers' ? 0 : record.replica;
    nextReplicaNumber = Math.max(nextReplicaNumber, number + 1);
    if (!deleted.has(number)) apply(replicas, number, record);
    else if (record.type === 'create1') deletedIds.add(record.identity.replicaId);
  }
  for (const old of replicas.values()) {
    old.damage ??= replay.damage ?? doubleUse(old.map);
    deletedIds.delete(old.tables.identity.replicaId);
  }
  tidy(files, parent, replicas, deletedIds);
  const converted = await writeTables(files, directory, replicas, replay.lastLsn);
  imageFiles.reserve(replicas.size);
  await imageFiles.write({
    appliedLsn: replay.lastLsn,
    cleanShutdown: image.cleanShutdown,
    bootId: image.bootId,
    mountIdentity: image.mountIdentity,
    nextReplicaNumber,
    nextLineageNumber: nextReplicaNumber,
    deleting: [],
    deletingFolders: [],
    ...converted,
  });
  logger.info({ directory, replicas: replicas.size }, 'the disk has format version 2 now');
}

function newestImage(files: Files, directory: string): StoreImage1 {
  let newest: StoreImage1 | null = null;
  for (const name of imageNames) {
    const file = files.open(path.join(directory, name));
    try {
      const image = decodeImage1(readWhole(file), crc32);
      if (image && (newest === null || image.serial > newest.serial)) newest = image;
    } finally {
      file.close();
    }
  }
  if (!newest) throw new Error('the image of the first format is gone');
  return newest;
}

function load(files: Files, parent: string, image: ReplicaImage1): Old {
  const { number, identity } = image;
  const tables = new ReplicaTables(number, number, identity);
  const map = new MapTable(number, identity.sizeBytes);
  tables.loadImage({ ...image, lineage: number });
  const own = path.join(parent, identity.replicaId);
  const opened: TableFile[] = [];
  try {
    finishCreation(files, own);
    const open = (name: string): TableFile => {
      const file = TableFile.open(files, path.join(own, name));
      opened.push(file);
      return file;
    };
    open('map').load(map, image.mapPages);
    open('regions').load(tables, image.regionPages);
    return { tables, map, damage: image.damage };
  } catch (error) {
    return { tables, map, damage: error instanceof Error ? error.message : String(error) };
  } finally {
    for (const file of opened) file.close();
  }
}

function finishCreation(files: Files, own: string): void {
  const unfinished = own + creatingSuffix;
  if (files.exists(own) || !files.exists(unfinished)) return;
  files.rename(unfinished, own);
  files.syncDirectory(path.dirname(own));
}

function apply(replicas: Map<number, Old>, number: number, record: JournalRecord): void {
  if (record.type === 'create1') {
    const tables = new ReplicaTables(number, number, record.identity);
    const map = new MapTable(number, record.identity.sizeBytes);
    replicas.set(number, { tables, map, damage: null });
    return;
  }
  const old = replicas.get(number);
  old?.map.apply(record);
  old?.tables.apply(record);
}

function doubleUse(map: MapTable): string | null {
  const slot = map.slotUsedTwice();
  return slot === null ? null : `slot ${slot} belongs to two chunks`;
}

/** Names as the metadata have them, before folders are moved as a whole. */
function tidy(
  files: Files,
  parent: string,
  replicas: ReadonlyMap<number, Old>,
  deletedIds: ReadonlySet<string>,
): void {
  const known = new Set([...replicas.values()].map(({ tables }) => tables.identity.replicaId));
  for (const id of known) finishCreation(files, path.join(parent, id));
  for (const name of files.list(parent)) {
    if (known.has(name)) continue;
    const unfinished = name.endsWith(creatingSuffix) || name.endsWith(deletedSuffix);
    if (unfinished || deletedIds.has(name)) removeDirectoryOf(files, parent, name);
  }
}

async function writeTables(
  files: Files,
  directory: string,
  replicas: ReadonlyMap<number, Old>,
  lsn: number,
): Promise<Pick<StoreImage, 'replicas' | 'lineages'>> {
  const pool = new IoPool(1);
  const next = path.join(directory, nextReplicas);
  if (files.exists(next)) {
    for (const name of files.list(next)) removeDirectoryOf(files, next, name);
  }
  files.makeDirectory(next);
  const out: Pick<StoreImage, 'replicas' | 'lineages'> = { replicas: [], lineages: [] };
  for (const { tables, map, damage } of replicas.values()) {
    const { replicaId } = tables.identity;
    const own = path.join(next, replicaId);
    files.makeDirectory(own);
    const regions = path.join(own, 'regions');
    TableFile.create(files, regions, regionPagesOf(tables.identity.sizeBytes));
    for (let page = 0; page < tables.pages.dirty.length; page++) tables.pages.touch(page);
    await write(files, regions, (file) => file.writeDirty(tables, lsn, pool));
    files.syncDirectory(own);
    tables.damage = damage;
    out.replicas.push(tables.image());
    const folder = path.join(directory, 'replicas', replicaId);
    const lineage = lineageOf(tables, map);
    if (files.exists(folder)) await writeLineage(files, folder, lineage, lsn, pool);
    const { slots, layers } = lineage;
    const slotPages = slots.pages.writtenCount();
    const layerPages = layers.pages.writtenCount();
    out.lineages.push({ number: lineage.number, folder: replicaId, slotPages, layerPages });
  }
  files.syncDirectory(next);
  files.syncDirectory(directory);
  return out;
}

/** One layer, the head, with every chunk of the map. */
function lineageOf(tables: ReplicaTables, map: MapTable): LineageTables {
  const lineage = new LineageTables(tables.number, tables.identity.replicaId);
  const head = newHead({ place: 1, parent: 0, replica: tables.number, serial: 1 });
  lineage.layers.set({ place: 1, layer: head });
  for (const [chunk, slotPlusOne] of map.slotOf.entries()) {
    if (slotPlusOne > 0) lineage.slots.set(slotPlusOne - 1, chunk, 1);
  }
  return lineage;
}

async function writeLineage(
  files: Files,
  folder: string,
  lineage: LineageTables,
  lsn: number,
  pool: IoPool,
): Promise<void> {
  const slotPages = Math.ceil((lineage.slots.end + 1) / slotEntriesPerPage);
  for (const [name, table, pages] of [
    ['slots', lineage.slots, slotPages],
    ['layers', lineage.layers, Math.ceil(64 / layerEntriesPerPage)],
  ] as const) {
    const file = path.join(folder, name);
    files.remove(file);
    TableFile.create(files, file, pages);
    await write(files, file, (opened) => opened.writeDirty(table, lsn, pool));
  }
  files.syncDirectory(folder);
}

async function write(
  files: Files,
  path: string,
  work: (file: TableFile) => Promise<void>,
): Promise<void> {
  const file = TableFile.open(files, path);
  try {
    await work(file);
  } finally {
    file.close();
  }
}
