import { isAllZero, isUnit, unitBytes, u64 } from './bytes.ts';
import { recordTypes, type JournalRecord } from './journal.ts';

const pageHeaderBytes = 32;
const entriesPerPage = (unitBytes - pageHeaderBytes) / 4;

/**
 * Slot + 1 of each chunk, 0 for a chunk that has none: the pages as of the last checkpoint, then the
 * journal's records.
 */
export function readChunkMap(
  mapFile: Buffer,
  chunks: number,
  replica: number,
  records: readonly JournalRecord[],
  problems: string[],
): Uint32Array {
  const map = new Uint32Array(chunks);
  for (let page = 0; page * entriesPerPage < chunks; page += 1) {
    const copies = [0, 1].map((copy) => {
      const at = (page * 2 + copy) * unitBytes;
      return mapFile.subarray(at, at + unitBytes);
    });
    const valid = copies.filter(
      (copy) =>
        copy.length === unitBytes &&
        isUnit(copy, 'StorMapP') &&
        copy.readUInt32LE(16) === page &&
        copy.readUInt32LE(20) === replica,
    );
    // A page that was never written is zeros: all its chunks have no slot.
    if (valid.length === 0) {
      if (!copies.every(isAllZero)) problems.push(`map page ${page}: both copies are damaged`);
      continue;
    }
    valid.sort((a, b) => u64(b, 24) - u64(a, 24));
    const [newest] = valid;
    if (!newest) continue;
    const first = page * entriesPerPage;
    for (let entry = 0; entry < entriesPerPage && first + entry < chunks; entry += 1) {
      map[first + entry] = newest.readUInt32LE(pageHeaderBytes + entry * 4);
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
    const other = users.get(slot);
    if (slot !== 0 && other !== undefined) {
      problems.push(`chunks ${other} and ${chunk} have the same slot ${slot - 1}`);
    }
    users.set(slot, chunk);
  });
  return map;
}
