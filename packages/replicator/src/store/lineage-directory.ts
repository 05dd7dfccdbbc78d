import path from 'node:path';
import type { Files, OpenFile } from '@stor/runtime';
import type { IoPool } from './io-pool.ts';
import { creatingSuffix, removeDirectoryOf } from './replica-directory.ts';
import { TableFile } from './table-file.ts';

/** Pages of a new slot table: room for 4064 slots (1 GiB); and of a layer table: 126 layers. */
const firstPages = { slots: 8, layers: 2 };

/** Makes all files of a new lineage, durable, under its temporary name. */
export async function makeLineageDirectory(
  files: Files,
  parent: string,
  folder: string,
  pool: IoPool,
): Promise<void> {
  removeDirectoryOf(files, parent, folder + creatingSuffix);
  const own = path.join(parent, folder + creatingSuffix);
  files.makeDirectory(own);
  for (const name of ['data', 'sums']) {
    const file = files.create(path.join(own, name));
    await pool.datasync(file).finally(() => {
      file.close();
    });
  }
  await TableFile.createInPool(files, path.join(own, 'slots'), firstPages.slots, pool);
  await TableFile.createInPool(files, path.join(own, 'layers'), firstPages.layers, pool);
  files.syncDirectory(own);
  files.syncDirectory(parent);
}

export const newLineagePages = firstPages.slots + firstPages.layers;

export interface LineageFiles {
  data: OpenFile;
  sums: OpenFile;
  slots: TableFile;
  layers: TableFile;
}

/** Opens all files, or none. */
export function openLineageFiles(files: Files, parent: string, folder: string): LineageFiles {
  const at = (name: string): string => path.join(parent, folder, name);
  const opened: { close(): void }[] = [];
  const keep = <T extends { close(): void }>(file: T): T => {
    opened.push(file);
    return file;
  };
  try {
    return {
      data: keep(files.open(at('data'))),
      sums: keep(files.open(at('sums'))),
      slots: keep(TableFile.open(files, at('slots'))),
      layers: keep(TableFile.open(files, at('layers'))),
    };
  } catch (error) {
    for (const file of opened) file.close();
    throw error;
  }
}
