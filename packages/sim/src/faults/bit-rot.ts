import type { Random } from '@stor/runtime';
import type { FaultyFiles } from '@stor/runtime/testing';

import { sectorBytes } from '../checkers/volume-history.ts';

const pageBytes = 4096;
/** Pages looked at for one that holds what a client wrote. */
const maxTries = 400;

/**
 * Changes one byte of what a client wrote, on the disk and in the page cache. `touched`: sectors that
 * will be read again, so that somebody notices. False when none was found.
 */
export function rotOneByte(
  files: FaultyFiles,
  path: string,
  touched: ReadonlySet<number>,
  random: Random,
): boolean {
  const content = files.content(path);
  const pages = Math.floor(content.sizeBytes / pageBytes);
  const page = Buffer.alloc(pageBytes);
  for (let i = 0; i < maxTries && pages > 0; i++) {
    const position = Math.floor(random.next() * pages) * pageBytes;
    content.read(page, 0, pageBytes, position);
    const sector = page.readInt32LE(4) ^ 0x5a5a5a5a;
    if (page.readUInt32LE(0) === 0 || !touched.has(sector)) continue;
    const at = Math.floor(random.next() * sectorBytes);
    content.corrupt(
      position + at,
      Uint8Array.of((page[at] ?? 0) ^ (1 << Math.floor(random.next() * 8))),
    );
    return true;
  }
  return false;
}
