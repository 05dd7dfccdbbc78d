import { mkdir, open, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { StorError } from '@stor/protocol';

const formatVersion = 1;
const fileName = 'identity.json';

/**
 * Marks a data folder as one member's of one cluster. To open it as another would let a member vote
 * twice or mix two clusters. FOREIGN_DATA when it is another's or of a newer format; NO_SPACE and
 * DISK_FAILED when it cannot be read or written.
 */
export async function claimFolder(folder: string, clusterId: string, id: string): Promise<void> {
  try {
    await claim(folder, clusterId, id);
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

async function claim(folder: string, clusterId: string, id: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const file = path.join(folder, fileName);
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (text !== null) {
    checkIdentity(text, file, clusterId, id);
    return;
  }
  const temporary = `${file}.new`;
  const handle = await open(temporary, 'w');
  try {
    await handle.writeFile(`${JSON.stringify({ format: formatVersion, clusterId, id })}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, file);
  await syncFolder(folder);
  await syncFolder(path.dirname(folder));
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

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
