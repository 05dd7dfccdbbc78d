import path from 'node:path';
import { type ClusterId, type DiskId, type NodeId, StorError, hasCode } from '@stor/protocol';
import {
  type Clock,
  DirectoryLockedError,
  type DirectoryLock,
  type Files,
  type Logger,
  makeDurableDirectory,
  preallocate,
} from '@stor/runtime';
import { diskFormatVersion, unitBytes } from '../core/store/format.ts';
import type { StoreImage } from '../core/store/image.ts';
import type { DiskStore, FailureRecorder } from '../replica-store.ts';
import {
  checkEmpty,
  checkIdentity,
  type DiskIdentity,
  raiseFormat,
  readIdentity,
  writeIdentity,
} from './disk-identity.ts';
import { DirectoryDiskStore } from './disk-store.ts';
import { convertFormat1 } from './convert-format-1.ts';
import { ImageFiles, imageNames } from './image-files.ts';
import { Journal } from './journal.ts';
import { journalNames, minJournalBytes, openJournals } from './journal-files.ts';
import { recover } from './recovery.ts';
import { StartReserve } from './start-reserve.ts';

export interface DiskStoreOptions {
  /** size of each of the two journal files; fixed when the disk is created @default 8 MiB */
  journalBytes?: number;
  /** room kept free for metadata and others @default max(64 MiB, 1 %), a tenth of the disk at most */
  reserveBytes?: number;
  /** reads and writes of this disk in the thread pool at a time @default 16 */
  maxPooledCalls?: number;
  /** several volumes use the event loop of the lane now: reads of this disk let them get between */
  isLaneShared?: () => boolean;
  /** slots whose checksums are kept in memory (256 B each) @default 16384 */
  sumsCacheSlots?: number;
  /** 4 MiB regions of a replica whose hot blocks are remembered (128 B each) @default 16384 */
  hotRegions?: number;
}

export interface OpenDiskStore {
  /** directory of the disk */
  path: string;
  expect: { clusterId: ClusterId; nodeId: NodeId };
  /** Makes a missing or empty directory a disk of this id; a disk that exists keeps its own id. */
  create?: { diskId: DiskId };
  files: Files;
  clock: Clock;
  logger: Logger;
  /** /proc/sys/kernel/random/boot_id */
  bootId: string;
  failures: FailureRecorder;
  options?: DiskStoreOptions;
}

export const defaultJournalBytes = 8 * 1024 * 1024;

/**
 * Opens a disk, replays its journal and makes the result durable before it returns.
 *
 * NOT_FOUND: no Stor disk there and `create` is not given. FOREIGN_DATA: another cluster's, node's
 * or a newer format's disk, or a directory with other content. IN_USE: another process holds it.
 * DISK_FAILED: it cannot be read, or a failure of the whole disk was recorded earlier (I7). NO_SPACE: its
 * file system has not even the room that opening takes.
 */
export async function openDiskStore(open: OpenDiskStore): Promise<DiskStore> {
  const reserve = new StartReserve(open.files, path.resolve(open.path));
  try {
    return await lookAndOpen(open, reserve);
  } catch (error) {
    if (!hasCode(error, 'NO_SPACE') || !reserve.release()) throw error;
    open.logger.warn({ disk: open.path }, 'the file system is full: the disk uses its reserve');
    return await lookAndOpen(open, reserve);
  }
}

async function lookAndOpen(open: OpenDiskStore, reserve: StartReserve): Promise<DiskStore> {
  try {
    lookAt(open);
    const lock = await takeLock(open.files, open.path);
    try {
      const store = await openLocked(open, lock);
      reserve.layBy();
      return store;
    } catch (error) {
      await lock.release();
      throw error;
    }
  } catch (error) {
    throw systemError(open.path, error);
  }
}

/** Refuses what is not ours before anything of it is touched. */
function lookAt(open: OpenDiskStore): void {
  const { files } = open;
  if (open.create) makeDurableDirectory(files, path.resolve(open.path));
  if (!files.exists(open.path) || (!open.create && readIdentity(files, open.path) === null)) {
    throw new StorError(
      'NOT_FOUND',
      `there is no Stor disk at ${open.path}: is its file system mounted?`,
    );
  }
  const before = readIdentity(files, open.path);
  if (before) checkIdentity(open.path, before, open.expect);
  else checkEmpty(files, open.path);
}

async function takeLock(files: Files, directory: string): Promise<DirectoryLock> {
  try {
    return await files.lock(directory);
  } catch (error) {
    if (!(error instanceof DirectoryLockedError)) throw error;
    throw new StorError(
      'IN_USE',
      `disk ${directory} is in use by process ${error.pid}: stop that agent first, or give this one another directory`,
      { cause: error, details: { pid: String(error.pid) } },
    );
  }
}

