import { closeSync, ftruncateSync, openSync } from 'node:fs';

/** Makes a file of holes; one that is there already keeps what it holds. */
export function makeSparseFile(path: string, sizeBytes: number): void {
  const file = openSync(path, 'a');
  ftruncateSync(file, sizeBytes);
  closeSync(file);
}
