import { join } from 'node:path';
import { readTextFile, writeTextFileDurably, type Files } from '@stor/runtime';
import { StorError } from '@stor/protocol';
import { storeIdentity, type StoreNote } from './core/store-choice.ts';

const storeFile = 'store.json';

/** What the data folder says of where the cluster's state is; null: nothing. FOREIGN_DATA. */
export function readStoreNote(files: Files, folder: string): StoreNote | null {
  const file = join(folder, storeFile);
  if (!files.exists(file)) return null;
  try {
    return JSON.parse(readTextFile(files, file)) as StoreNote;
  } catch (cause) {
    throw new StorError('FOREIGN_DATA', `${file} is not readable as JSON`, { cause });
  }
}

export function writeStoreNote(files: Files, folder: string, note: StoreNote): void {
  writeTextFileDurably(files, join(folder, storeFile), `${JSON.stringify(note)}\n`);
}

/** The note of a node whose cluster has left the store of `old` for another one, for good. */
export function movedNote(old: StoreNote, to: string): StoreNote {
  const left = storeIdentity(old.store);
  return { store: to, movedFrom: [...(old.movedFrom ?? []), left] };
}
