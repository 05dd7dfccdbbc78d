import { join } from 'node:path';
import { StorError } from '@stor/protocol';
import {
  makeDurableDirectory,
  readTextFile,
  writeTextFileDurably,
  type Files,
} from '@stor/runtime';
import { z } from 'zod';

const address = z.object({ id: z.string(), address: z.string() });

/**
 * Who a node is, in `identity.json` of its data folder. Of a node whose configuration names all
 * members only the ids are there; the rest is what a node learned when it made a cluster or joined.
 */
const identitySchema = z.object({
  formatVersion: z.literal(1),
  clusterId: z.string(),
  nodeId: z.string(),
  nodeName: z.string().optional(),
  clusterName: z.string().optional(),
  /** first: it made the cluster store and votes in it from the beginning; joined: others add it */
  origin: z.enum(['first', 'joined']).optional(),
  /** see StoreMembers.storeId */
  storeId: z.string().optional(),
  known: z.array(address).optional(),
  /** the etcd that the cluster's state was in when the node joined; what it is in now says the folder's note */
  store: z.string().optional(),
});
export type NodeFolderIdentity = z.infer<typeof identitySchema>;

/** A join that has begun: the same ids are given again after a crash, so that it is one join. */
const pendingSchema = z.object({ nodeId: z.string(), nonce: z.string() });
export type PendingJoin = z.infer<typeof pendingSchema>;

const identityFile = 'identity.json';
const pendingFile = 'join.json';
const temporary = [`${identityFile}.new`, `${pendingFile}.new`];

/** Null when the folder is new. FOREIGN_DATA when it holds something else, or a newer format. */
export function readIdentity(files: Files, folder: string): NodeFolderIdentity | null {
  const file = join(folder, identityFile);
  if (!files.exists(file)) {
    const found = files.exists(folder) ? files.list(folder) : [];
    const other = found.find((name) => name !== pendingFile && !temporary.includes(name));
    if (other === undefined) return null;
    throw new StorError(
      'FOREIGN_DATA',
      `data folder ${folder} holds files but no identity.json, so it is not Stor's: give an empty folder`,
    );
  }
  return read(files, file, identitySchema);
}

/** The folder is made when it is not there. A join that was begun is over, unless that is told later. */
export function writeIdentity(
  files: Files,
  folder: string,
  identity: NodeFolderIdentity,
  { keepsJoin = false }: { keepsJoin?: boolean } = {},
): void {
  makeDurableDirectory(files, folder);
  const text = `${JSON.stringify(identity, null, 2)}\n`;
  writeTextFileDurably(files, join(folder, identityFile), text);
  if (!keepsJoin) endJoin(files, folder);
}

/** Nothing is left to be repeated of the join that was begun here. */
export function endJoin(files: Files, folder: string): void {
  files.remove(join(folder, pendingFile));
}

/** The join that was begun here, or a new one, which is durable when this returns. */
export function pendingJoin(files: Files, folder: string, make: () => PendingJoin): PendingJoin {
  const file = join(folder, pendingFile);
  if (files.exists(file)) return read(files, file, pendingSchema);
  makeDurableDirectory(files, folder);
  const pending = make();
  writeTextFileDurably(files, file, `${JSON.stringify(pending)}\n`);
  return pending;
}

function read<T>(files: Files, file: string, schema: z.ZodType<T>): T {
  try {
    return schema.parse(JSON.parse(readTextFile(files, file)));
  } catch (error) {
    throw new StorError(
      'FOREIGN_DATA',
      `${file} cannot be read, or is of a newer version: ${(error as Error).message}`,
      { cause: error },
    );
  }
}
