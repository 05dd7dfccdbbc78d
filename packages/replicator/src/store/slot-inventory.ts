import { chunkBytes } from '@stor/protocol';
import type { OpenFile } from '@stor/runtime';
import { slotSumsBytes } from '../core/store/format.ts';
import { SlotAllocator } from '../core/store/slot-allocator.ts';
import type { SlotTable } from '../core/store/slot-table.ts';

/** Every slot below the end of either file that nobody owns may hold old bytes. */
export function slotsOf(
  table: SlotTable,
  files: { data: OpenFile; sums: OpenFile },
): SlotAllocator {
  let highWater = Math.max(
    Math.ceil(files.data.size().sizeBytes / chunkBytes),
    Math.ceil(files.sums.size().sizeBytes / slotSumsBytes),
  );
  const { words, end } = table;
  for (let slot = highWater; slot < end; slot++) if (words[slot] !== 0) highWater = slot + 1;
  const dirty: number[] = [];
  for (let slot = highWater - 1; slot >= 0; slot--) {
    if ((words[slot] ?? 0) === 0) dirty.push(slot);
  }
  return new SlotAllocator(highWater, dirty);
}

/** Stands for the data of a replica whose files are gone; it has failed, so nobody calls this. */
const missingFile: OpenFile = {
  path: '',
  readSync: missing,
  writeSync: missing,
  read: (_target, _start, _length, _position, done) => {
    done(new Error('the file is missing'), 0);
  },
  write: (_bytes, _start, _length, _position, done) => {
    done(new Error('the file is missing'));
  },
  datasyncSync: missing,
  datasync: (done) => {
    done(new Error('the file is missing'));
  },
  size: () => ({ sizeBytes: 0, allocatedBytes: 0 }),
  truncate: missing,
  close() {},
};
export const missingFiles = { data: missingFile, sums: missingFile };

function missing(): never {
  throw new Error('the file is missing');
}
