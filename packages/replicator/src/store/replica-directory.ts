import path from 'node:path';
import type { Files, OpenFile } from '@stor/runtime';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import { TableFiles } from './table-files.ts';

export const creatingSuffix = '.creating';
export const deletedSuffix = '.deleted';

/** Makes all files of a new replica, durable, under its temporary name. */
export function makeReplicaDirectory(files: Files, parent: string, tables: ReplicaTables): void {
  const own = path.join(parent, tables.identity.replicaId + creatingSuffix);
  files.makeDirectory(own);
  for (const name of ['data', 'sums']) {
    const file = files.create(path.join(own, name));
    file.datasyncSync();
    file.close();
  }
  TableFiles.create(files, own, tables);
  files.syncDirectory(own);
  files.syncDirectory(parent);
}

/** The replica's own name, once the record of its creation is durable. */
export function publishReplicaDirectory(files: Files, parent: string, replicaId: string): void {
  const own = path.join(parent, replicaId);
  files.rename(own + creatingSuffix, own);
  files.syncDirectory(parent);
}

/** Removes a replica's folder; renamed first, so that half a folder never bears a replica's name. */
export function removeReplicaDirectory(files: Files, parent: string, name: string): void {
  let own = path.join(parent, name);
  if (!files.exists(own)) return;
  if (!name.endsWith(deletedSuffix)) {
    const renamed = own + deletedSuffix;
    if (files.exists(renamed)) removeReplicaDirectory(files, parent, name + deletedSuffix);
    files.rename(own, renamed);
    own = renamed;
  }
  for (const file of files.list(own)) files.remove(path.join(own, file));
  files.removeDirectory(own);
  files.syncDirectory(parent);
}

export function openReplicaFiles(
  files: Files,
  parent: string,
  replicaId: string,
): { data: OpenFile; sums: OpenFile } {
  const own = path.join(parent, replicaId);
  const data = files.open(path.join(own, 'data'));
  return { data, sums: files.open(path.join(own, 'sums')) };
}