function systemError(directory: string, error: unknown): StorError {
  if (error instanceof StorError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const full = error instanceof Error && (error as NodeJS.ErrnoException).code === 'ENOSPC';
  return new StorError(
    full ? 'NO_SPACE' : 'DISK_FAILED',
    `disk ${directory} cannot be opened: ${message}`,
    { cause: error },
  );
}

async function openLocked(open: OpenDiskStore, lock: DirectoryLock): Promise<DiskStore> {
  const { files, logger } = open;
  const identity = identify(open);
  checkIdentity(open.path, identity, open.expect);
  const earlier = open.failures.failuresOf(identity.diskId).find((one) => one.replicaId === null);
  if (earlier) {
    throw new StorError(
      'DISK_FAILED',
      `disk ${open.path} (${identity.diskId}) failed earlier: ${earlier.reason}; replace it`,
    );
  }
  finishInitialisation(files, open.path, open.options?.journalBytes ?? defaultJournalBytes);
  raiseFormat(files, open.path, identity);
  await convertFormat1(files, open.path, logger);
  // what is open is closed again when the disk is refused
  const opened: { close(): void }[] = [];
  try {
    const { imageFiles, image } = ImageFiles.open(files, open.path);
    opened.push(imageFiles);
    if (!image) throw damagedImages(open.path);
    const journals = openJournals(files, open.path);
    opened.push(...journals);
    const mountIdentity = files.mountIdentity(open.path);
    const sameMemory = image.bootId === open.bootId && image.mountIdentity === mountIdentity;
    const suspect = !image.cleanShutdown && !sameMemory;
    const recovered = recover(files, open.path, image, journals, logger);
    const parts = { open, identity, lock, imageFiles, journals, mountIdentity, recovered };
    const store = new DirectoryDiskStore(parts);
    // from here on it closes them itself
    opened.splice(0, opened.length, {
      close: () => {
        store.closeFiles();
      },
    });
    await store.begin({ suspect, unclean: !image.cleanShutdown });
    return store;
  } catch (error) {
    for (const file of opened) file.close();
    throw error;
  }
}

function damagedImages(directory: string): StorError {
  return new StorError(
    'DISK_FAILED',
    `disk ${directory}: both copies of its metadata (${imageNames.join(', ')}) are damaged; rebuild its replicas elsewhere`,
  );
}

function identify(open: OpenDiskStore): DiskIdentity {
  const found = readIdentity(open.files, open.path);
  if (found) return found;
  if (!open.create) {
    throw new StorError('NOT_FOUND', `there is no Stor disk at ${open.path}`);
  }
  const identity: DiskIdentity = {
    kind: 'stor-disk',
    formatVersion: diskFormatVersion,
    ...open.expect,
    diskId: open.create.diskId,
  };
  writeIdentity(open.files, open.path, identity);
  return identity;
}

/**
 * The first image is the last thing an initialisation makes; without one nothing can have been
 * stored, so it is begun again, unless replicas say otherwise.
 */
function finishInitialisation(files: Files, directory: string, journalBytes: number): void {
  if (journalBytes < minJournalBytes || journalBytes % unitBytes !== 0) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `journalBytes must be a multiple of ${unitBytes}, at least ${minJournalBytes}`,
    );
  }
  const ready = path.join(directory, 'initialised');
  if (files.exists(ready)) return;
  const replicas = path.join(directory, 'replicas');
  const lineages = path.join(directory, 'lineages');
  if (files.exists(replicas) && files.list(replicas).length > 0) {
    throw new StorError(
      'DISK_FAILED',
      `disk ${directory} holds replicas but not the file "initialised": somebody removed files; restore them or rebuild its replicas elsewhere`,
    );
  }
  for (const name of [...journalNames, ...imageNames]) files.remove(path.join(directory, name));
  files.makeDirectory(replicas);
  files.makeDirectory(lineages);
  for (const [index, name] of journalNames.entries()) {
    const file = files.create(path.join(directory, name));
    preallocate(file, 0, journalBytes);
    file.datasyncSync();
    if (index === 0) Journal.prepare(file, 1, 1);
    file.close();
  }
  const image: Omit<StoreImage, 'serial'> = {
    appliedLsn: 0,
    cleanShutdown: true,
    bootId: '',
    mountIdentity: '',
    nextReplicaNumber: 1,
    nextLineageNumber: 1,
    lineages: [],
    replicas: [],
    deleting: [],
    deletingFolders: [],
  };
  const imageFiles = ImageFiles.create(files, directory);
  imageFiles.writeSync(image);
  imageFiles.close();
  files.syncDirectory(directory);
  files.create(ready).close();
  files.syncDirectory(directory);
}
