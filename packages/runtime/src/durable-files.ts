import path from 'node:path';
import type { Files } from './files.ts';

/** The content of a small text file. ENOENT. */
export function readTextFile(files: Files, file: string): string {
  const open = files.open(file);
  try {
    const bytes = Buffer.alloc(open.size().sizeBytes);
    const got = open.readSync(bytes, 0, bytes.length, 0);
    return bytes.toString('utf8', 0, got);
  } finally {
    open.close();
  }
}

/** Writes a small file so that after a power loss either the old or the new one is there. */
export function writeTextFileDurably(files: Files, file: string, text: string): void {
  const temporary = `${file}.new`;
  // what a crash has left of an earlier try
  files.remove(temporary);
  const created = files.create(temporary);
  try {
    const bytes = Buffer.from(text);
    created.writeSync(bytes, 0, bytes.length, 0);
    created.datasyncSync();
  } finally {
    created.close();
  }
  files.rename(temporary, file);
  files.syncDirectory(path.dirname(file));
}

/** A directory above ours that we may not read, or on a file system where nothing changes. */
const notOurs: readonly unknown[] = ['EACCES', 'EPERM', 'EROFS', 'EINVAL'];

/**
 * Makes a directory and what is missing above it, all durable when it returns. Directories that are
 * there are synced too: who made them may have been killed before they were durable.
 */
export function makeDurableDirectory(files: Files, directory: string): void {
  files.makeDirectory(directory);
  for (let at = path.dirname(directory); ; at = path.dirname(at)) {
    try {
      files.syncDirectory(at);
    } catch (error) {
      if (!notOurs.includes((error as NodeJS.ErrnoException).code)) throw error;
      return;
    }
    if (at === path.dirname(at)) return;
  }
}
