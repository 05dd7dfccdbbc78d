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

/**
 * Marks a data folder as one member's of one cluster. To open it as another would let a member vote
 * twice or mix two clusters. FOREIGN_DATA when it is another's or of a newer format; NO_SPACE and
 * DISK_FAILED when it cannot be read or written.
 */
export function claimFolder(files: Files, folder: string, clusterId: string, id: string): void {
  try {
    claim(files, folder, clusterId, id);
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

function claim(files: Files, folder: string, clusterId: string, id: string): void {
  makeDurableDirectory(files, folder);
  const file = path.join(folder, fileName);
  if (files.exists(file)) {
    checkIdentity(readTextFile(files, file), file, clusterId, id);
    return;
  }
  const text = `${JSON.stringify({ format: formatVersion, clusterId, id })}\n`;
  writeTextFileDurably(files, file, text);
}

function checkIdentity(text: string, file: string, clusterId: string, id: string): void {
  let found: { format?: unknown; clusterId?: unknown; id?: unknown };
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
}
