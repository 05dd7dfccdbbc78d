import path from 'node:path';
import type { Files } from '@stor/runtime';
import { regionPagesOf } from '../core/store/replica-tables.ts';
import type { ReplicaIdentity } from '../replica-store.ts';
import type { IoPool } from './io-pool.ts';
import { TableFile } from './table-file.ts';

export const creatingSuffix = '.creating';
export const deletedSuffix = '.deleted';

/** Makes the files of a new replica, durable, under its temporary name. */
export async function makeReplicaDirectory(
  files: Files,
  parent: string,
  identity: ReplicaIdentity,
  pool: IoPool,
): Promise<void> {
  removeDirectoryOf(files, parent, identity.replicaId + creatingSuffix);
  const own = path.join(parent, identity.replicaId + creatingSuffix);
  files.makeDirectory(own);
  const pages = regionPagesOf(identity.sizeBytes);
  await TableFile.createInPool(files, path.join(own, 'regions'), pages, pool);
  files.syncDirectory(own);
  files.syncDirectory(parent);
}

/** The folder's own name, once the record of its creation is durable. */
export function publishDirectory(files: Files, parent: string, name: string): void {
  const own = path.join(parent, name);
  files.rename(own + creatingSuffix, own);
  files.syncDirectory(parent);
}

/** The record of its creation is durable, its last rename may not be. */
export function finishCreation(files: Files, parent: string, name: string): void {
  const own = path.join(parent, name);
  if (files.exists(own) || !files.exists(own + creatingSuffix)) return;
  publishDirectory(files, parent, name);
}

/** Removes a folder; renamed first, so that half a folder never bears a name that counts. */
export function removeDirectoryOf(files: Files, parent: string, name: string): void {
  let own = path.join(parent, name);
  if (!files.exists(own)) return;
  if (!name.endsWith(deletedSuffix)) {
    const renamed = own + deletedSuffix;
    if (files.exists(renamed)) removeDirectoryOf(files, parent, name + deletedSuffix);
    files.rename(own, renamed);
    own = renamed;
  }
  for (const file of files.list(own)) files.remove(path.join(own, file));
  files.removeDirectory(own);
  files.syncDirectory(parent);
}

export function openRegions(files: Files, parent: string, replicaId: string): TableFile {
  return TableFile.open(files, path.join(parent, replicaId, 'regions'));
}
