import path from 'node:path';
import { StorError } from '@stor/protocol';
import {
  makeDurableDirectory,
  readTextFile,
  writeTextFileDurably,
  type Files,
} from '@stor/runtime';

const formatVersion = 1;
const fileName = 'identity.json';

export interface StoreIdentity {
  clusterId: string;
  id: string;
  /** see CallerIdentity */
  storeId: string;
}

/**
 * Marks a data folder as one member's of one store of one cluster; returns the store's id. To open it
 * as another would let a member vote twice or mix two clusters. `storeId` undefined: whatever the
 * folder is of. FOREIGN_DATA when it is another's or of a newer format; NO_SPACE and DISK_FAILED when
 * it cannot be read or written.
 */
export function claimFolder(
  files: Files,
  folder: string,
  identity: Omit<StoreIdentity, 'storeId'> & { storeId?: string | undefined },
): string {
  try {
    return claim(files, folder, identity);
  } catch (error) {
    if (error instanceof StorError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new StorError(
      code === 'ENOSPC' ? 'NO_SPACE' : 'DISK_FAILED',
      `the folder of the cluster store cannot be used: ${message}`,
      { cause: error },
    );
  }
}

function claim(
  files: Files,
  folder: string,
  identity: Omit<StoreIdentity, 'storeId'> & { storeId?: string | undefined },
): string {
  makeDurableDirectory(files, folder);
  const file = path.join(folder, fileName);
  if (files.exists(file)) return checkIdentity(readTextFile(files, file), file, identity);
  const { clusterId, id, storeId = '' } = identity;
  const named = storeId === '' ? {} : { storeId };
  const text = `${JSON.stringify({ format: formatVersion, clusterId, id, ...named })}\n`;
  writeTextFileDurably(files, file, text);
  return storeId;
}

function checkIdentity(
  text: string,
  file: string,
  { clusterId, id, storeId }: { clusterId: string; id: string; storeId?: string | undefined },
): string {
  let found: { format?: unknown; clusterId?: unknown; id?: unknown; storeId?: unknown };
  try {
    found = JSON.parse(text) as typeof found;
  } catch (cause) {
    throw new StorError('FOREIGN_DATA', `${file} is not readable as JSON`, { cause });
  }
  if (found.format !== formatVersion) {
    throw new StorError(
      'FOREIGN_DATA',
      `${file} has format ${String(found.format)}, this program knows ${formatVersion}: upgrade it`,
    );
  }
  if (found.clusterId !== clusterId || found.id !== id) {
    throw new StorError(
      'FOREIGN_DATA',
      `${file} belongs to member ${String(found.id)} of cluster ${String(found.clusterId)}, ` +
        `not to ${id} of ${clusterId}`,
    );
  }
  const foundStore = typeof found.storeId === 'string' ? found.storeId : '';
  if (storeId !== undefined && foundStore !== storeId) {
    throw new StorError(
      'FOREIGN_DATA',
      `${file} belongs to store ${foundStore || '(the first one)'} of the cluster, not to ${storeId || 'the first one'}`,
    );
  }
  return foundStore;
}
