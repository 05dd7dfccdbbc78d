import { isUnit, unitBytes, u64 } from './bytes.ts';
import { recordTypes, type JournalRecord } from './journal.ts';

const pageHeaderBytes = 32;
const entriesPerPage = (unitBytes - pageHeaderBytes) / 4;

/**
 * Slot + 1 of each chunk, 0 for a chunk that has none: the pages as of the last checkpoint, then the
 * journal's records.
 *
 * @param table the map's pages and how many of them were ever written; null for a replica that was
 * created after the last checkpoint, whose pages say nothing
 */
export function readChunkMap(
  table: { file: Buffer; pagesWritten: number } | null,
  chunks: number,
  replica: number,
  records: readonly JournalRecord[],
  problems: string[],
): Uint32Array {
  const map = new Uint32Array(chunks);
  if (table) {
    const found = readPages(table.file, map, replica);
    if (found < table.pagesWritten) {
      problems.push(`${table.pagesWritten - found} pages of the map are damaged in both copies`);
    }
  }
  for (const record of records) {
    if (record.replica !== replica || record.type !== recordTypes.chunks) continue;
    for (let at = 0; at < record.body.length; at += 8) {
      const chunk = record.body.readUInt32LE(at);
      if (chunk >= chunks)
        problems.push(`record ${record.lsn} maps chunk ${chunk}, beyond the end`);
      else map[chunk] = record.body.readUInt32LE(at + 4);
    }
  }
  const users = new Map<number, number>();
  map.forEach((slot, chunk) => {
    if (slot === 0) return;
    const other = users.get(slot);
    if (other !== undefined) {
      problems.push(`chunks ${other} and ${chunk} have the same slot ${slot - 1}`);
    }
    users.set(slot, chunk);
  });
  return map;
}

/** Fills the map from its pages; returns how many were found. */
function readPages(file: Buffer, map: Uint32Array, replica: number): number {
  let found = 0;
  for (let page = 0; page * entriesPerPage < map.length; page += 1) {
    const valid = [0, 1]
      .map((copy) =>
        file.subarray((page * 2 + copy) * unitBytes, (page * 2 + copy + 1) * unitBytes),
      )
      .filter(
        (copy) =>
          copy.length === unitBytes &&
          isUnit(copy, 'StorMapP') &&
          copy.readUInt32LE(16) === page &&
          copy.readUInt32LE(20) === replica,
      );
    valid.sort((a, b) => u64(b, 24) - u64(a, 24));
    const [newest] = valid;
    // Never written, or torn at its first write: then the journal has all of it.
    if (!newest) continue;
    found += 1;
    const first = page * entriesPerPage;
    for (let entry = 0; entry < entriesPerPage && first + entry < map.length; entry += 1) {
      map[first + entry] = newest.readUInt32LE(pageHeaderBytes + entry * 4);
    }
  }
  return found;
}
