import path from 'node:path';
import { StorError } from '@stor/protocol';
import type { Files, OpenFile } from '@stor/runtime';
import { unitBytes } from '../core/store/format.ts';
import { openBoth } from './image-files.ts';

export const journalNames = ['journal.0', 'journal.1'] as const;
/** Two frames of one record must fit, with room for the header. */
export const minJournalBytes = 16 * unitBytes;

/**
 * Both were made of one size and never change it; a shorter one has lost records. A killed process may
 * have left its last frame in the page cache only: tables must not be written from what a power cut
 * can still take away.
 */
export function openJournals(files: Files, directory: string): [OpenFile, OpenFile] {
  const journals = openBoth(
    files,
    journalNames.map((name) => path.join(directory, name)),
  );
  const sizes = journals.map((file) => file.size().sizeBytes);
  const [size = 0] = sizes;
  if (size >= minJournalBytes && size % unitBytes === 0 && sizes[1] === size) {
    for (const file of journals) file.datasyncSync();
    return journals;
  }
  for (const file of journals) file.close();
  throw new StorError(
    'DISK_FAILED',
    `disk ${directory}: its journal files have ${sizes.join(' and ')} bytes, so they were cut short; rebuild its replicas elsewhere`,
  );
}
