import path from 'node:path';
import type { Files } from '@stor/runtime';
import { identityName } from './disk-identity.ts';
import { probeName } from './disk-probe.ts';
import { imageNames } from './image-files.ts';
import { journalNames } from './journal-files.ts';
import { startReserveName } from './start-reserve.ts';

/** Where replicas and their data lie. */
const folderNames = ['replicas', 'lineages'] as const;

/**
 * Takes an empty disk's own files out of its directory, so that it can be given again. Nobody may
 * have it open. Replicas and data are never removed: the directory then stays as it is. `initialised`
 * goes first: without it the next opening begins anew, so this may be cut off anywhere and repeated.
 */
export function removeDiskFiles(files: Files, directory: string): void {
  if (!files.exists(directory)) return;
  const folders = folderNames
    .map((name) => path.join(directory, name))
    .filter((folder) => files.exists(folder));
  if (folders.some((folder) => files.list(folder).length > 0)) return;
  files.remove(path.join(directory, 'initialised'));
  files.syncDirectory(directory);
  for (const folder of folders) files.removeDirectory(folder);
  const names = [...journalNames, ...imageNames, startReserveName, probeName];
  for (const name of names) files.remove(path.join(directory, name));
  // whose it was goes last for a power cut too: without it the rest would be somebody else's files
  files.syncDirectory(directory);
  files.remove(path.join(directory, identityName));
  files.syncDirectory(directory);
}
