import path from 'node:path';
import type { Files } from '@stor/runtime';
import { identityName } from './disk-identity.ts';
import { imageNames } from './image-files.ts';

/**
 * Takes an empty disk's own files out of its directory, so that it can be given again. Nobody may
 * have it open. Replicas are never removed: the directory then stays as it is. `initialised` goes
 * first: without it the next opening begins anew, so this may be cut off anywhere and repeated.
 */
export function removeDiskFiles(files: Files, directory: string): void {
  if (!files.exists(directory)) return;
  const replicas = path.join(directory, 'replicas');
  const hasReplicas = files.exists(replicas);
  if (hasReplicas && files.list(replicas).length > 0) return;
  files.remove(path.join(directory, 'initialised'));
  files.syncDirectory(directory);
  if (hasReplicas) files.removeDirectory(replicas);
  for (const name of ['journal.0', 'journal.1', ...imageNames]) {
    files.remove(path.join(directory, name));
  }
  files.remove(path.join(directory, identityName));
  files.syncDirectory(directory);
}
