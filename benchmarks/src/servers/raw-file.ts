import { join } from 'node:path';
import type { OwnServer } from './block-server.ts';
import { makeSparseFile } from './sparse-file.ts';

/** The file itself, without a server: the ceiling. Its CPU time is fio's own, not a server's. */
export function openRawFile(
  dir: string,
  sizeBytes: number,
  name: string,
  ioengine: string,
): OwnServer {
  const path = join(dir, `${name}.raw`);
  makeSparseFile(path, sizeBytes);
  return {
    name,
    // by default fio drops the file from the page cache first
    target: { ioengine, filename: path, invalidate: '0' },
    pids: () => [],
    close: async () => undefined,
  };
}
